"""Batches of a part by the bytes that they take."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from hashtag_core.data.part_batches import in_pieces


@given(
    st.lists(st.integers(0, 40), max_size=30), st.integers(1, 9), st.integers(1, 100), st.integers(1, 8), st.booleans()
)
def test_pieces_hold_every_row_once_and_no_more_than_they_may(
    lengths: list[int], max_rows: int, max_bytes: int, step: int, shared: bool
) -> None:
    values = pa.array([b"x" * length for length in lengths], pa.binary())
    column = values.dictionary_encode() if shared else values
    read = pa.table({"image": column}).to_batches(max_chunksize=step)
    found = list(in_pieces(read, max_rows, max_bytes))
    assert [value for piece in found for value in piece["image"].to_pylist()] == values.to_pylist()
    for piece in found:
        assert piece.num_rows <= max_rows
        assert piece.num_rows == 1 or sum(len(value) for value in piece["image"].to_pylist()) <= max_bytes
