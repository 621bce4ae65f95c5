"""What planning asks of the tables of a small output."""

from pathlib import Path

import pyarrow as pa

from hashtag_core.output.catalog import complete_index, contents_of, lost_rows, rows_of_part
from hashtag_core.output.fenced_table import Change
from hashtag_core.output.ids import IdIndex, keys_of
from hashtag_core.output.moved_rows import REPEATED
from hashtag_core.schema import REJECTED_TABLE
from tests.unit.output.small_output import small_output


def test_contents_and_rows_are_those_of_the_parts_that_are_asked_for(tmp_path: Path) -> None:
    output = small_output(tmp_path)
    found = contents_of(output, ["a", "none"])
    assert found.keys.to_hex() == keys_of(pa.array(["x", "y"])).to_hex()
    assert (found.content.tolist(), found.history.tolist()) == ([7, 8], [0, 0])
    assert rows_of_part(output, "a").tolist() == [0, 1]
    assert rows_of_part(output, "none").tolist() == []
    assert len(contents_of(output, []).keys) == 0


def test_an_index_that_was_lost_is_made_of_the_tables(tmp_path: Path) -> None:
    output = small_output(tmp_path)
    index = IdIndex()
    complete_index(output, index)
    found = index.find(keys_of(pa.array(["x", "z", "none"])))
    assert sorted(found.number.tolist()) == [1, 2]
    assert index.covered == {1, 2}
    complete_index(output, index)
    assert len(index.runs) == 1


def test_posts_that_a_part_lost_are_known_with_their_rows(tmp_path: Path) -> None:
    output = small_output(tmp_path)
    table = output.tables()[1]
    lines = [
        ("b", 4, "x", f"{REPEATED}: tagged from a"),
        ("b", 5, "z", f"{REPEATED}: tagged from b, row 0"),
        ("b", 6, "q", "why"),
    ]
    rows = [
        {"part": part, "row": row, "post_id": post_id, "reason": reason, "rows": 1, "part_version": "e"}
        for part, row, post_id, reason in lines
    ]
    file = table.write(
        f"{output.layout.partition}/part-l.parquet",
        pa.Table.from_pylist(rows, schema=REJECTED_TABLE),
        output.layout.values,
    )
    table.commit(Change([file]))
    (keys, at) = lost_rows(output, ["b"])["b"]
    assert keys.to_hex() == keys_of(pa.array(["x"])).to_hex()  # z is this part's own, q was rejected for itself
    assert at.tolist() == [4]
