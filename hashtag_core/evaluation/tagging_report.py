"""The report of a tagging run: one HTML page, and ten lines of Markdown for a chat, from one typed record.

The record is plain: whoever tags fills it in (`of_run` does it from run records as `_state/runs/` holds them). What is left empty is
left out of the page.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from hashtag_core.evaluation.drift import describe_psi
from hashtag_core.evaluation.pages import Section, page_section, page_table, render, shown_sections
from hashtag_core.evaluation.report_charts import bars, lines

SHOWN_TAGS = 20
SHOWN_ROWS = 20
SHOWN_IN_A_LINE = 5
RUNS_SHOWN = 30
MANY_REJECTED = 0.01
"""Share of rejected rows from which the report says so at its head."""
SLOWER = 0.7
"""Share of the last run's rate below which the report says so at its head."""


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class RejectedExample(_Row):
    """A row that is no post."""

    part: str
    reason: str
    row: int | None = None
    post_id: str | None = None


class UnsurePost(_Row):
    """A post whose best score is low."""

    post_id: str
    hashtags: list[str]
    score: float
    caption: str | None = None
    part: str = ""


class SlowPart(_Row):
    """A part and the time that it took."""

    part: str
    posts: int
    seconds: float


class EarlierRun(_Row):
    """A run to compare with."""

    run: str
    started: str
    model_version: str
    posts: int
    rejected: int
    posts_per_second: float
    psi: float | None = None
    tags: dict[str, int] = {}


class TaggingRecord(_Row):
    """All that the report tells. `earlier`: finished runs of the same model name on the same archive, the newest first."""

    run: str
    status: str
    started: str
    archive: str
    model_name: str
    model_version: str
    posts: int
    tagged: int
    rejected: int
    parts: int
    skipped_parts: int = 0
    seconds: float
    posts_per_second: float
    out: str = ""
    reason: str | None = None
    """Why a run that is not done ended."""
    statuses: dict[str, int] = {}
    images_not_fetched: int = 0
    tags: dict[str, int] = {}
    first_scores: dict[str, float] = {}
    """Quantiles (`p05`, ...) of the best score of a post."""
    psi: float | None = None
    """Population stability index against the newest of `earlier`."""
    drift_warning: float = 0.25
    rejected_reasons: dict[str, int] = {}
    rejected_examples: list[RejectedExample] = []
    unsure: list[UnsurePost] = []
    slowest: list[SlowPart] = []
    earlier: list[EarlierRun] = Field(default_factory=list)

    @classmethod
    def of_run(cls, record: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]] = (), **more: Any) -> Self:
        """From a run record and those before it, the newest first; `more` are fields that a run record does not have."""
        settings = record["settings"]
        drift = record.get("drift") or {}
        before = [
            {**item, "model_version": item["settings"]["model_version"], "psi": (item.get("drift") or {}).get("psi")}
            for item in earlier
        ]
        values = {
            **{name: value for name, value in record.items() if name not in ("settings", "drift")},
            **{name: settings[name] for name in ("archive", "model_name", "model_version")},
            "psi": drift.get("psi"),
            "earlier": before,
            **more,
        }
        return cls.model_validate(values)

    def alarms(self) -> list[str]:
        """What someone should look at, in a sentence each."""
        found = []
        if self.status != "done":
            found.append(f"the run is {self.status}, not done" + (f": {self.reason}" if self.reason else ""))
        if self.posts and self.rejected / self.posts >= MANY_REJECTED:
            found.append(f"{_share(self.rejected, self.posts)} of the rows were rejected ({self.rejected:,})")
        if self.psi is not None and self.psi > self.drift_warning:
            found.append(
                f"the tags differ from those of the last run: PSI {self.psi:.2f}, above {self.drift_warning:g}"
            )
        if self.images_not_fetched:
            found.append(f"{self.images_not_fetched:,} pictures named by image_uri could not be had")
        if self.earlier and self.posts_per_second < SLOWER * self.earlier[0].posts_per_second:
            found.append(
                f"slower than the last run: {self.posts_per_second:.1f} posts/s, then {self.earlier[0].posts_per_second:.1f}"
            )
        return found

    def new_tags(self) -> dict[str, int]:
        """Tags that the last run did not give, the most frequent first; none without a last run."""
        return _others(self.tags, self.earlier[0].tags) if self.earlier and self.earlier[0].tags else {}

    def vanished_tags(self) -> dict[str, int]:
        """Tags that the last run gave and this one does not, by how often it did."""
        return _others(self.earlier[0].tags, self.tags) if self.earlier and self.tags else {}


