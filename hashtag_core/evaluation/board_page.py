"""Every system on the same posts, as one page: Markdown, and HTML made of it.

The input is `report.json` as `distributed.leaderboard` writes it: facts of the data and `entries`, one a system, each with
`status` `done`, `failed` or `not_applicable`. No post, no user and no hashtag stands in it, figures alone. What the
articles report on data of their own is in `published.toml`.
"""

import base64
import html
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import cast

from markdown_it import MarkdownIt
from markupsafe import Markup
from rich.table import Table

from hashtag_core.evaluation.board_record import BoardEntry, BoardReport, ComparedPair, PublishedTable
from hashtag_core.evaluation.board_sections import (
    calibration_section,
    done_entries,
    number,
    seeds_section,
    table,
    trials_section,
)
from hashtag_core.evaluation.gallery import Gallery
from hashtag_core.evaluation.metrics import PROTOCOLS, Protocol
from hashtag_core.evaluation.pages import render
from hashtag_core.evaluation.report import PROTOCOL_TEXT, main_k
from hashtag_core.evaluation.report_record import ConfusedPair, DifferenceRecord

METRICS = {"f1": "F1", "precision": "precision", "recall": "recall", "hit_rate": "hit rate"}
"""What is shown over K, the first of them for every protocol in the open; the names it goes by."""
FLOORS = ("popularity", "linear")
"""Entries that every other one is compared with."""
NEAR_LINEAR = 0.03
"""How far below `linear` a neural family may stay without a reason being asked for."""


def learning_curves(report: BoardReport) -> dict[str, list[BoardEntry]]:
    """The systems that were taught by shares of the train posts too: name -> its points by rising share, all posts last."""
    curves: dict[str, list[BoardEntry]] = {}
    for whole in done_entries(report):
        points = [
            entry for entry in report["entries"] if entry["status"] == "done" and entry["curve_of"] == whole["name"]
        ]
        if points:
            curves[whole["name"]] = [*sorted(points, key=lambda entry: float(entry["train_share"])), whole]
    return curves


def published_figures() -> list[PublishedTable]:
    """The articles' own figures: data sets, each with `name`, `article`, `k` and `systems`."""
    text = files("hashtag_core.evaluation").joinpath("published.toml").read_text(encoding="utf-8")
    return list(tomllib.loads(text)["data"])


