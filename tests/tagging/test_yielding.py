"""A post whose row is rejected when it is tagged gets its tags from another of its rows, in whatever part that is."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashtag_core.output import lease
from hashtag_core.output.forget_users.delete import forget
from hashtag_core.output.verify import verify_output
from tests.tagging.outputs import rejected, rows_by_table, run
from tests.tagging.pausing import Writes, killed_before
from tests.tagging.test_nights import DAY_US, part, parts_of

pytestmark = pytest.mark.usefixtures("inline", "poisoned")


def doubles(path: Path, rows: list[tuple[str, int, str]]) -> None:
    """A part with rows of id, day and caption; user `u<id>`, and `other` for captions that name one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ids, days, captions = zip(*rows, strict=True)
    users = ["other" if "other" in caption else f"u{post_id}" for post_id, caption in zip(ids, captions, strict=True)]
    times = pa.array([day * DAY_US for day in days], pa.timestamp("us", "UTC"))
    table = pa.table({"post_id": ids, "user_id": users, "created_at": times, "caption": captions})
    pq.write_table(table, path, row_group_size=4)


def rows_of(out: Path) -> dict[str, tuple[str, int]]:
    found = {row["post_id"]: (row["part"], row["part_row"]) for row in rows_by_table(out)}
    assert parts_of(out) == {post_id: path for post_id, (path, _) in found.items()}
    return found


def test_a_row_of_another_part(tmp_path: Path, popularity: Path) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    part(archive / "a.parquet", ["1", "2"], day=1)
    part(archive / "b.parquet", ["2", "3"], day=3, caption="no score")
    part(archive / "c.parquet", ["2"], day=2)
    run(archive, out, popularity)
    assert parts_of(out) == {"1": "a.parquet", "2": "c.parquet"}
    found = [(line["part"], line["post_id"], line["reason"].split(":")[0]) for line in rejected(out)]
    assert found == [
        ("a.parquet", "2", "repeated post_id"),
        ("b.parquet", "2", "ValueError"),
        ("b.parquet", "3", "ValueError"),
    ]
    assert run(archive, out, popularity).parts == 0
    part(archive / "c.parquet", ["9"], day=2)
    run(archive, out, popularity)
    assert parts_of(out) == {"1": "a.parquet", "2": "a.parquet", "9": "c.parquet"}


def test_a_row_of_the_same_part(tmp_path: Path, popularity: Path) -> None:
    """The best row that can be tagged is: of post 2 the second best, of post 3 none, of post 4 the best."""
    archive, out = tmp_path / "archive", tmp_path / "out"
    doubles(
        archive / "a.parquet",
        [
            ("2", 1, "oldest"),
            ("2", 3, "no score"),
            ("3", 1, "no score"),
            ("2", 2, "second"),
            ("3", 2, "no score"),
            ("4", 1, "old"),
            ("4", 2, "new"),
        ],
    )
    summary = run(archive, out, popularity)
    assert rows_of(out) == {"2": ("a.parquet", 3), "4": ("a.parquet", 6)}
    reasons = {line["row"]: line["reason"].split(":")[0] for line in rejected(out)}
    assert reasons == {
        0: "repeated post_id", 1: "ValueError", 2: "ValueError", 4: "ValueError", 5: "repeated post_id"
    }  # fmt: skip
    assert summary.tagged == 2
    assert verify_output(str(out), str(archive)).problems == []
    again = run(archive, out, popularity)
    assert (again.parts, again.posts) == (0, 0)


def test_more_rows_than_a_run_has_rounds(tmp_path: Path, popularity: Path) -> None:
    """What one run does not come to, the next does."""
    archive, out = tmp_path / "archive", tmp_path / "out"
    doubles(archive / "a.parquet", [("1", day, "fine" if day == 1 else "no score") for day in range(1, 6)])
    run(archive, out, popularity)
    assert rows_of(out) == {}
    run(archive, out, popularity)
    assert rows_of(out) == {"1": ("a.parquet", 0)}
    assert run(archive, out, popularity).parts == 0


def test_a_forgotten_post_is_not_tried_again(tmp_path: Path, popularity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    doubles(archive / "a.parquet", [("1", day, "fine" if day == 1 else "no score") for day in range(1, 6)])
    run(archive, out, popularity)
    forget(str(out), posts=["1"])
    run(archive, out, popularity)
    assert rows_of(out) == {}


def test_a_run_that_is_killed_at_any_write(tmp_path: Path, popularity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row that was rejected is noted with the part's own commit, so that no kill loses it."""
    archive, undisturbed = tmp_path / "archive", tmp_path / "undisturbed"
    part(archive / "a.parquet", ["1", "2"], day=1)
    part(archive / "b.parquet", ["2", "3"], day=3, caption="no score")
    doubles(archive / "c.parquet", [("5", 1, "fine"), ("5", 2, "no score")])
    run(archive, undisturbed, popularity)
    expected = rows_of(undisturbed)
    assert expected == {"1": ("a.parquet", 0), "2": ("a.parquet", 1), "5": ("c.parquet", 0)}
    monkeypatch.setattr(lease, "_is_dead", lambda content: True)
    writes, number, killed = Writes(monkeypatch), 0, True
    while killed:
        number += 1
        out = tmp_path / f"out-{number}"
        killed = killed_before(writes, number, lambda out=out: run(archive, out, popularity))
        run(archive, out, popularity)
        assert rows_of(out) == expected, number
        assert verify_output(str(out), str(archive)).problems == [], number
        shutil.rmtree(out)
    assert number > 15
