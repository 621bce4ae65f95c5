"""Whose posts are gone from an output, looked at with no code of the package."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tests.tagging.outputs import rows_by_glob, rows_by_table

THEIRS = "user-1"


def ids_of(archive: Path, user: str) -> set[str]:
    tables = [
        pq.read_table(path, partitioning=None, columns=["post_id", "user_id"]) for path in archive.rglob("*.parquet")
    ]
    table = pa.concat_tables(tables)
    return set(table.filter(pc.equal(table["user_id"], user))["post_id"].to_pylist())


def tagged(out: Path) -> set[str]:
    rows = rows_by_table(out)
    assert [row["post_id"] for row in rows] == [row["post_id"] for row in rows_by_glob(out)]
    return {row["post_id"] for row in rows}


def holds(out: Path, words: set[str]) -> list[Path]:
    """Files in which one of the words stands, in plain or in a column: read with no code of the package."""
    found = []
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path, partitioning=None)
            content = str([table.to_pylist(), table.schema.metadata]).encode()
        if any(word.encode() in content for word in words):
            found.append(path)
    return found