def side_by_side_markdown(report: BoardReport, figures: Iterable[str]) -> str:
    """The page; `figures` are the names of the SVG files that lie beside it."""
    here = set(figures)

    def picture(name: str, text: str) -> str:
        return f"![{text}]({name})\n" if name in here else ""

    k = main_k(report["ks"])
    parts = [
        f"# {html.escape(report['name'])}: every system on the same posts\n",
        _facts(report),
        f"\n## At K = {k}\n",
        _overview(report),
        picture("systems.svg", f"F1@{k} of every system with its interval"),
        f"\n## Against the floors (F1@{k}, protocol headline, paired)\n",
        _against_floors(report),
        f"\n## {_compared(report)} against every other (F1, protocol headline, paired, Holm's correction)\n",
        _against_all(report),
        seeds_section(report),
        trials_section(report),
        f"\n## Over K = {min(report['ks'])} .. {max(report['ks'])}\n",
        picture("curves.svg", "precision, recall, F1 and hit rate over K"),
        _over_k(report),
        "\n## Kinds of posts and of tags (protocol headline)\n",
        picture("slices.svg", f"F1@{k} by kind of post"),
        _slices(report),
        _bands(report),
        calibration_section(report),
        "\n## What it costs\n",
        _cost(report),
        picture("cost.svg", f"F1@{k} over the seconds of training"),
        picture("learning.svg", "loss and validation figure over the epochs"),
        _shares(report),
        picture("shares.svg", f"F1@{k} over the number of train posts"),
        _claims(report),
        _left_out(report),
        "\n## What the articles report, on other data\n",
        "Each on its own data, by its own code: **never comparable** with the figures above, nor across data sets.\n",
        _published(),
        "\n## How to read this\n",
        *[f"- protocol `{name}`: {text}" for name, text in PROTOCOL_TEXT.items()],
        "- F1 is the harmonic mean of mean precision and mean recall; an empty place in a list is a miss",
        f"- intervals: 95 %, bootstrap over users, {report['bootstrap_samples']} draws; differences on the same draws",
        "- a system that is not in *Over seeds* is trained once (training.seed): what another seed would change is in no interval",
        f"- made by `{report['command']}`",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def side_by_side_table(report: BoardReport) -> Table:
    """The heart of it for the terminal."""
    k = main_k(report["ks"])
    table = Table(title=f"{report['name']}: {report['split']} split, protocol headline", title_justify="left")
    table.add_column("system")
    for name in (f"F1@{k}", "95 % interval", *[f"less {floor}" for floor in FLOORS], "parameters", "training, s"):
        table.add_column(name, justify="right")
    for entry in done_entries(report):
        bounds = entry["intervals"].get("headline", {}).get(f"f1_at_{k}")
        gains = [entry["differences"].get(floor) for floor in FLOORS]
        table.add_row(
            entry["name"],
            number(entry["metrics"]["headline"][f"f1_at_{k}"]),
            f"{bounds[0]:.3f}–{bounds[1]:.3f}" if bounds else "",
            *[f"{gain['value']:+.3f}" if gain else "" for gain in gains],
            f"{entry['parameters']:,}",
            f"{entry['train_seconds']:.0f}",
        )
    return table


def side_by_side_html(
    markdown: str,
    title: str,
    figures: Mapping[str, str],
    gallery: Gallery | None = None,
    confused: Sequence[tuple[str, Sequence[ConfusedPair]]] = (),
) -> str:
    """The page as one HTML file; `figures` are SVG texts by file name, set into it.

    `gallery` and `confused` (system, its pairs `true`, `given`, `posts`, `lift`) show posts and hashtags: for a page that
    stays in the house.
    """
    body = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)

    def inlined(match: re.Match[str]) -> str:
        svg = figures.get(match[1])
        data = base64.b64encode(svg.encode()).decode() if svg is not None else ""
        return f'src="data:image/svg+xml;base64,{data}"' if data else match[0]

    body = re.sub(r'src="([^":]+\.svg)"', inlined, body)
    region = '<div class="wide" tabindex="0" role="region" aria-label="table {}"><table>'
    parts = body.split("<table>")
    body = parts[0] + "".join(region.format(index) + part for index, part in enumerate(parts[1:], 1))
    body = body.replace("</table>", "</table></div>")
    shown = gallery and {"summary": gallery.summary(), "data": gallery.data()}
    whole = Markup(body)  # noqa: S704  ours, from Markdown
    return render("board.html", title=title, body=whole, gallery=shown, confused=confused)


def _facts(report: BoardReport) -> str:
    data = report["data"]
    posts = ", ".join(f"{count} {split}" for split, count in data["posts"].items())
    done = done_entries(report)
    lines = [
        f"- {posts} posts; vocabulary of {data['vocabulary']} hashtags; {data['users']} users in the {report['split']} split",
        f"- split `{data['split']}` (seed {data['seed']}); hashtags in captions: `{data['captions']}`; data {report['dataset_hash'][:12]}",
        f"- {len(done)} systems trained and judged on the {report['split']} split, each from its recipe for two CPU cores",
        *[f"- {note}" for note in report["notes"]],
    ]
    return "\n".join(lines) + "\n"


def _overview(report: BoardReport) -> str:
    k = main_k(report["ks"])
    columns = [f"precision_at_{k}", f"recall_at_{k}", f"hit_rate_at_{k}", f"ndcg_at_{k}", f"f1_at_{k}_user_macro"]
    header = ["system", f"F1@{k}", f"P@{k}", f"R@{k}", f"hit@{k}", f"nDCG@{k}", "user-macro F1"]
    header += [f"papers F1@{k}", f"floor F1@{k}", "K of validation", "F1 there", "coverage"]
    rows = []
    for entry in done_entries(report):
        figures = entry["metrics"]["headline"]
        rows.append(
            [
                entry["name"],
                _with_interval(entry, "headline", f"f1_at_{k}"),
                *[number(figures[name]) for name in columns],
                *[_with_interval(entry, protocol, f"f1_at_{k}") for protocol in PROTOCOLS if protocol != "headline"],
                str(entry["k"]),
                number(figures[f"f1_at_{entry['k']}"]),
                number(figures["coverage"]),
            ]
        )
    most = report.get("ceiling", {})
    if most:
        bold = [f"**{number(most[f'{name}_at_{k}'])}**" for name in ("f1", "precision", "recall")]
        rows.append(["*the most that the vocabulary allows*", *bold, *[""] * (len(header) - 4)])
    description = "Protocol headline where no other is named; K of validation: where F1 is best there."
    if most:
        description += " The last row is no system: all true tags that are in the vocabulary, first."
    return table(header, rows) + f"\n{description}\n"