def tagging_markdown(record: TaggingRecord) -> str:
    """At most ten lines for a chat: what was done, what is wrong, what changed."""
    head = "ok" if not record.alarms() else "look at it"
    lines_ = [f"**Tagging {_code(record.run)}: {record.status}, {head}**"]
    lines_.append(
        f"- {record.tagged:,} of {record.posts:,} posts tagged, {record.rejected:,} rejected, {record.parts:,} parts "
        f"({record.skipped_parts:,} were done before)"
    )
    lines_.append(
        f"- {_duration(record.seconds)}, {record.posts_per_second:.1f} posts/s; model {_code(record.model_name)} version "
        f"{_code(record.model_version)}"
    )
    other = {name: count for name, count in record.statuses.items() if name != "ok"}
    if other:
        lines_.append("- not whole: " + ", ".join(f"{count:,} {_code(name)}" for name, count in other.items()))
    if record.tags:
        lines_.append("- most given: " + _some(record.tags))
    if record.psi is not None:
        lines_.append(f"- drift against the last run: PSI {record.psi:.3f} ({describe_psi(record.psi)})")
    new, gone = record.new_tags(), record.vanished_tags()
    if new or gone:
        lines_.append(f"- new: {_some(new) or 'none'}; vanished: {_some(gone) or 'none'}")
    alarms = record.alarms()
    room = 10 - len(lines_)
    if len(alarms) > room:
        alarms = [*alarms[: room - 1], f"and {len(alarms) - room + 1} more"]
    return "\n".join([*lines_, *(f"- ⚠ {_plain(alarm)}" for alarm in alarms)]) + "\n"


def tagging_page(record: TaggingRecord) -> str:
    """The page."""
    before = record.earlier[0] if record.earlier else None
    facts = [
        f"run {record.run}, started {record.started}, {_duration(record.seconds)}",
        f"model {record.model_name} version {record.model_version}; archive {record.archive}",
        f"compared with run {before.run} of {before.started}" if before else "no earlier run to compare with",
    ]
    sections = [
        _volumes(record),
        _statuses(record),
        _rejected(record),
        _tags(record),
        _unsure(record),
        _slowest(record),
    ]
    title = f"Tagging run: {record.tagged:,} of {record.posts:,} posts, {record.status}"
    return render("tagging.html", title=title, facts=facts, alarms=record.alarms(), sections=shown_sections(sections))


def _volumes(record: TaggingRecord) -> Section:
    rows = [
        [
            record.run,
            record.model_version,
            f"{record.posts:,}",
            f"{record.rejected:,}",
            f"{record.posts_per_second:.1f}",
            "" if record.psi is None else f"{record.psi:.3f}",
        ]
    ]
    runs = record.earlier[: RUNS_SHOWN - 1]
    rows += [
        [
            item.run,
            item.model_version,
            f"{item.posts:,}",
            f"{item.rejected:,}",
            f"{item.posts_per_second:.1f}",
            "" if item.psi is None else f"{item.psi:.3f}",
        ]
        for item in runs
    ]
    charts = []
    if runs:
        order = list(reversed(runs))
        charts = [
            lines(
                [item.posts for item in order] + [record.posts],
                "posts",
                "Posts of the last runs, this one last",
                "posts",
            ),
            lines(
                [item.posts_per_second for item in order] + [record.posts_per_second],
                "rates",
                "Rate of the last runs, this one last",
                "posts a second",
            ),
        ]
    header = ["run", "model version", "posts", "rejected", "posts/s", "PSI to the run before"]
    return page_section("volumes", "Volumes and rates", [page_table(header, rows)], charts=charts)


