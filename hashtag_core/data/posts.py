"""Archive parts in the POST schema, streamed: a part is never whole in memory.

What is accepted and made into POST exactly: any column order, absent optional columns, other columns beside them,
`large_*`, `*_view`, dictionary and all-null columns, integers as ids, timestamps of any unit or zone (none: UTC), dates,
any number for a coordinate, an image as the struct of bytes and path that HuggingFace `datasets` writes. A row that cannot be made into a post becomes a `Rejected` that says field, found and expected.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from hashtag_core import storage
from hashtag_core.errors import ArchiveError, StorageError
from hashtag_core.faults import is_machine, raise_if_machine
from hashtag_core.schema import POST, TIMESTAMP
from hashtag_core.storage import FileInfo

SUFFIX = ".parquet"
READ_BUFFER_BYTES = 1 << 20
FIRST_YEAR_US, LAST_YEAR_US = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The years 1 to 9999, which is what a Python datetime can hold."""


@dataclass(frozen=True)
class Rejected:
    """A row of a part that is no post; with `row` None the part itself (or the rest of it)."""

    part: str
    row: int | None
    post_id: str | None
    reason: str


class PartBatch(NamedTuple):
    """Consecutive rows of one part, beginning at row `first_row`: the posts among them (POST schema, or the columns of
    it that were asked for), and the rows that are none."""

    first_row: int
    posts: pa.Table
    rejected: list[Rejected]

    @property
    def rows(self) -> np.ndarray:
        """Row number in the part of each post, int64."""
        gone = np.array([item.row for item in self.rejected if item.row is not None], dtype=np.int64)
        rows = np.arange(self.first_row, self.first_row + self.posts.num_rows + len(gone), dtype=np.int64)
        return np.setdiff1d(rows, gone, assume_unique=True)


def list_parts(archive_uri: str) -> list[FileInfo]:
    """The Parquet parts of an archive at any depth, sorted by path. Names that start with `_` or `.` are no parts.

    NotFoundError where nothing is, ArchiveError where no part is.
    """
    parts = storage.list_files(archive_uri, SUFFIX)
    if not parts:
        raise ArchiveError(f"{archive_uri}: an archive without a part: no file ends in {SUFFIX}")
    return parts


def part_problem(part: FileInfo) -> str | None:
    """Why no post can come from this part (unreadable, no `post_id` column); None if one can. Reads the footer alone."""
    if problem := _file_problem(part.uri):
        return problem
    try:
        with storage.open_input(part.uri) as source:
            names = pq.ParquetFile(source, pre_buffer=False).schema_arrow.names
    except (pa.ArrowException, OSError) as error:
        return unreadable(part.uri, error)
    return _column_problem(names)


def iter_post_batches(
    part: FileInfo | str, batch_rows: int, columns: Sequence[str] | None = None, max_batch_bytes: int | None = None
) -> Iterator[PartBatch]:
    """Stream one Parquet part in batches of `batch_rows` rows; `columns` of POST alone, `post_id` always.

    With `max_batch_bytes`, of fewer rows where rows are so large on the mean that a batch would pass it.

    A part that cannot be read, wholly or from some row on, ends in an empty batch with one `Rejected` whose row is None.
    StorageError where the storage failed and not the part.
    """
    info = storage.file_info(part) if isinstance(part, str) else part
    wanted = pa.schema([field for field in POST if columns is None or field.name in {*columns, "post_id"}])
    first_row = 0

    def ends(reason: str) -> PartBatch:
        return PartBatch(first_row, wanted.empty_table(), [Rejected(info.path, None, None, reason)])

    if problem := _file_problem(info.uri):
        yield ends(problem)
        return
    try:
        with storage.open_input(info.uri) as source:
            file = pq.ParquetFile(source, pre_buffer=False, buffer_size=READ_BUFFER_BYTES)
            names = file.schema_arrow.names
            problem = _column_problem(names)
            if problem:
                yield ends(problem)
                return
            held = [name for name in wanted.names if name in names]
            if max_batch_bytes is not None:
                batch_rows = max(1, min(batch_rows, int(max_batch_bytes / _row_bytes(file.metadata))))
            for group in range(file.num_row_groups):  # a batch over two of them is lost with either
                counted = file.metadata.row_group(group).num_rows
                end = first_row + counted
                for batch in file.iter_batches(batch_size=batch_rows, row_groups=[group], columns=held):
                    posts, rejected = _normalise_batch(batch, wanted, info.path, first_row)
                    yield PartBatch(first_row, posts, rejected)
                    first_row += batch.num_rows
                if first_row != end:
                    raise pa.ArrowInvalid(
                        f"{counted - end + first_row} rows in row group {group}, its footer says {counted}"
                    )
    except (pa.ArrowException, OSError) as error:
        yield ends(f"unreadable from row {first_row} on: {unreadable(info.uri, error)}")


