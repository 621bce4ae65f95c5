"""A chunk file says all that an actor found."""

from pathlib import Path

from hashtag_core.output.chunk_files import read_chunk, write_chunk
from hashtag_core.schema import TABLE, RejectedLine

LINE: RejectedLine = {
    "part": "p", "row": 3, "post_id": None, "reason": "why", "rows": 1, "part_version": "v", "created_at": 7, "user_key": "k",
}  # fmt: skip


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    uri = str(tmp_path / "00000.parquet")
    rows = TABLE.empty_table()
    write_chunk(uri, rows, [LINE], [(5, "a"), (6, "b")])
    found = read_chunk(uri)
    assert found.rows.schema == TABLE
    assert found.carried == [(5, "a"), (6, "b")]
    (line,) = found.rejected.to_pylist()
    assert line.pop("created_at").timestamp() == 7e-6
    assert line == {name: value for name, value in LINE.items() if name != "created_at"}
