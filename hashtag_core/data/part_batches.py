"""Batches of a Parquet part by the bytes they take once they are read, which its footer does not tell.

A value that many rows share (a placeholder, a logo) is stored once, in a dictionary, and the footer counts it once: 512 posts
with one picture of 1.5 MB are 1.5 MB in the file and 768 MB in memory. So small columns with a dictionary are read as they are
stored, and cut where their values would pass the limit; large ones, whose dictionaries filled up, are read by few rows.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

SHARED_BYTES = 16 << 20
"""Larger columns (of a row group) are no longer dictionaries in the main: writers give up at 1 MB. Reading those as such takes
ten times as long."""

FEW_ROWS = 16


def shared_columns(metadata: pq.FileMetaData, columns: Sequence[str]) -> tuple[list[str], bool]:
    """The leaves of `columns` that are best read as dictionaries, and whether others need to be read by few rows."""
    largest: dict[str, int] = {}
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for leaf in (group.column(column) for column in range(group.num_columns)):
            name = leaf.path_in_schema
            top, _, below = name.partition(".")
            if top in columns and below in ("", "bytes") and leaf.physical_type == "BYTE_ARRAY":
                size = leaf.total_uncompressed_size if leaf.has_dictionary_page else 0
                largest[name] = max(largest.get(name, 0), size)
    return (
        [name for name, size in largest.items() if 0 < size <= SHARED_BYTES],
        any(size > SHARED_BYTES for size in largest.values()),
    )


def in_pieces(batches: Iterable[pa.RecordBatch], max_rows: int, max_bytes: int) -> Iterator[pa.RecordBatch]:
    """The same rows, dictionaries decoded, in batches of `max_rows`, fewer where they would pass `max_bytes` (one row may)."""
    waiting: list[pa.RecordBatch] = []
    rows = taken = 0
    for batch in batches:
        sizes = np.concatenate([[0], np.cumsum(_row_bytes(batch))])
        begin = 0
        while begin < batch.num_rows:
            most = int(np.searchsorted(sizes, sizes[begin] + max_bytes - taken, side="right")) - 1
            end = min(max(most, begin), begin + max_rows - rows, batch.num_rows)
            if end == begin and waiting:
                yield _joined(waiting)
                waiting, rows, taken = [], 0, 0
                continue
            end = max(end, begin + 1)
            waiting.append(_decoded(batch.slice(begin, end - begin)))
            rows, taken = rows + end - begin, taken + int(sizes[end] - sizes[begin])
            begin = end
            if rows == max_rows:
                yield _joined(waiting)
                waiting, rows, taken = [], 0, 0
    if waiting:
        yield _joined(waiting)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def _row_bytes(batch: pa.RecordBatch) -> np.ndarray:
    return sum((_value_bytes(column) for column in batch.columns), start=np.zeros(batch.num_rows))


def _value_bytes(array: pa.Array) -> np.ndarray:
    """Bytes of each value once it is decoded; of what is not text or bytes the mean."""
    kind = array.type
    if pt.is_dictionary(kind):
        indices = array.indices.fill_null(0).to_numpy(zero_copy_only=False)
        lengths = _value_bytes(array.dictionary)
        return lengths[indices] if len(lengths) else np.zeros(len(array))
    if pt.is_struct(kind):
        return sum((_value_bytes(child) for child in array.flatten()), start=np.zeros(len(array)))
    if any(test(kind) for test in (pt.is_binary, pt.is_string, pt.is_large_binary, pt.is_large_string)):
        return np.asarray(pc.fill_null(pc.binary_length(array), 0).to_numpy(zero_copy_only=False), dtype=np.float64)
    return np.full(len(array), array.nbytes / max(1, len(array)))


def _decoded(batch: pa.RecordBatch) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([_plain(column) for column in batch.columns], batch.schema.names)


def _plain(array: pa.Array) -> pa.Array:
    if pt.is_dictionary(array.type):
        return array.dictionary_decode()
    if pt.is_struct(array.type) and any(pt.is_dictionary(field.type) for field in array.type):
        names = [field.name for field in array.type]
        return pa.StructArray.from_arrays([_plain(child) for child in array.flatten()], names, mask=array.is_null())
    return array