def normalise_posts(
    table: pa.Table, part: str = "", first_row: int = 0, schema: pa.Schema = POST
) -> tuple[pa.Table, list[Rejected]]:
    """The rows of an acceptable table as exactly `schema` (POST or some of its columns), and the rows that are no posts.

    ArchiveError if there is no `post_id` column.
    """
    problem = _column_problem(table.column_names)
    if problem:
        raise ArchiveError(f"{part}: {problem}" if part else problem)
    pieces: list[pa.Table] = []
    rejected: list[Rejected] = []
    for batch in table.select([name for name in schema.names if name in table.column_names]).to_batches():
        posts, faults = _normalise_batch(batch, schema, part, first_row)
        pieces.append(posts)
        rejected += faults
        first_row += batch.num_rows
    return pa.concat_tables(pieces) if pieces else schema.empty_table(), rejected


def is_undated(item: Rejected) -> bool:
    """Whether all that is wrong with a row is its `created_at`: it is a post all the same, without a time."""
    return item.row is not None and item.post_id is not None and item.reason.startswith("created_at:")


def _file_problem(uri: str) -> str | None:
    """A link to nothing, a pipe or a device named as a part (to open a pipe is to wait for its writer), or no permission."""
    if storage.is_remote(uri) or not os.path.lexists(path := storage.local_path(uri)):
        return None
    if not os.path.exists(path):
        return "expected a Parquet file, found: a link to nothing"
    if not os.path.isfile(path):
        return "expected a Parquet file, found: no regular file"
    return None if os.access(path, os.R_OK) else "expected a Parquet file, found: one that may not be read"


def _row_bytes(metadata: pq.FileMetaData) -> float:
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    total = sum(int(group.total_byte_size) for group in groups)
    return max(1.0, total / max(1, int(metadata.num_rows)))


def unreadable(uri: str, error: Exception) -> str:
    """What is wrong with the content, in one line; MachineError or StorageError if it is not the content."""
    if isinstance(error, OSError) and (error.errno is not None or is_machine(error)):
        raise StorageError(f"{uri}: read failed: {error}") from error
    raise_if_machine(error, f"{uri}: read failed")
    return f"expected a Parquet file, found: {(str(error).strip() or type(error).__name__).splitlines()[0]}"


def _column_problem(names: Sequence[str]) -> str | None:
    if "post_id" not in names:
        return f"post_id: column missing, found {', '.join(names) or 'no column'}"
    twice = [name for name in POST.names if list(names).count(name) > 1]
    return f"{twice[0]}: column occurs twice" if twice else None


def _normalise_batch(
    batch: pa.RecordBatch, schema: pa.Schema, part: str, first_row: int
) -> tuple[pa.Table, list[Rejected]]:
    arrays: list[pa.Array] = []
    faults: dict[int, str] = {}
    batch = _with_plain_image(batch)
    for field in schema:
        if field.name not in batch.schema.names:
            arrays.append(pa.nulls(batch.num_rows, field.type))
            continue
        array, bad, reason = _CASTS[field.name](batch.column(field.name))
        arrays.append(array)
        for place in np.flatnonzero(bad):
            faults.setdefault(int(place), f"{field.name}: {reason}")
    for row, shown in _blank_ids(arrays[schema.get_field_index("post_id")]):
        faults.setdefault(row, f"post_id: expected a non-empty string, found {shown}")
    if faults:
        keep = np.ones(batch.num_rows, dtype=bool)
        keep[list(faults)] = False
        ids = arrays[schema.get_field_index("post_id")]
        rejected = [Rejected(part, first_row + row, ids[row].as_py() or None, faults[row]) for row in sorted(faults)]
        arrays = [array.filter(pa.array(keep)) for array in arrays]
        return pa.Table.from_arrays(arrays, schema=schema), rejected
    return pa.Table.from_arrays(arrays, schema=schema), []


def _with_plain_image(batch: pa.RecordBatch) -> pa.RecordBatch:
    """An image column of {bytes, path} as its bytes and, where it has none, the path as `image_uri` (if there is no such column)."""
    names = batch.schema.names
    kind = batch.schema.field("image").type if "image" in names else pa.null()
    if not pt.is_struct(kind) or not {"bytes", "path"} <= {field.name for field in kind}:
        return batch
    image = batch.column("image")
    held = dict(zip((field.name for field in kind), image.flatten(), strict=True))
    columns = {name: batch.column(name) for name in names} | {"image": held["bytes"]}
    path = _plain(held["path"])
    columns.setdefault("image_uri", pc.if_else(held["bytes"].is_valid(), pa.scalar(None, path.type), path))
    return pa.RecordBatch.from_pydict(columns)


def _blank_ids(ids: pa.Array) -> list[tuple[int, str]]:
    blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(ids), ""), True)
    return [
        (int(row), repr(ids[int(row)].as_py()) if ids[int(row)].is_valid else "null")
        for row in np.flatnonzero(blank.to_numpy(zero_copy_only=False))
    ]


Cast = tuple[pa.Array, np.ndarray, str]
"""The values as POST has them, True where a value could not be made into one, and why."""


def _plain(array: pa.Array) -> pa.Array:
    return array.dictionary_decode() if pt.is_dictionary(array.type) else array


def _none_bad(array: pa.Array) -> Cast:
    return array, np.zeros(len(array), dtype=bool), ""


