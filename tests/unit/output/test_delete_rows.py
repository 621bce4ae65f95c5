"""Rows that go for good."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hashtag_core.output.claimed_output import Output
from hashtag_core.output.delete_rows import drop_parts, remove_rows
from tests.unit.output.small_output import posts_of, small_output


def test_a_part_goes_with_its_rows_its_rejected_lines_and_its_record(tmp_path: Path) -> None:
    output = small_output(tmp_path)
    assert drop_parts(output, "r", ["a", "none"]) == 2
    again = Output.open(output.layout)
    assert posts_of(again) == {"b": ["z"]}
    assert again.tables()[1].files(output.layout.values) == []
    assert list(again.records.parts) == ["b"]
    assert not (tmp_path / output.layout.partition / "part-a.parquet").exists()


def test_what_is_left_of_a_file_stays_and_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    output = small_output(tmp_path)
    table = output.tables()[0]

    def is_x(rows: pa.Table) -> np.ndarray:
        return np.asarray(pc.equal(rows["post_id"], "x").to_numpy())

    for dry_run, left in ((True, ["x", "y"]), (False, ["y"])):
        found = remove_rows(table, output, "r", is_x, dry_run=dry_run)
        assert (found.rows, found.by_part) == (1, {"a": 1})
        assert posts_of(Output.open(output.layout)) == {"a": left, "b": ["z"]}
    assert remove_rows(table, output, "again", is_x).rows == 0
