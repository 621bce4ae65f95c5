"""Archive parts in the POST schema, streamed: a part is never whole in memory.

What is accepted and made into POST exactly: any column order, absent optional columns, other columns beside them,
`large_*`, `*_view`, dictionary and all-null columns, integers, whole decimals and UUIDs as ids, timestamps of any unit or
zone (none: UTC; INT96 as microseconds), dates, ISO 8601 text, any number for a coordinate, an image as the struct of bytes
and path that HuggingFace `datasets` writes (`hashtag_core.data.columns` has them all). A row that cannot be made into a
post becomes a `Rejected` that says field, found and expected.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from hashtag_core import storage
from hashtag_core.data.columns import cast_column, refused_type
from hashtag_core.data.file_signatures import other_content
from hashtag_core.data.list_parts import MAGIC, is_utf8, list_parquet, no_file
from hashtag_core.data.part_batches import FEW_ROWS, in_pieces, shared_columns
from hashtag_core.data.reading_options import AS_IT_IS, Reading, missing_column, unread_note
from hashtag_core.errors import ArchiveError, StorageError
from hashtag_core.faults import is_machine, raise_if_machine
from hashtag_core.schema import POST
from hashtag_core.storage import FileInfo

READ_BUFFER_BYTES = 1 << 20
SMALL_GROUP_BYTES = 1 << 20
"""A row group of fewer bytes is decoded sooner by one thread than it is shared among several."""


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
    """The Parquet parts of an archive at any depth, sorted by path; what counts as one: `hashtag_core.data.list_parts`.

    NotFoundError where nothing is, ArchiveError where no part is.
    """
    return list_parquet(archive_uri).required_parts()


def open_parquet(source: pa.NativeFile, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    """A part opened for streaming, with nothing of Arrow's defaults that would change data: INT96 dates (Spark, Hive) are
    read as microseconds, since as nanoseconds they wrap round outside the years 1677 to 2262; pages that carry a check sum
    are checked. `dictionaries`: leaves that are read as they are stored; see `hashtag_core.data.part_batches`."""
    return pq.ParquetFile(
        source,
        pre_buffer=False,
        buffer_size=READ_BUFFER_BYTES,
        coerce_int96_timestamp_unit="us",
        page_checksum_verification=True,
        read_dictionary=list(dictionaries),
    )


class PartFooter(NamedTuple):
    """What the footer of a part tells: why no post can come from it (None if one can), rows of each row group, columns."""

    problem: str | None
    groups: list[int]
    schema: pa.Schema


def part_footer(part: FileInfo, reading: Reading = AS_IT_IS) -> PartFooter:
    """The footer of a part; no groups where it has a problem (unreadable, no `post_id` column)."""
    if problem := _file_problem(part.uri):
        return PartFooter(problem, [], pa.schema([]))
    try:
        with storage.open_input(part.uri) as source:
            file = open_parquet(source)
            groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            schema = file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        return PartFooter(unreadable(part.uri, error), [], pa.schema([]))
    problem = _column_problem(schema.names, reading)
    return PartFooter(problem, [] if problem else groups, schema)


def part_problem(part: FileInfo, reading: Reading = AS_IT_IS) -> str | None:
    """Why no post can come from this part; None if one can. Reads the footer alone."""
    return part_footer(part, reading).problem


def type_problems(schema: pa.Schema, reading: Reading = AS_IT_IS) -> list[str]:
    """Columns of a readable part whose type rejects every row that has a value there, told once before a row is read."""
    present = [(name, column) for name in POST.names if (column := reading.column_of(name, schema.names))]
    return [problem for name, column in present if (problem := refused_type(name, schema.field(column).type, reading))]


def unread_columns(path: str, names: Sequence[str], reading: Reading = AS_IT_IS) -> list[str]:
    """A sentence that names the columns of a readable part that were not understood; empty where all were."""
    return unread_note(path, names, filter(None, (reading.column_of(name, names) for name in POST.names)))


def iter_post_batches(
    part: FileInfo | str,
    batch_rows: int,
    columns: Sequence[str] | None = None,
    max_batch_bytes: int | None = None,
    reading: Reading = AS_IT_IS,
) -> Iterator[PartBatch]:
    """Stream one Parquet part in batches of `batch_rows` rows; `columns` of POST alone, `post_id` always.

    With `max_batch_bytes`, of fewer rows where a batch would pass it once it is read.

    Rows that cannot be read are rejected, and the row groups behind them are read; where nothing readable follows, an empty
    batch with one `Rejected` whose row is None ends it: the part, or its rest. MachineError or StorageError where the machine
    or the storage failed and not the part.
    """
    info = storage.file_info(part) if isinstance(part, str) else part
    wanted = pa.schema([field for field in POST if columns is None or field.name in {*columns, "post_id"}])

    def ends(first_row: int, reason: str) -> PartBatch:
        return PartBatch(first_row, wanted.empty_table(), [Rejected(info.path, None, None, reason)])

    if problem := _file_problem(info.uri):
        yield ends(0, problem)
        return
    lost: list[tuple[int, int, str]] = []
    """Rows that could not be read, to be told once something behind them could."""
    try:
        with storage.open_input(info.uri) as source:
            file = open_parquet(source)
            names = file.schema_arrow.names
            if problem := _column_problem(names, reading):
                yield ends(0, problem)
                return
            present = list(dict.fromkeys(column for name in wanted.names if (column := reading.column_of(name, names))))
            for first_row, item in _batches_of(source, file, info.uri, present, batch_rows, max_batch_bytes):
                if isinstance(item, Lost):
                    lost.append((first_row, first_row + item.rows, item.reason))
                    continue
                for begin, end, reason in lost:
                    for row in range(begin, end, batch_rows):
                        rows = range(row, min(end, row + batch_rows))
                        gone = [Rejected(info.path, n, None, f"unreadable: {reason}") for n in rows]
                        yield PartBatch(row, wanted.empty_table(), gone)
                lost.clear()
                posts, rejected = _normalise_batch(item, wanted, info.path, first_row, reading)
                yield PartBatch(first_row, posts, rejected)
    except (pa.ArrowException, OSError) as error:
        yield ends(0, f"unreadable from row 0 on: {unreadable(info.uri, error)}")
        return
    if lost:
        yield ends(lost[0][0], f"unreadable from row {lost[0][0]} on: {lost[0][2]}")


class Lost(NamedTuple):
    """Rows of a row group that cannot be read."""

    rows: int
    reason: str


def _batches_of(
    source: pa.NativeFile, file: pq.ParquetFile, uri: str, columns: list[str], batch_rows: int, max_bytes: int | None
) -> Iterator[tuple[int, pa.RecordBatch | Lost]]:
    """The rows of each row group with the number of the first; what cannot be read of one is Lost, and the next is tried."""
    first_row, step = 0, batch_rows
    if max_bytes is not None:
        shared, by_few = shared_columns(file.metadata, columns)
        file = open_parquet(source, shared) if shared else file
        step = min(batch_rows, max(1, int(max_bytes / _row_bytes(file.metadata))), FEW_ROWS if by_few else batch_rows)
    for group in range(file.num_row_groups):
        counted = file.metadata.row_group(group).num_rows
        end = first_row + counted
        try:
            large = file.metadata.row_group(group).total_byte_size > SMALL_GROUP_BYTES
            read = file.iter_batches(batch_size=step, row_groups=[group], columns=columns, use_threads=large)
            for batch in read if max_bytes is None else in_pieces(read, batch_rows, max_bytes):
                yield first_row, batch
                first_row += batch.num_rows
            if first_row != end:
                raise pa.ArrowInvalid(
                    f"{counted - end + first_row} rows in row group {group}, its footer says {counted}"
                )
        except (pa.ArrowException, OSError) as error:
            yield first_row, Lost(max(0, end - first_row), unreadable(uri, error))
        first_row = end


def normalise_posts(
    table: pa.Table, part: str = "", first_row: int = 0, schema: pa.Schema = POST, reading: Reading = AS_IT_IS
) -> tuple[pa.Table, list[Rejected]]:
    """The rows of an acceptable table as exactly `schema` (POST or some of its columns), and the rows that are no posts.

    ArchiveError if there is no `post_id` column.
    """
    problem = _column_problem(table.column_names, reading)
    if problem:
        raise ArchiveError(f"{part}: {problem}" if part else problem)
    pieces: list[pa.Table] = []
    rejected: list[Rejected] = []
    found = (reading.column_of(name, table.column_names) for name in schema.names)
    for batch in table.select(list(dict.fromkeys(filter(None, found)))).to_batches():
        posts, faults = _normalise_batch(batch, schema, part, first_row, reading)
        pieces.append(posts)
        rejected += faults
        first_row += batch.num_rows
    return pa.concat_tables(pieces) if pieces else schema.empty_table(), rejected


def is_undated(item: Rejected) -> bool:
    """Whether all that is wrong with a row is its `created_at`: it is a post all the same, without a time."""
    return item.row is not None and item.post_id is not None and item.reason.startswith("created_at:")


def _file_problem(uri: str) -> str | None:
    problem = no_file(uri) if is_utf8(uri) else "a name that is no UTF-8"
    return None if problem is None else f"expected a Parquet file, found: {problem}"


def _other_content(uri: str) -> str | None:
    with storage.open_input(uri) as source:
        begin = bytes(source.read(512))
    return None if begin.startswith(MAGIC) else other_content(begin)


def _row_bytes(metadata: pq.FileMetaData) -> float:
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    total = sum(int(group.total_byte_size) for group in groups)
    return max(1.0, total / max(1, int(metadata.num_rows)))


def unreadable(uri: str, error: Exception) -> str:
    """What is wrong with the content, in one line; MachineError or StorageError if it is not the content."""
    if isinstance(error, OSError) and (error.errno is not None or is_machine(error)):
        raise StorageError(f"{uri}: read failed: {error}") from error
    raise_if_machine(error, f"{uri}: read failed")
    if other := _other_content(uri):
        return f"expected a Parquet file, found: {other}"
    return f"expected a Parquet file, found: {(str(error).strip() or type(error).__name__).splitlines()[0]}"


def _column_problem(names: Sequence[str], reading: Reading = AS_IT_IS) -> str | None:
    if problem := reading.absent(names):
        return problem
    if reading.column_of("post_id", names) is None:
        return missing_column("post_id", names)
    if len(set(names)) == len(names):
        return None
    present = (reading.column_of(name, names) for name in POST.names)
    twice = [name for name in present if name is not None and list(names).count(name) > 1]
    return f"{twice[0]}: column occurs twice" if twice else None


def _normalise_batch(
    batch: pa.RecordBatch, schema: pa.Schema, part: str, first_row: int, reading: Reading
) -> tuple[pa.Table, list[Rejected]]:
    arrays: list[pa.Array] = []
    faults: dict[int, str] = {}
    columns = _by_field(batch, schema, reading)
    for field in schema:
        if field.name not in columns:
            arrays.append(pa.nulls(batch.num_rows, field.type))
            continue
        cast = cast_column(field.name, columns[field.name], reading)
        arrays.append(cast.values)
        for position in map(int, np.flatnonzero(cast.bad)):
            faults.setdefault(position, f"{field.name}: {cast.why(position)}")
    ids = arrays[schema.get_field_index("post_id")]
    for row, shown in _blank_ids(ids):
        faults.setdefault(row, f"post_id: expected a non-empty string, found {shown}")
    if faults:
        keep = np.ones(batch.num_rows, dtype=bool)
        keep[list(faults)] = False
        rejected = [Rejected(part, first_row + row, ids[row].as_py() or None, faults[row]) for row in sorted(faults)]
        arrays = [array.filter(pa.array(keep)) for array in arrays]
        return pa.Table.from_arrays(arrays, schema=schema), rejected
    return pa.Table.from_arrays(arrays, schema=schema), []


def _by_field(batch: pa.RecordBatch, schema: pa.Schema, reading: Reading) -> Mapping[str, pa.Array]:
    """The columns by the field of POST they hold; an image of {bytes, path} as its bytes and, where it has none and there is
    no column of references, the path as `image_uri`."""
    names = batch.schema.names
    columns = {name: batch.column(column) for name in schema.names if (column := reading.column_of(name, names))}
    image = columns.get("image")
    if image is None or not pt.is_struct(image.type):
        return columns
    fields = dict(zip((field.name for field in image.type), image.flatten(), strict=True))
    if "bytes" not in fields:
        return columns
    columns["image"] = fields["bytes"]
    if "path" in fields and reading.column_of("image_uri", names) is None:
        path = fields["path"].dictionary_decode() if pt.is_dictionary(fields["path"].type) else fields["path"]
        columns["image_uri"] = pc.if_else(fields["bytes"].is_valid(), pa.scalar(None, path.type), path)
    return columns


def _blank_ids(ids: pa.Array) -> list[tuple[int, str]]:
    blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(ids), ""), True)
    return [
        (int(row), repr(ids[int(row)].as_py()) if ids[int(row)].is_valid else "null")
        for row in np.flatnonzero(blank.to_numpy(zero_copy_only=False))
    ]
