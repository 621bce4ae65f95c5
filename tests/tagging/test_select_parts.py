"""Which parts a run does: --parts, --since, --retag, and what --dry-run says of it."""

import json
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashtag_core.config import Recipe
from hashtag_core.distributed.tag import tag
from hashtag_core.errors import ConfigError, NotFoundError
from hashtag_core.output.records import RetagRecord
from hashtag_core.output.verify import verify_output
from hashtag_core.storage import FileInfo
from hashtag_core.tagging.planned_work import TagPlan
from hashtag_core.tagging.select_parts import Selection, closed_order, ordered_again, parse_since
from jobs.tag import main
from tests.tagging.outputs import GLOB, plan_for, rows_by_glob
from tests.tagging.outputs import run as run_into

NOW = datetime(2026, 1, 10, tzinfo=UTC)


def files(*paths: str) -> list[FileInfo]:
    """The first was modified now, each of the others a day before the last."""
    return [FileInfo(path, path, 1, "e", NOW - timedelta(days=n)) for n, path in enumerate(paths)]


def test_selected_parts() -> None:
    found = files("day=1/a.parquet", "day=1/b.parquet", "day=2/a.parquet")
    assert Selection().paths(found) == {file.path for file in found}
    assert Selection(["day=1/*"]).paths(found) == {"day=1/a.parquet", "day=1/b.parquet"}
    assert Selection(["*a.parquet", "day=2/*"]).paths(found) == {"day=1/a.parquet", "day=2/a.parquet"}
    assert Selection(since=NOW - timedelta(days=1)).paths(found) == {"day=1/a.parquet", "day=1/b.parquet"}
    assert Selection(["day=2/*"], since=NOW).paths(found) == set()
    with pytest.raises(NotFoundError, match=r"--parts 'dya=1/\*': none of 3 part\(s\) is named so; there are day=1/a"):
        Selection(["day=1/*", "dya=1/*"]).paths(found)


def test_since() -> None:
    assert parse_since("2026-01-31T06:00+02:00") == datetime(2026, 1, 31, 4, tzinfo=UTC)
    assert parse_since("2026-01-31").astimezone().hour == 0
    with pytest.raises(ConfigError, match="--since 'yesterday'"):
        parse_since("yesterday")


@given(
    orders=st.lists(st.sets(st.sampled_from("abc"), min_size=1), min_size=2, max_size=2),
    done=st.sets(st.sampled_from("abc")),
)
def test_an_order_that_is_not_done_goes_on(orders: list[set[str]], done: set[str]) -> None:
    """The second order gives a new token to what the first did not name, and to all once the first is done."""
    first = ordered_again(RetagRecord(), orders[0], anew=False)
    left = orders[0] - done
    second = ordered_again(closed_order(first, left), orders[1], anew=False)
    kept = {path for path in orders[0] if second.tokens[path] == first.tokens[path]}
    assert kept == (orders[0] if left else orders[0] - orders[1])
    assert set(second.tokens) == orders[0] | orders[1]


@pytest.fixture
def archive(tmp_path: Path, make_posts: Callable, write_archive: Callable) -> Path:
    return write_archive(tmp_path / "archive", make_posts(12), parts=3)


def job_for(archive: Path, out: Path, model: Path, selection: Selection | None = None, **tagging: Any) -> TagPlan:
    recipe = Recipe.model_validate({"tagging": {"top_k": 3, **tagging}})
    return plan_for(archive, out, model, recipe, selection=selection or Selection())


def published(out: Path) -> dict[str, Sequence[str]]:
    """Part -> ids of its rows."""
    found: dict[str, list[str]] = {}
    for row in rows_by_glob(out):
        found.setdefault(row["part"], []).append(row["post_id"])
    return found


def names(out: Path) -> set[str]:
    return {path.name for path in out.glob(GLOB)}


def test_the_others_stay_as_they_are(inline: None, archive: Path, popularity: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = tag(job_for(archive, out, popularity, Selection(["*-0001*"])))
    assert (summary.parts, summary.skipped_parts, summary.tagged) == (1, 0, 4)
    assert list(published(out)) == ["posts-0001.parquet"]
    again = job_for(archive, out, popularity, Selection(["*-0001*"]))
    assert again.is_done
    os.utime(archive / "posts-0002.parquet", (2e9, 2e9))
    since = Selection(since=datetime(2030, 1, 1, tzinfo=UTC))
    assert [work.path for work in job_for(archive, out, popularity, since).works] == ["posts-0002.parquet"]
    summary = tag(job_for(archive, out, popularity))
    assert (summary.parts, summary.skipped_parts) == (2, 1)
    assert verify_output(str(out), str(archive)).problems == []


def test_tagging_again(inline: None, archive: Path, popularity: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tag(job_for(archive, out, popularity))
    before, rows = names(out), published(out)
    summary = tag(job_for(archive, out, popularity, Selection(["*-0001*"], retag=True)))
    assert (summary.parts, summary.skipped_parts) == (1, 2)
    assert published(out) == rows
    assert len(names(out) & before) == 2
    assert job_for(archive, out, popularity).is_done
    assert verify_output(str(out), str(archive)).problems == []
    tag(job_for(archive, out, popularity, Selection(retag=True)))
    assert not names(out) & before
    assert published(out) == rows
    assert job_for(archive, out, popularity).is_done


def test_other_settings_need_all_parts(inline: None, archive: Path, popularity: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tag(job_for(archive, out, popularity))
    with pytest.raises(ConfigError, match="top_k was 3, now 2"):
        job_for(archive, out, popularity, Selection(["*-0001*"], retag=True), top_k=2)
    tag(job_for(archive, out, popularity, Selection(retag=True), top_k=2))
    assert job_for(archive, out, popularity, top_k=2).is_done


def test_a_plan_from_before_an_order_is_made_anew(
    inline: None, archive: Path, popularity: Path, tmp_path: Path, make_posts: Callable, write_part: Callable
) -> None:
    out = tmp_path / "out"
    tag(job_for(archive, out, popularity))
    write_part(archive / "new.parquet", make_posts(2, seed=5))
    late = job_for(archive, out, popularity)
    tag(job_for(archive, out, popularity, Selection(["*-0001*"], retag=True)))
    summary = tag(late)
    assert (summary.parts, summary.tagged, summary.skipped_parts) == (1, 2, 3), (
        "what the run between did is not done again"
    )
    assert job_for(archive, out, popularity).is_done
    assert len(rows_by_glob(out)) == 14


def test_dry_run_says_what_it_costs(
    inline: None,
    archive: Path,
    popularity: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    flags = ["--archive", str(archive), "--out", str(out), "--model", str(popularity)]
    assert main([*flags, "--dry-run", "--parts", "*-0000*", "*-0001*"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["posts"], found["parts"], found["unselected_parts"], found["estimated_seconds"]) == (8, 2, 1, None)
    run_into(archive, out, popularity, Recipe())
    (run,) = (out / "_state" / "runs").iterdir()
    run.write_text(json.dumps(json.loads(run.read_text()) | {"posts_per_second": 2.5}))
    before = sorted(path for path in out.rglob("*"))
    assert main([*flags, "--dry-run", "--retag"]) == 0
    told = capfd.readouterr()
    assert json.loads(told.out)["estimated_seconds"] == 4.8
    assert "tagging again costs 12 post(s) of 3 part(s)" in told.err
    assert "at the 2.5 posts/s of the last run, that takes 0.1 minute(s)" in told.err
    assert sorted(path for path in out.rglob("*")) == before
    assert main([*flags, "--parts", "nothing*"]) == 2
