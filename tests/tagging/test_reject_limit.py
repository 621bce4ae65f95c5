"""A run that is fed rubbish stops."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashtag_core.config import Recipe
from hashtag_core.data.parquet_rows import Rejected
from hashtag_core.tagging.reject_limit import RejectWatch, TooManyRejectedError, check_planned, tell
from tests.tagging.outputs import plan_for, rows_by_glob, run
from tests.tagging.parts_to_check import part


def test_what_the_plan_rejects() -> None:
    good = part(
        "a", 90, (3, "no id", 1), (4, "no id", 1), (5, "repeated post_id: tagged from b", 1), (6, "forgotten", 1)
    )
    assert check_planned([good], 0.1) == 2 / 90
    cut = part("b", 10, (4, "cut", 6))
    assert check_planned([good, cut], 0.1) == 8 / 100
    html = part("c", 0, (None, "html", 1))
    assert check_planned([good, part("d", 10), html], 0.5) == pytest.approx(52 / 150), "one of mean size"
    assert check_planned([part("empty", 0)], 0.0) == 0
    told = r"^8\.0% of the rows are rejected, more than the 7\.0% of max_rejected: 6 x cut \(first: b, row 4\); 2 x no id \(first: a, row 3\)$"
    with pytest.raises(TooManyRejectedError, match=told):
        check_planned([good, cut], 0.07)
    with pytest.raises(TooManyRejectedError, match=r"100\.0% of the rows .*1 x html \(first: c\)"):
        check_planned([html], 0.99)


def test_a_run_is_judged_by_what_it_saw() -> None:
    watch = RejectWatch(0.5, 0.0, 400)
    watch.take("a", 0, {"bad": [39, 7]})
    with pytest.raises(TooManyRejectedError, match=r"^97\.5% .*39 x bad \(first: a, row 7\)"):
        watch.take("a", 1, {})
    patient = RejectWatch(0.5, 0.0, 100_000)
    patient.take("a", 0, {"bad": [999, 0]})
    with pytest.raises(TooManyRejectedError, match="1000 x bad"):
        patient.take("b", 0, {"bad": [1, 5]})
    fine = RejectWatch(0.5, 0.0, 10)
    fine.take("a", 5, {"bad": [5, 0]})
    planned = RejectWatch(0.5, 0.3, 10)
    with pytest.raises(TooManyRejectedError, match=r"^51\.0%"):
        planned.take("a", 7, {"bad": [3, 0]})


def test_reasons_of_a_chunk() -> None:
    rejected = [Rejected("a", row, None, reason) for row, reason in ((9, "x"), (4, "y"), (5, "x"))]
    assert tell(rejected) == {"x": [2, 5], "y": [1, 4]}


def recipe(**tagging: Any) -> Recipe:
    return Recipe.model_validate({"tagging": {"chunk_rows": 10, "chunks_per_task": 1, **tagging}})


def break_captions(path: Path) -> None:
    """The ids can be read, the captions cannot: seen when the part is tagged, not when it is planned."""
    content = bytearray(path.read_bytes())
    footer = pq.ParquetFile(path).metadata.row_group(0)
    (column,) = [footer.column(n) for n in range(footer.num_columns) if footer.column(n).path_in_schema == "caption"]
    content[column.data_page_offset : column.data_page_offset + 30] = b"\xff" * 30
    path.write_bytes(content)


def test_what_is_committed_stays(
    inline: None, popularity: Path, tmp_path: Path, make_posts: Callable, write_part: Callable
) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    write_part(archive / "a.parquet", make_posts(30))
    for seed, name in enumerate("bc"):
        posts = make_posts(40, seed=seed + 1)
        break_captions(write_part(archive / f"{name}.parquet", posts, compression="none", use_dictionary=False))
    with pytest.raises(TooManyRejectedError, match=r"of the rows are rejected.*\(first: b\.parquet, row 0\)") as caught:
        run(archive, out, popularity, recipe(max_rejected=0.5))
    assert caught.value.summary["tagged"] == 30  # type: ignore[attr-defined]
    assert {row["part"] for row in rows_by_glob(out)} == {"a.parquet"}
    (record,) = [json.loads(path.read_text()) for path in (out / "_state" / "runs").iterdir()]
    assert record["status"] == "failed"
    assert not list(out.rglob("lease.json"))
    assert run(archive, out, popularity, recipe()).tagged == 0


def test_rubbish_that_the_plan_sees_is_refused_before_anything_is_written(
    popularity: Path, tmp_path: Path, make_posts: Callable, write_part: Callable
) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    write_part(archive / "a.parquet", make_posts(30))
    captions = pa.array([[n] for n in range(40)], pa.list_(pa.int64()))
    pq.write_table(pa.table({"post_id": [f"b{n}" for n in range(40)], "caption": captions}), archive / "b.parquet")
    with pytest.raises(TooManyRejectedError, match=r"40 x caption: expected .* \(first: b\.parquet, row 0\)"):
        plan_for(archive, out, popularity, recipe(max_rejected=0.5))
    assert not out.exists()
