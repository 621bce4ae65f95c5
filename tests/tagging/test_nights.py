"""Archives as exporters change them, night after night: every post of the archive once, whatever happened to its part."""

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashtag_core.output.verify import verify_output
from tests.tagging.outputs import rejected, rows_by_glob, rows_by_table, run

DAY_US = 86_400_000_000


def part(path: Path, ids: list[str], *, day: int = 1, caption: str = "a caption") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "post_id": ids,
            "created_at": pa.array([day * DAY_US] * len(ids), pa.timestamp("us", "UTC")),
            "caption": [f"{caption} {n}" for n in ids],
        }
    )
    pq.write_table(table, path, row_group_size=5)


def parts_of(out: Path) -> dict[str, str]:
    rows = rows_by_table(out)
    assert [row["post_id"] for row in rows] == [row["post_id"] for row in rows_by_glob(out)]
    assert len({row["post_id"] for row in rows}) == len(rows)
    return {row["post_id"]: row["part"] for row in rows}


@pytest.mark.usefixtures("inline")
class TestNights:
    def test_a_new_part_alone_is_work(self, tmp_path: Path, popularity: Path) -> None:
        archive, out = tmp_path / "archive", tmp_path / "out"
        part(archive / "a.parquet", ["1", "2", "3"])
        first = run(archive, out, popularity)
        assert (first.posts, first.tagged, first.parts) == (3, 3, 1)
        part(archive / "b.parquet", ["4", "5"])
        second = run(archive, out, popularity)
        assert (second.posts, second.tagged, second.parts, second.skipped_parts) == (2, 2, 1, 1)
        assert run(archive, out, popularity).parts == 0
        assert parts_of(out) == {
            "1": "a.parquet",
            "2": "a.parquet",
            "3": "a.parquet",
            "4": "b.parquet",
            "5": "b.parquet",
        }

    def test_a_renamed_part_costs_a_commit(self, tmp_path: Path, popularity: Path) -> None:
        archive, out = tmp_path / "archive", tmp_path / "out"
        part(archive / "a.parquet", [str(n) for n in range(20)])
        run(archive, out, popularity)
        (archive / "a.parquet").rename(archive / "renamed.parquet")
        again = run(archive, out, popularity)
        assert (again.tagged, again.kept, again.rejected) == (0, 20, 0)
        assert set(parts_of(out).values()) == {"renamed.parquet"}
        assert run(archive, out, popularity).parts == 0

    def test_a_touched_part_costs_a_commit(self, tmp_path: Path, popularity: Path) -> None:
        archive, out = tmp_path / "archive", tmp_path / "out"
        part(archive / "a.parquet", ["1", "2"])
        run(archive, out, popularity)
        os.utime(archive / "a.parquet", (1, 1))
        again = run(archive, out, popularity)
        assert (again.tagged, again.kept) == (0, 2)

    def test_merged_and_split_parts(self, tmp_path: Path, popularity: Path) -> None:
        archive, out = tmp_path / "archive", tmp_path / "out"
        part(archive / "a.parquet", ["1", "2", "3"])
        part(archive / "b.parquet", ["4", "5", "6"])
        run(archive, out, popularity)
        shutil.rmtree(archive)
        part(archive / "ab.parquet", ["1", "2", "3", "4", "5", "6"])
        merged = run(archive, out, popularity)
        assert (merged.tagged, merged.kept) == (0, 6)
        assert set(parts_of(out).values()) == {"ab.parquet"}
        shutil.rmtree(archive)
        part(archive / "x.parquet", ["2", "4", "6"])
        part(archive / "y.parquet", ["1", "3", "5", "7"])
        split = run(archive, out, popularity)
        assert (split.tagged, split.kept) == (1, 6)
        assert parts_of(out) == dict.fromkeys("246", "x.parquet") | dict.fromkeys("1357", "y.parquet")

    def test_parts_that_swap_their_posts(self, tmp_path: Path, popularity: Path) -> None:
        archive, out = tmp_path / "archive", tmp_path / "out"
        part(archive / "a.parquet", ["1", "2"])
        part(archive / "b.parquet", ["3", "4"])
        run(archive, out, popularity)
        part(archive / "a.parquet", ["3", "4"])
        part(archive / "b.parquet", ["1", "2"])
        again = run(archive, out, popularity)
        assert (again.tagged, again.kept) == (0, 4)
        assert parts_of(out) == {"3": "a.parquet", "4": "a.parquet", "1": "b.parquet", "2": "b.parquet"}

    def test_a_later_row_wins_and_returns_when_it_goes(self, tmp_path: Path, popularity: Path) -> None:
        archive, out = tmp_path / "archive", tmp_path / "out"
        part(archive / "a.parquet", ["1", "2"], day=1)
        run(archive, out, popularity)
        part(archive / "b.parquet", ["2", "3"], day=2, caption="newer")
        second = run(archive, out, popularity)
        assert second.tagged == 2
        assert parts_of(out) == {"1": "a.parquet", "2": "b.parquet", "3": "b.parquet"}
        assert [(line["part"], line["row"], line["post_id"]) for line in rejected(out)] == [("a.parquet", 1, "2")]
        part(archive / "b.parquet", ["3"], day=2, caption="newer")
        run(archive, out, popularity)
        assert parts_of(out) == {"1": "a.parquet", "2": "a.parquet", "3": "b.parquet"}
        assert rejected(out) == []

    def test_a_winner_that_is_no_post_does_not_win(self, tmp_path: Path, popularity: Path) -> None:
        archive, out = tmp_path / "archive", tmp_path / "out"
        part(archive / "a.parquet", [str(n) for n in range(10)])
        bad = pa.table(
            {
                "post_id": [str(n) for n in range(10)],
                "created_at": pa.array([9 * DAY_US] * 10, pa.timestamp("us", "UTC")),
                "caption": pa.array([[n] for n in range(10)], pa.list_(pa.int64())),
            }
        )
        pq.write_table(bad, archive / "b.parquet")
        summary = run(archive, out, popularity)
        assert (summary.tagged, summary.rejected) == (10, 10)
        assert set(parts_of(out).values()) == {"a.parquet"}

    def test_parts_that_are_gone_stay_until_they_are_dropped(self, tmp_path: Path, popularity: Path) -> None:
        archive, out = tmp_path / "archive", tmp_path / "out"
        part(archive / "a.parquet", ["1", "2"], day=5)
        part(archive / "b.parquet", ["2", "3", "4"], day=2)
        run(archive, out, popularity)
        (archive / "a.parquet").unlink()
        told = run(archive, out, popularity)
        assert (told.parts, told.gone_parts) == (0, 1)
        assert parts_of(out) == {"1": "a.parquet", "2": "a.parquet", "3": "b.parquet", "4": "b.parquet"}
        assert verify_output(str(out), str(archive)).problems == []
        dropped = run(archive, out, popularity, drop_gone=True)
        assert dropped.dropped_posts == 1
        assert parts_of(out) == dict.fromkeys("234", "b.parquet")
        assert rejected(out) == []

    def test_the_index_of_ids_is_made_anew_where_it_is_lost(self, tmp_path: Path, popularity: Path) -> None:
        archive, out = tmp_path / "archive", tmp_path / "out"
        part(archive / "a.parquet", ["1", "2"], day=1)
        part(archive / "b.parquet", ["2", "3"], day=2)
        run(archive, out, popularity)
        for path in out.rglob("ids/*"):
            path.unlink()
        part(archive / "c.parquet", ["1", "3", "4"], day=1, caption="again")
        part(archive / "b.parquet", ["3"], day=2)
        run(archive, out, popularity)
        assert parts_of(out) == {"1": "c.parquet", "2": "a.parquet", "3": "b.parquet", "4": "c.parquet"}

    def test_a_part_that_was_dropped_stands_against_no_post(self, tmp_path: Path, popularity: Path) -> None:
        """Neither it nor the part that comes next, whose number in the index must be another one."""
        archive, out = tmp_path / "archive", tmp_path / "out"
        for name in ("a", "b", "c", "d"):
            part(archive / f"{name}.parquet", [name], day=9)
        run(archive, out, popularity)
        for name in ("d", "c"):
            (archive / f"{name}.parquet").unlink()
            assert run(archive, out, popularity, drop_gone=True).dropped_posts == 1
        part(archive / "e.parquet", ["e"], day=9)
        run(archive, out, popularity)
        part(archive / "again.parquet", ["c", "d"], day=1)
        assert run(archive, out, popularity).tagged == 2
        assert verify_output(str(out), str(archive)).problems == []