def _against_floors(report: BoardReport) -> str:
    header = ["system", *[f"less {name}" for name in FLOORS], *[f"p ({name})" for name in FLOORS]]
    rows, behind = [], []
    for entry in done_entries(report):
        found = [entry["differences"].get(name) for name in FLOORS]
        rows.append(
            [entry["name"], *map(_difference, found), *[f"{item['p_value']:.3f}" if item else "" for item in found]]
        )
        if entry["kind"] == "neural" and found[-1] and found[-1]["value"] < -NEAR_LINEAR:
            behind.append(f"`{entry['name']}` ({found[-1]['value']:+.3f})")
    listed = ", ".join(behind) if behind else "none"
    return table(header, rows) + f"\nNeural systems more than {NEAR_LINEAR} below `linear`: {listed}.\n"


def _compared(report: BoardReport) -> str:
    """How the heading names the system that the others are compared with."""
    control = _control(report)
    return f"The control, `{control}`," if control else "The first"


def _control(report: BoardReport) -> str | None:
    control = report.get("control")
    return control if any(entry["name"] == control for entry in done_entries(report)) else None


def _against_all(report: BoardReport) -> str:
    """The control, or else the first system, less every other one, at each K that all pairs were compared at; any other two are in
    report.json."""
    done = [entry["name"] for entry in done_entries(report)]
    found = {(row["first"], row["second"], row["k"]): row for row in report.get("comparisons", ())}
    if len(done) < 2 or not found:
        return "There is no other one.\n"
    ks = sorted({k for _, _, k in found})
    control = _control(report)
    ours = control or done[0]
    others = [name for name in done if name != ours]
    rows = [[name, *[_corrected(_less(found, ours, name, k)) for k in ks]] for name in others]
    asked = (
        f"the {len(rows)} comparisons of this table at that K (Holm 1979, as Demšar 2006 has it for a control that was named beforehand)"
        if control
        else f"all {len(done) * (len(done) - 1) // 2} pairs of systems at that K (Holm 1979)"
    )
    description = (
        f"`{ours}` less each, and how many times its F1 it has; p is corrected for {asked}. "
        "Any two systems, corrected for all pairs: `comparisons` in `report.json`."
    )
    return table(["system", *[f"K = {k}" for k in ks]], rows) + f"\n{description}\n"


def _less(found: Mapping[tuple[str, str, int], ComparedPair], one: str, other: str, k: int) -> ComparedPair | None:
    """`one` less `other`, whichever of them the report has first."""
    row = found.get((other, one, k))
    if row is None:
        return found.get((one, other, k))
    turned = (row["second_value"], row["first_value"], -row["value"], -row["high"], -row["low"])
    names = ("first_value", "second_value", "value", "low", "high")
    return cast(ComparedPair, {**row, "first": one, "second": other, **dict(zip(names, turned, strict=True))})


def _corrected(row: ComparedPair | None) -> str:
    if not row:
        return ""
    times = f", {row['first_value'] / row['second_value']:.2f} x" if row.get("second_value") else ""
    return f"{_difference(row)}<br><sub>p {row.get('p_holm_control', row['p_holm']):.3f}{times}</sub>"


def _over_k(report: BoardReport) -> str:
    parts = []
    for protocol in PROTOCOLS:
        for metric, label in METRICS.items():
            rows = [
                [entry["name"], *[_with_interval(entry, protocol, f"{metric}_at_{k}") for k in report["ks"]]]
                for entry in done_entries(report)
            ]
            cells = table([label, *[f"K = {k}" for k in report["ks"]]], rows)
            if (protocol, metric) == ("headline", "f1"):
                parts.append(f"F1, protocol headline:\n\n{cells}")
            else:
                parts.append(f"<details><summary>{label}, protocol {protocol}</summary>\n\n{cells}\n</details>\n")
    return "\n".join(parts)


def _slices(report: BoardReport) -> str:
    key = f"f1_at_{main_k(report['ks'])}"
    done = done_entries(report)
    names = list(dict.fromkeys(name for entry in done for name in entry["slices"]))
    posts = {name: max(int(entry["slices"].get(name, {}).get("posts", 0)) for entry in done) for name in names}
    header = [f"F1@{main_k(report['ks'])}", *[f"{name}<br>({posts[name]})" for name in names]]
    rows = [
        [entry["name"], *[number(entry["slices"][name][key]) if name in entry["slices"] else "" for name in names]]
        for entry in done
    ]
    return table(header, rows)


