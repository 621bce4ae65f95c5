"""The posts of a chunk on their way to the model: read, compared with what is known of them, opened."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hashtag_core import storage
from hashtag_core.data.posts import READ_BUFFER_BYTES, Rejected, normalise_posts, unreadable
from hashtag_core.output.content import content_hashes
from hashtag_core.output.forget_list import user_key
from hashtag_core.recommend.posts import READ, OpenedPosts
from hashtag_core.schema import POST, TIMESTAMP
from hashtag_core.tagging.plan import Chunk
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


Take = Callable[[ChunkPosts, pa.RecordBatch, int], None]
"""Adds a batch of rows, of which the first is that row of the part, to a chunk."""


def read_chunks(archive: str, task: Task, chunks: Sequence[Chunk], take: Take) -> Iterator[tuple[Chunk, ChunkPosts]]:
    """The chunks with their posts, as `take` adds them. Rows from which on the row group is broken are rejected.

    StorageError or MachineError where the storage or the machine failed and not the content.
    """
    if not chunks:
        return
    uri = storage.join(archive, task.path)
    waiting = list(chunks)
    held = ChunkPosts()
    at = 0
    try:
        with storage.open_input(uri) as source:
            file = pq.ParquetFile(source, pre_buffer=False, buffer_size=READ_BUFFER_BYTES)
            group = file.metadata.row_group(waiting[0].group)
            columns = [name for name in COLUMNS.names if name in file.schema_arrow.names]
            rows = max(1, min(READ_ROWS, READ_BYTES * group.num_rows // max(1, group.total_byte_size)))
            for batch in file.iter_batches(batch_size=rows, row_groups=[waiting[0].group], columns=columns):
                end = at + batch.num_rows
                while waiting and waiting[0].offset < end:
                    chunk = waiting[0]
                    first, last = max(at, chunk.offset), min(end, chunk.offset + chunk.rows)
                    if first < last:
                        take(held, batch.slice(first - at, last - first), chunk.first_row + first - chunk.offset)
                    if last < chunk.offset + chunk.rows:
                        break
                    yield chunk, held
                    held = ChunkPosts()
                    waiting.pop(0)
                at = end
                if not waiting:
                    return
            raise pa.ArrowInvalid(f"{at} rows in row group {waiting[0].group}, its footer says {group.num_rows}")
    except (pa.ArrowException, OSError, MemoryError) as error:
        reason = unreadable(uri, error)
    left_out = set(task.left_out)
    for chunk in waiting:
        seen = max(0, at - chunk.offset)
        lost = range(chunk.first_row + seen, chunk.first_row + chunk.rows)
        held.rejected += [Rejected(task.path, row, None, reason) for row in lost if row not in left_out]
        yield chunk, held
        held = ChunkPosts()


def wanted_posts(
    batch: pa.RecordBatch, first_row: int, task: Task, held: ChunkPosts, salt: str
) -> tuple[pa.Table, list[int]]:
    """The posts of a batch that are to be opened, with their rows; those whose content is known are kept as they are."""
    posts, rejected = normalise_posts(pa.Table.from_batches([batch]), task.path, first_row, COLUMNS)
    left_out, faulty = set(task.left_out), {item.row for item in rejected}
    numbers = [row for row in range(first_row, first_row + batch.num_rows) if row not in faulty]
    keep = np.array([row not in left_out for row in numbers], dtype=bool)
    posts = posts.filter(pa.array(keep))
    rows = [row for row in numbers if row not in left_out]
    held.rejected += [item for item in rejected if item.row not in left_out]
    contents = content_hashes(posts)
    known = np.array([task.expected.get(row) == content for row, content in zip(rows, contents, strict=True)], bool)
    if known.any():
        ids = posts["post_id"].to_pylist()
        held.carried += [(row, ids[at]) for at, row in enumerate(rows) if known[at]]
        posts = posts.filter(pa.array(~known))
        rows = [row for at, row in enumerate(rows) if not known[at]]
        contents = [content for at, content in enumerate(contents) if not known[at]]
    held.note(posts, rows, contents, salt)
    return posts, rows
