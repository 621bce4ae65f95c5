"""Chunk files: what an actor leaves of a chunk, under `_state/`, until its part is committed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from hashtag_core import storage
from hashtag_core.schema import REJECTED_TABLE, TABLE

CHUNK_KEY = b"hashtag.chunk"
"""Key in a chunk file's Parquet metadata of a JSON object: `rejected`, lines as REJECTED_TABLE has them, and `carried`,
[row, post_id] of the posts whose rows of before are kept."""


@dataclass(frozen=True)
class ChunkContent:
    """What a chunk file holds: rows of TABLE, lines of REJECTED_TABLE, and posts whose rows of before are kept."""

    rows: pa.Table
    rejected: pa.Table
    carried: list[tuple[int, str]]


def write_chunk(
    uri: str, rows: pa.Table, rejected: Sequence[Mapping[str, object]], carried: Sequence[tuple[int, str]]
) -> None:
    """Write a chunk file: tagged rows, and in its metadata what was rejected and what is kept. Both appear at once."""
    metadata = json.dumps({"rejected": list(rejected), "carried": list(carried)}, default=str)
    with storage.open_output(uri) as file:
        pq.write_table(rows.replace_schema_metadata({CHUNK_KEY: metadata.encode()}), file, compression="zstd")


def read_chunk(uri: str) -> ChunkContent:
    """What `write_chunk` wrote."""
    with storage.open_input(uri) as source:
        file = pq.ParquetFile(source)
        metadata = json.loads(file.metadata.metadata[CHUNK_KEY])
        rows = file.read().replace_schema_metadata(None).cast(TABLE)
    rejected = pa.Table.from_pylist(metadata["rejected"], schema=REJECTED_TABLE)
    return ChunkContent(rows, rejected, [(int(row), str(post_id)) for row, post_id in metadata["carried"]])
