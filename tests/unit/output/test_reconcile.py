"""Records that a killed run left behind its rows are made to agree with them."""

from pathlib import Path

from hashtag_core.output.claimed_output import Output
from hashtag_core.output.fenced_table import Change
from hashtag_core.output.reconcile import reconcile
from tests.unit.output.small_output import record, small_output, tagged_rows


def test_records_that_agree_stay(tmp_path: Path) -> None:
    output = small_output(tmp_path)
    before = output.records.sequence
    assert not reconcile(output, "r")
    assert output.records.sequence == before


def test_a_part_that_lost_a_row_counts_as_new_and_one_without_rows_as_gone(tmp_path: Path) -> None:
    output = small_output(tmp_path)
    output.save("wrong", parts=[record("a", 1, 3, 1), record("c", 3, 1)])
    assert reconcile(output, "r")
    parts = Output.open(output.layout).records.parts
    assert sorted(parts) == ["a", "b"]
    assert (parts["a"].etag, parts["a"].tagged, parts["a"].rejected) == ("", 2, 1)
    assert parts["b"] == record("b", 2, 1)


def test_rows_without_a_record_get_one_that_counts_as_changed(tmp_path: Path) -> None:
    output = small_output(tmp_path)
    table = output.tables()[0]
    file = table.write(f"{output.layout.partition}/part-n.parquet", tagged_rows("new", "pq"), output.layout.values)
    table.commit(Change([file]))
    assert reconcile(output, "r")
    found = Output.open(output.layout).records.parts["new"]
    assert (found.etag, found.number, found.rows, found.tagged) == ("", 3, 2, 2)
