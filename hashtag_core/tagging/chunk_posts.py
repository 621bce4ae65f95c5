"""The posts of a chunk on their way to the model: read, compared with what is known of them, opened."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

import numpy as np
import pyarrow as pa

from hashtag_core import storage
from hashtag_core.data.parquet_rows import Rejected, is_undated, normalise_posts, open_parquet, unreadable
from hashtag_core.data.part_batches import FEW_ROWS, in_pieces, shared_columns
from hashtag_core.data.reading_options import Reading
from hashtag_core.data.tagged_archive import Source
from hashtag_core.output.content_hash import content_hashes
from hashtag_core.output.forget_users.forget_list import user_key
from hashtag_core.recommend.read_posts import READ, OpenedPosts
from hashtag_core.schema import POST, TIMESTAMP
from hashtag_core.storage import FileInfo
from hashtag_core.tagging.planned_work import Chunk
from hashtag_core.tagging.task import Task

READ_ROWS, READ_BYTES = 64, 64 << 20
"""Rows whose image bytes are in memory at once, fewer where rows are large; of the rest of a chunk only the decoded
pixels are."""

COLUMNS = pa.schema([*READ, POST.field("created_at")])
"""What is read of a part."""


@dataclass
class ChunkPosts:
    """Posts of one chunk with their row numbers in the part, those whose tags are kept, and the rows that are no posts."""

    rows: list[int] = field(default_factory=list)
    opened: OpenedPosts = field(default_factory=OpenedPosts)
    provenance: dict[int, tuple[int | None, int, str | None]] = field(default_factory=dict)
    """Row -> `created_at` in microseconds, content hash, user key."""
    carried: list[tuple[int, str]] = field(default_factory=list)
    """Row and `post_id` of posts whose content is what the table has tags for."""
    rejected: list[Rejected] = field(default_factory=list)
    waiting: deque[Callable[[], None]] = field(default_factory=deque)
    """Each adds a batch that is being opened elsewhere, in their order."""

    def settle(self, left: int = 0) -> None:
        """Wait until no more than `left` batches are being opened."""
        while len(self.waiting) > left:
            self.waiting.popleft()()

    def note(self, posts: pa.Table, rows: Sequence[int], contents: Sequence[int], salt: str) -> None:
        """Keep what the table says of where posts come from."""
        times = posts["created_at"].cast(pa.int64()).to_pylist()
        users = [None if user is None else user_key(salt, user) for user in posts["user_id"].to_pylist()]
        self.provenance |= dict(zip(rows, zip(times, contents, users, strict=True), strict=True))

    def provenance_columns(self, task: Task, rows: Sequence[int]) -> dict[str, pa.Array]:
        """The columns of PROVENANCE for those rows, but for `history`."""
        found = [self.provenance[row] for row in rows]
        return {
            "created_at": pa.array([time for time, _, _ in found], pa.int64()).cast(TIMESTAMP),
            "part": pa.array([task.path] * len(rows), pa.string()),
            "part_version": pa.array([task.version] * len(rows), pa.string()),
            "part_row": pa.array(rows, pa.int64()),
            "content": pa.array([content for _, content, _ in found], pa.int64()),
            "user_key": pa.array([user for _, _, user in found], pa.string()),
        }


@dataclass(frozen=True)
class ReadPosts:
    """Posts of consecutive rows, with COLUMNS, their row numbers in the part, and the rows that are no posts."""

    posts: pa.Table
    rows: list[int]
    rejected: list[Rejected]

    def between(self, first: int, end: int) -> "ReadPosts":
        """Those of the rows from `first` to before `end`."""
        kept = [at for at, row in enumerate(self.rows) if first <= row < end]
        faults = [item for item in self.rejected if item.row is not None and first <= item.row < end]
        return ReadPosts(self.posts.take(pa.array(kept, pa.int64())), [self.rows[at] for at in kept], faults)


Take = Callable[[ChunkPosts, ReadPosts], None]
"""Adds posts to a chunk."""


def read_chunks(source: Source, task: Task, chunks: Sequence[Chunk], take: Take) -> Iterator[tuple[Chunk, ChunkPosts]]:
    """The chunks with their posts, as `take` adds them. Rows from which on the row group is broken are rejected.

    StorageError or MachineError where the storage or the machine failed and not the content.
    """
    if not chunks:
        return
    waiting = list(chunks)
    posts = ChunkPosts()
    at = waiting[0].first_row - waiting[0].offset
    reason = "the part has fewer rows than when it was planned"
    try:
        for first_row, rows, read in _batches(source, task, waiting[0]):
            end = first_row + rows
            while waiting and waiting[0].first_row < end:
                chunk = waiting[0]
                last = min(end, chunk.first_row + chunk.rows)
                if max(first_row, chunk.first_row) < last:
                    take(posts, read(max(first_row, chunk.first_row), last))
                if last < chunk.first_row + chunk.rows:
                    break
                yield chunk, posts
                posts = ChunkPosts()
                waiting.pop(0)
            at = end
            if not waiting:
                return
    except (pa.ArrowException, OSError, MemoryError) as error:
        reason = unreadable(task.uri, error)
    left_out = set(task.left_out)
    for chunk in waiting:
        lost = range(max(at, chunk.first_row), chunk.first_row + chunk.rows)
        posts.rejected += [Rejected(task.path, row, None, reason) for row in lost if row not in left_out]
        yield chunk, posts
        posts = ChunkPosts()


Read = Callable[[int, int], ReadPosts]
"""The posts of a batch, of the rows from one to before another."""


def _batches(source: Source, task: Task, first: Chunk) -> Iterator[tuple[int, int, Read]]:
    """Batches of the row group (of other layouts: of the part) in which the chunks are: first row, rows, and what reads them."""
    if not source.is_parquet:
        part = FileInfo(task.uri, task.path, 0, task.version, datetime.now(UTC))
        for batch in source.batches(part, READ_ROWS, COLUMNS.names):
            posts = batch.posts.select(COLUMNS.names)
            rows = posts.num_rows + sum(item.row is not None for item in batch.rejected)
            yield batch.first_row, rows, ReadPosts(posts, batch.rows.tolist(), batch.rejected).between
        return
    with storage.open_input(task.uri) as opened:
        file = open_parquet(opened)
        group = file.metadata.row_group(first.group)
        names = file.schema_arrow.names
        columns = [column for name in COLUMNS.names if (column := source.reading.column_of(name, names))]
        rows = max(1, min(READ_ROWS, READ_BYTES * group.num_rows // max(1, group.total_byte_size)))
        shared, by_few = shared_columns(file.metadata, columns)
        file = open_parquet(opened, shared) if shared else file
        rows = min(rows, FEW_ROWS) if by_few else rows
        begin = at = first.first_row - first.offset
        read = file.iter_batches(batch_size=rows, row_groups=[first.group], columns=list(dict.fromkeys(columns)))
        for batch in in_pieces(read, rows, READ_BYTES):
            yield at, batch.num_rows, partial(_read, batch, at, task.path, source.reading)
            at += batch.num_rows
        if at - begin != group.num_rows:
            raise pa.ArrowInvalid(f"{at - begin} rows in row group {first.group}, its footer says {group.num_rows}")


def _read(batch: pa.RecordBatch, first_row: int, path: str, reading: Reading, first: int, end: int) -> ReadPosts:
    """Some rows of a batch as posts. A `created_at` that is no time is left away, and the post is one."""
    table = pa.Table.from_batches([batch.slice(first - first_row, end - first)])
    posts, rejected = normalise_posts(table, path, first, COLUMNS, reading)
    rows = _rows_but(first, end, rejected)
    if not any(is_undated(item) for item in rejected):
        return ReadPosts(posts, rows, rejected)
    times = dict(zip(rows, posts["created_at"].to_pylist(), strict=True))
    posts, rejected = normalise_posts(table, path, first, READ, reading)
    rows = _rows_but(first, end, rejected)
    created = pa.array([times.get(row) for row in rows], TIMESTAMP)
    return ReadPosts(posts.append_column("created_at", created).select(COLUMNS.names), rows, rejected)


def _rows_but(first: int, end: int, rejected: Sequence[Rejected]) -> list[int]:
    faulty = {item.row for item in rejected}
    return [row for row in range(first, end) if row not in faulty]


def wanted_posts(read: ReadPosts, task: Task, chunk_posts: ChunkPosts, salt: str) -> tuple[pa.Table, list[int]]:
    """The posts that are to be opened, with their rows; those whose content is known are kept as they are."""
    left_out = set(task.left_out)
    keep = np.array([row not in left_out for row in read.rows], dtype=bool)
    posts = read.posts.filter(pa.array(keep))
    rows = [row for row in read.rows if row not in left_out]
    chunk_posts.rejected += [item for item in read.rejected if item.row not in left_out]
    contents = content_hashes(posts)
    known = np.array([task.expected.get(row) == content for row, content in zip(rows, contents, strict=True)], bool)
    if known.any():
        ids = posts["post_id"].to_pylist()
        chunk_posts.carried += [(row, ids[at]) for at, row in enumerate(rows) if known[at]]
        posts = posts.filter(pa.array(~known))
        rows = [row for at, row in enumerate(rows) if not known[at]]
        contents = [content for at, content in enumerate(contents) if not known[at]]
    chunk_posts.note(posts, rows, contents, salt)
    return posts, rows