def _bands(report: BoardReport) -> str:
    key = f"recall_at_{main_k(report['ks'])}"
    done = done_entries(report)
    bands = done[0]["tags"] if done else {}
    if not bands:
        return ""
    header = [f"R@{main_k(report['ks'])} of uses"]
    header += [f"{name}<br>({band['tags']:.0f} tags, {band['uses']:.0f} uses)" for name, band in bands.items()]
    return table(header, [[entry["name"], *[number(entry["tags"][name][key]) for name in bands]] for entry in done])


def _cost(report: BoardReport) -> str:
    header = ["system", "parameters", "epochs", "best epoch", "training, s", "posts/s ranked", "model, MB", "history"]
    header += ["reads here", "recipe"]
    rows = []
    for entry in done_entries(report):
        epochs = [str(entry[name]) if entry[name] else "fitted once" for name in ("epochs", "best_epoch")]
        speed, size = entry.get("posts_per_second"), entry.get("megabytes")
        costs = [f"{entry['train_seconds']:.0f}", f"{speed:.0f}" if speed else "", f"{size:.1f}" if size else ""]
        costs.append(str(entry.get("history_posts") or ""))
        rows.append(
            [entry["name"], f"{entry['parameters']:,}", *epochs, *costs, ", ".join(entry["reads"]), entry["recipe"]]
        )
    return (
        table(header, rows)
        + "\nTraining includes the start of the workers; encoding, done once for all, is in neither. Ranking is of the test posts"
        " from cached features, on the machine that made this report; history: posts of the user that are read, at most.\n"
    )


def _shares(report: BoardReport) -> str:
    curves = learning_curves(report)
    if not curves:
        return ""
    key = f"f1_at_{main_k(report['ks'])}"
    shares = sorted({entry["train_share"] for points in curves.values() for entry in points})
    rows = []
    for name, points in curves.items():
        by_share = {entry["train_share"]: _with_interval(entry, "headline", key) for entry in points}
        rows.append([name, *[by_share.get(share, "") for share in shares]])
    header = [f"F1@{main_k(report['ks'])}", *[f"{share:.0%} of the train posts" for share in shares]]
    return "\n## What more posts would bring\n\n" + table(header, rows)


def _claims(report: BoardReport) -> str:
    if not report["pairs"]:
        return ""
    header = ["claim", "first less second", "on posts", "figure", "difference", "p"]
    rows = []
    for pair in report["pairs"]:
        where = pair["slice"] + (f" less: {pair['against']}" if pair["against"] else "")
        found = pair.get("difference")
        outcome = [_difference(found), f"{found['p_value']:.3f}"] if found else [pair["missing"], ""]
        asked = [f"{where} ({pair['posts']})" if found else where, f"{pair['metric']}, {pair['protocol']}"]
        rows.append([pair["claim"], f"{pair['first']} less {pair['second']}", *asked, *outcome])
    description = "As they come out, whichever way; an interval that holds 0 decides nothing.\n\n"
    return "\n## Claims of the articles, on this data\n\n" + description + table(header, rows)


def _left_out(report: BoardReport) -> str:
    lines = []
    for entry in report["entries"]:
        if entry["status"] == "not_applicable":
            lines.append(f"- `{entry['name']}`: not applicable: {html.escape(entry['reason'])}")
        elif entry["status"] == "failed":
            lines.append(f"- `{entry['name']}`: **failed**: {html.escape(entry['reason'])}")
    return "\n## Not in the tables\n\n" + "\n".join(lines) + "\n" if lines else ""


def _published() -> str:
    header = ["system", "K", "precision", "recall", "F1", "hit rate", "remark"]
    parts = []
    for data in published_figures():
        rows = []
        for system in data["systems"]:
            figures = [system.get("precision"), system.get("recall"), system.get("f1"), system.get("hit_rate")]
            shown = ["" if figure is None else number(figure) for figure in figures]
            rows.append([system["name"], data["k"], *shown, system.get("remark", "")])
        parts.append(f"**{data['name']}**, reported by {data['article']}:\n\n{table(header, rows)}")
    return "\n".join(parts)


def _with_interval(entry: BoardEntry, protocol: Protocol, name: str) -> str:
    value = number(entry["metrics"][protocol][name])
    bounds = entry["intervals"].get(protocol, {}).get(name)
    return f"{value}<br><sub>{bounds[0]:.3f}–{bounds[1]:.3f}</sub>" if bounds else value


def _difference(found: DifferenceRecord | None) -> str:
    if not found:
        return ""
    return f"{found['value']:+.3f}<br><sub>{found['low']:+.3f} .. {found['high']:+.3f}</sub>"
