"""A part of an old output as rows of the table: what the archive still knows of it is looked up, nothing is tagged."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hashtag_core import storage
from hashtag_core.data.parquet_rows import iter_post_batches
from hashtag_core.output.content_hash import CONTENT_COLUMNS, content_hashes
from hashtag_core.output.forget_users.forget_list import FORGOTTEN, ForgetList
from hashtag_core.output.layout import Layout
from hashtag_core.output.old_layout import OldLine, OldPart, is_by_day, old_lines, old_rows, tagged_row_numbers
from hashtag_core.output.records import PartRecord
from hashtag_core.schema import REJECTED_TABLE, TABLE, TIMESTAMP, RejectedLine
from hashtag_core.storage import FileInfo

logger = logging.getLogger(__name__)

READ_ROWS, READ_BYTES = 256, 64 << 20
"""Rows of the archive that are in memory at once, fewer where they are large: content hashes are of pictures too."""
UNREAD = "unreadable"


@dataclass
class ArchivePart:
    """What the archive says of a part that it still has as it was tagged, by row: `created_at` in microseconds, content hash, user
    key; and by `post_id` the row, for parts by day."""

    info: FileInfo | None = None
    groups: list[int] = field(default_factory=list)
    rows: dict[int, tuple[int | None, int, str | None]] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)


def read_archive_part(info: FileInfo, forgotten: ForgetList) -> ArchivePart:
    """Read a part whole, its pictures too."""
    found = ArchivePart(info)
    with storage.open_input(info.uri) as source:
        metadata = pq.ParquetFile(source, pre_buffer=False).metadata
        found.groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    columns = [*CONTENT_COLUMNS, "created_at"]
    for batch in iter_post_batches(info, READ_ROWS, columns, max_batch_bytes=READ_BYTES):
        times = batch.posts["created_at"].cast(pa.int64()).to_pylist()
        users = [None if user is None else forgotten.user_key(user) for user in batch.posts["user_id"].to_pylist()]
        rows = batch.rows.tolist()
        found.rows |= dict(zip(rows, zip(times, content_hashes(batch.posts), users, strict=True), strict=True))
        found.ids |= dict(zip(batch.posts["post_id"].to_pylist(), rows, strict=True))
    return found


def same_version(old: str, now: str) -> bool:
    """Whether an etag is that of a part as it was tagged: today's may say more of a local file than those of then."""
    old, now = old.strip('"'), now.strip('"')
    return now == old or now.startswith(f"{old}-")


def record_of(part: OldPart, found: ArchivePart, number: int, token: str, rejected: int) -> PartRecord:
    """As the table keeps it."""
    info = found.info
    return PartRecord(
        path=part.part,
        etag=part.etag if info is None else info.etag,
        number=number,
        size=0 if info is None else info.size,
        rows=part.rows,
        groups=found.groups if found.groups and sum(found.groups) == part.rows else [part.rows] if part.rows else [],
        tagged=part.tagged,
        rejected=rejected,
        token=token,
        run="migrated",
    )


def table_rows(layout: Layout, part: OldPart, found: ArchivePart, etag: str) -> Iterator[pa.Table]:
    """Rows of TABLE, a file after the other. What the archive does not know is null."""
    lines = old_lines(layout, part)
    by_day = is_by_day(layout, part)
    free = np.array([], np.int64) if by_day and part.unread else tagged_row_numbers(part, lines)
    if by_day:
        free = np.setdiff1d(np.arange(part.rows), [line.row for line in lines if line.row is not None])
    begin, taken = 0, set[int]()
    for rows in old_rows(layout, part):
        ids = rows["post_id"].to_pylist()
        numbers = free[begin : begin + len(ids)].tolist()
        if by_day and found.ids:
            numbers = [found.ids.get(post_id, -1) for post_id in ids]
            spare = iter(np.setdiff1d(free, [*taken, *numbers]).tolist())
            numbers = [number if number >= 0 and number not in taken else next(spare) for number in numbers]
            taken.update(numbers)
        begin += len(ids)
        known = [found.rows.get(number, (None, None, None)) for number in numbers]
        yield pa.table(
            {
                **{name: rows[name] for name in rows.column_names},
                "created_at": pa.array([time for time, _, _ in known], pa.int64()).cast(TIMESTAMP),
                "part": pa.array([part.part] * len(ids), pa.string()),
                "part_version": pa.array([etag] * len(ids), pa.string()),
                "part_row": pa.array(numbers, pa.int64()),
                "content": pa.array([content for _, content, _ in known], pa.int64()),
                "history": pa.nulls(len(ids), pa.int64()),
                "user_key": pa.array([user for _, _, user in known], pa.string()),
            },
            schema=TABLE,
        )


def rejected_rows(layout: Layout, part: OldPart, found: ArchivePart, etag: str, tagged: np.ndarray) -> pa.Table:
    """Lines of REJECTED_TABLE, which with the `tagged` rows make all rows of the part."""
    lines = old_lines(layout, part)
    named = [line for line in lines if line.row is not None]
    rejected = [_line(part, line, line.row, 1, etag, found) for line in named]
    unseen = np.setdiff1d(np.arange(part.rows), [*tagged.tolist(), *(line.row for line in named)])
    reasons = [line.reason for line in lines if line.row is None]
    by_forgetting = bool(reasons) and all(reason == FORGOTTEN for reason in reasons)
    others = [reason for reason in reasons if reason != FORGOTTEN]
    reason = FORGOTTEN if by_forgetting else others[0] if others else UNREAD
    pieces = np.split(unseen, np.flatnonzero(np.diff(unseen) != 1) + 1) if len(unseen) else []
    rejected += [_line(part, OldLine(None, None, reason), int(piece[0]), len(piece), etag, found) for piece in pieces]
    if not part.rows:
        rejected += [_line(part, line, None, 1, etag, found) for line in lines if line.row is None][:1]
    return pa.Table.from_pylist(rejected, schema=REJECTED_TABLE)


def _line(part: OldPart, line: OldLine, row: int | None, rows: int, etag: str, found: ArchivePart) -> RejectedLine:
    time, _, user = found.rows.get(-1 if row is None else row, (None, 0, None))
    forgotten = line.reason == FORGOTTEN
    return {
        "part": part.part,
        "row": row,
        "post_id": line.post_id,
        "reason": line.reason,
        "rows": rows,
        "part_version": etag,
        "created_at": None if forgotten or line.post_id is None else time,
        "user_key": None if forgotten or line.post_id is None else user,
    }