def _refused(array: pa.Array, target: pa.DataType, expected: str) -> Cast:
    bad = array.is_valid().to_numpy(zero_copy_only=False)
    return pa.nulls(len(array), target), bad, f"expected {expected}, found {array.type}"


def _is_binary(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pt.is_binary, pt.is_large_binary, pt.is_fixed_size_binary, pt.is_binary_view))


def _is_text(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pt.is_string, pt.is_large_string, pt.is_string_view))


def _to_text(array: pa.Array) -> Cast:
    array = _plain(array)
    if pt.is_null(array.type):
        return _none_bad(pa.nulls(len(array), pa.string()))
    if not (_is_text(array.type) or _is_binary(array.type)):
        return _refused(array, pa.string(), "string")
    try:
        text = array.cast(pa.string())
        text.validate(full=True)
    except pa.ArrowInvalid:  # bytes that are no UTF-8: each such byte becomes U+FFFD
        values = [value.as_py() for value in array.cast(pa.binary())]
        text = pa.array([None if value is None else value.decode("utf-8", "replace") for value in values], pa.string())
    return _none_bad(text)


def _to_id(array: pa.Array) -> Cast:
    array = _plain(array)
    return _none_bad(array.cast(pa.string())) if pt.is_integer(array.type) else _to_text(array)


def _to_post_id(array: pa.Array) -> Cast:
    """As `_to_id`, but bytes that are no UTF-8 are refused: changed to fit, an id is another one, or that of another post."""
    ids, bad, reason = _to_id(array)
    replaced = pc.fill_null(pc.match_substring(ids, "\ufffd"), False).to_numpy(zero_copy_only=False)
    if not replaced.any():
        return ids, bad, reason
    raw = _plain(array).cast(pa.binary())
    changed = pc.fill_null(pc.not_equal(raw, ids.cast(pa.binary())), False)
    bad = replaced & changed.to_numpy(zero_copy_only=False)
    return (
        pc.if_else(pa.array(bad), pa.scalar(None, pa.string()), ids),
        bad,
        "expected UTF-8, found bytes that are none",
    )


def _to_tags(array: pa.Array) -> Cast:
    array, target = _plain(array), pa.list_(pa.string())
    kind = array.type
    if pt.is_null(kind):
        return _none_bad(pa.nulls(len(array), target))
    lists = pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind) or pt.is_list_view(kind)
    value = kind.value_type if lists else kind
    value = value.value_type if pt.is_dictionary(value) else value
    if not lists or not (_is_text(value) or _is_binary(value) or pt.is_null(value)):
        return _refused(array, target, "list<string>")
    try:
        tags = array.cast(target)
        tags.validate(full=True)
        if tags.flatten().null_count == 0:
            return _none_bad(tags)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        # Bytes that are no UTF-8, or a layout that Arrow does not cast: tag by tag, each such byte becomes U+FFFD as in captions.
        if not _is_binary(value):
            array = array.cast(pa.list_(pa.binary()))
        tags = array
    lists_of = [None if not row.is_valid else [_as_text(item) for item in row if item.is_valid] for row in tags]
    return _none_bad(pa.array(lists_of, target))


def _as_text(value: pa.Scalar) -> str:
    found = value.as_py()
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)


def _to_time(array: pa.Array) -> Cast:
    array = _plain(array)
    if pt.is_date(array.type):
        array = array.cast(pa.timestamp("ms"))
    if pt.is_null(array.type):
        return _none_bad(pa.nulls(len(array), TIMESTAMP))
    if not pt.is_timestamp(array.type):
        return _refused(array, TIMESTAMP, "timestamp")
    unit = array.type.unit
    ticks = array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    per_us = {"s": 1e-6, "ms": 1e-3, "us": 1.0, "ns": 1e3}[unit]
    bad = (ticks < FIRST_YEAR_US * per_us) | (ticks > LAST_YEAR_US * per_us)
    if bad.any():
        array = pc.if_else(pa.array(bad), pa.scalar(None, array.type), array)
    times = array.cast(pa.timestamp(unit, "UTC")).cast(TIMESTAMP, safe=False)
    return times, bad, "expected a time in the years 1 to 9999"


def _to_bytes(array: pa.Array) -> Cast:
    array = _plain(array)
    if pt.is_null(array.type):
        return _none_bad(pa.nulls(len(array), pa.binary()))
    if not _is_binary(array.type):
        return _refused(array, pa.binary(), "binary")
    return _none_bad(array.cast(pa.binary()))


def _to_degrees(array: pa.Array) -> Cast:
    array = _plain(array)
    kind = array.type
    if pt.is_null(kind) or pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind):
        return _none_bad(array.cast(pa.float64(), safe=False))
    return _refused(array, pa.float64(), "a number")


_CASTS: dict[str, Callable[[pa.Array], Cast]] = {
    "post_id": _to_post_id,
    "user_id": _to_id,
    "created_at": _to_time,
    "caption": _to_text,
    "hashtags": _to_tags,
    "image": _to_bytes,
    "image_uri": _to_text,
    "latitude": _to_degrees,
    "longitude": _to_degrees,
}
