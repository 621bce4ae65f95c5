"""Rows that go out since their posts are another row's from now on."""

import pyarrow as pa

from hashtag_core.output.moved_rows import MovedRows, going
from hashtag_core.schema import TABLE

ROWS = pa.table(
    {
        "part": ["a", "a", "b", "c"],
        "part_row": [3, 5, 0, 1],
        "post_id": ["x", "y", "x", "z"],
        "part_version": ["1", "1", "2", "3"],
        "created_at": pa.array([None, None, None, None], TABLE.field("created_at").type),
        "user_key": ["k", None, None, None],
    }
)


def test_rows_of_a_part_go_by_id_or_all() -> None:
    assert going(ROWS, {"a": pa.array(["x"])}).tolist() == [True, False, False, False]
    assert going(ROWS, {"b": None, "c": pa.array(["x"])}).tolist() == [False, False, True, False]
    assert not going(ROWS, {}).any()


def test_what_a_part_lost_is_a_line_and_what_is_gone_or_replaced_is_none() -> None:
    moved = MovedRows()
    victims = {"a": pa.array(["x", "y"]), "b": None, "c": pa.array(["z"])}
    moved.take(ROWS, {"a": True, "b": True, "c": False}, victims, {"x": "d", "y": "a", "z": "d"})
    assert moved.taken == {"a": 2, "b": 1, "c": 1}
    assert moved.line_counts == {"a": 1}  # y went to another row of its own part, b is replaced, c is gone
    assert moved.lines.select(["part", "row", "post_id", "reason", "rows", "user_key"]).to_pylist() == [
        {"part": "a", "row": 3, "post_id": "x", "reason": "repeated post_id: tagged from d", "rows": 1, "user_key": "k"}
    ]