def _statuses(record: TaggingRecord) -> Section:
    total = sum(record.statuses.values())
    rows = [[name, f"{count:,}", _share(count, total)] for name, count in record.statuses.items()]
    scores = [[f"{int(name[1:])} % of the posts", f"{value:.3f}"] for name, value in record.first_scores.items()]
    tables = [page_table(["status", "posts", "share"], rows)]
    tables.append(page_table(["best score of a post, up to", "score"], scores))
    return page_section("statuses", "Statuses and scores", tables)


def _rejected(record: TaggingRecord) -> Section:
    reasons = [[reason, f"{count:,}"] for reason, count in record.rejected_reasons.items()][:SHOWN_ROWS]
    rows = [
        [item.part, "" if item.row is None else f"{item.row:,}", item.post_id or "", item.reason]
        for item in record.rejected_examples[:SHOWN_ROWS]
    ]
    tables = [page_table(["reason", "rows"], reasons)]
    tables.append(page_table(["part", "row", "post", "reason"], rows, "Examples"))
    return page_section("rejected", "Rejected rows", tables)


def _tags(record: TaggingRecord) -> Section:
    total = sum(record.tags.values())
    before = record.earlier[0].tags if record.earlier else {}
    then = sum(before.values())
    most = dict(sorted(record.tags.items(), key=lambda item: (-item[1], item[0]))[:SHOWN_TAGS])
    header = ["tag", "posts", "share of all tags", *(["share in the last run"] if before else [])]
    rows = [
        [tag, f"{count:,}", _share(count, total), *([_share(before.get(tag, 0), then)] if before else [])]
        for tag, count in most.items()
    ]
    charts = (
        [bars({tag: float(count) for tag, count in most.items()}, "tags", "The tags that were given most", "posts")]
        if most
        else []
    )
    tables = [page_table(header, rows, "Most given", folded=True)]
    for name, found in (("New: not given by the last run", record.new_tags()), ("Vanished", record.vanished_tags())):
        shown = [[tag, f"{count:,}"] for tag, count in found.items()][:SHOWN_ROWS]
        tables.append(page_table(["tag", "posts"], shown, f"{name} ({len(found):,} tags)"))
    drift = (
        "" if record.psi is None else f"Drift against the last run: PSI {record.psi:.3f} ({describe_psi(record.psi)})."
    )
    return page_section("tags", "Tags and drift", tables, drift, charts)


def _unsure(record: TaggingRecord) -> Section:
    rows = [
        [item.post_id, f"{item.score:.3f}", " ".join(item.hashtags[:SHOWN_IN_A_LINE]), item.caption or "", item.part]
        for item in record.unsure[:SHOWN_ROWS]
    ]
    table = page_table(["post", "best score", "tags", "caption", "part"], rows)
    return page_section("unsure", "Posts of low confidence", [table], "Those whose best tag has the lowest score.")


def _slowest(record: TaggingRecord) -> Section:
    rows = [
        [item.part, f"{item.posts:,}", f"{item.seconds:.1f}", f"{item.posts / max(item.seconds, 1e-9):.1f}"]
        for item in record.slowest[:SHOWN_ROWS]
    ]
    return page_section("slowest", "Slowest parts", [page_table(["part", "posts", "seconds", "posts/s"], rows)])


def _others(these: Mapping[str, int], those: Mapping[str, int]) -> dict[str, int]:
    found = {tag: count for tag, count in these.items() if count and not those.get(tag)}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def _some(tags: Mapping[str, int]) -> str:
    most = sorted(tags.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{_code(tag)} {count:,}" for tag, count in most[:SHOWN_IN_A_LINE])
    return shown + (f" and {len(most) - SHOWN_IN_A_LINE:,} more" if len(most) > SHOWN_IN_A_LINE else "")


def _code(text: str) -> str:
    """Text in backticks: no mention, link or markup of a chat comes of a tag that a stranger wrote."""
    return f"`{_plain(text)}`"


def _plain(text: str) -> str:
    return " ".join(text.replace("`", "'").split())[:200]


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.0f} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min" if whole >= 3600 else f"{whole // 60} min {whole % 60} s"
