"""The first look at a part that is new or changed: its footer and its ids, never a picture."""

import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from hashtag_core import storage
from hashtag_core.config import ArchiveSection
from hashtag_core.data.history import UNDATED
from hashtag_core.data.list_parts import is_utf8
from hashtag_core.data.parquet_rows import PartBatch, PartFooter, is_undated
from hashtag_core.data.tagged_archive import Source
from hashtag_core.errors import MachineError, StorageError
from hashtag_core.faults import is_machine
from hashtag_core.output.forget_users.forget_list import FORGOTTEN, ForgetList
from hashtag_core.output.ids import Entries, Keys, keys_of
from hashtag_core.recommend.read_posts import READ
from hashtag_core.storage import FileInfo

SCAN_ROWS = 8_192
PARTS_AT_ONCE = 16
MANY_PARTS = 4_000
"""From so many parts on, processes share the work: a look at a small part is Python's own time, which threads cannot share."""
PARTS_PER_TASK = 250
MAX_PROCESSES = 8


@dataclass(frozen=True)
class LeftOut:
    """Rows that are not tagged from this part, and why: `rows` of them from `row` on; `row` None: the part."""

    row: int | None
    post_id: str | None
    reason: str
    rows: int = 1
    created_at: datetime | None = None


@dataclass
class Scan:
    """What one look through a part's ids found.

    `entries` and `at`, int64 [n], are of its posts, each id once: the latest row by `created_at`, then by position. Other rows of
    the same id are `doubles`, int64 [m, 2]: the row, and the one that is taken. Whatever row of the footer is no post is in `left_out`.
    """

    file: FileInfo
    groups: list[int]
    left_out: list[LeftOut]
    entries: Entries
    at: np.ndarray
    doubles: np.ndarray
    refused: str = ""
    """What the storage says that will not give the part, today or tomorrow (denied, in cold storage)."""

    @property
    def rows(self) -> int:
        """Rows by the footer."""
        return sum(self.groups)


class ArchiveLook:
    """What the plans of one command see of an archive: it is listed once, and the ids of a part are read once."""

    def __init__(self, uri: str, section: ArchiveSection) -> None:
        self.source = Source(uri, section)
        self._is_told = False
        self._forgotten: ForgetList | None = None
        self._scans: dict[tuple[str, str], Scan] = {}

    def tell(self) -> None:
        """Log what the listing tells, once."""
        if not self._is_told:
            self.source.tell()
        self._is_told = True

    def scan(self, files: Sequence[FileInfo], forgotten: ForgetList | None) -> list[Scan]:
        """As `scan_parts`."""
        if forgotten != self._forgotten:
            self._scans, self._forgotten = {}, forgotten
        new = [file for file in files if (file.path, file.etag) not in self._scans]
        self._scans |= {(scan.file.path, scan.file.etag): scan for scan in scan_parts(self.source, new, forgotten)}
        return [self._scans[file.path, file.etag] for file in files]


def scan_parts(source: Source, files: Sequence[FileInfo], forgotten: ForgetList | None = None) -> list[Scan]:
    """Look through the ids of parts, several at once; in their order. Posts on the list are left out. The scan of a part that
    the storage refuses to give has nothing but `refused`.

    MachineError where a process that looks through parts was killed, StorageError where the storage does not answer.
    """
    processes = min(MAX_PROCESSES, len(os.sched_getaffinity(0)))
    if len(files) < MANY_PARTS or processes < 2 or not source.is_parquet:
        return _scan_some(source, forgotten, files)
    source = replace(source)  # without the listing, which would go to the processes with every task
    tasks = [files[begin : begin + PARTS_PER_TASK] for begin in range(0, len(files), PARTS_PER_TASK)]
    spawn = multiprocessing.get_context("spawn")  # a fork would copy the locks of Arrow's and the S3 client's threads
    try:
        with ProcessPoolExecutor(processes, spawn, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
            return [scan for scans in pool.map(partial(_scan_some, source, forgotten), tasks) for scan in scans]
    except BrokenProcessPool as error:
        raise MachineError(f"{source.uri}: a process that looked through the ids of its parts was killed") from error


def _scan_some(source: Source, forgotten: ForgetList | None, files: Sequence[FileInfo]) -> list[Scan]:
    if not storage.is_remote(
        source.uri
    ):  # nothing is waited for: threads would only take the interpreter from each other
        return [_scan_or_refusal(source, file, forgotten) for file in files]
    with ThreadPoolExecutor(min(PARTS_AT_ONCE, max(1, len(files)))) as pool:
        return list(pool.map(lambda file: _scan_or_refusal(source, file, forgotten), files))


def _scan_or_refusal(source: Source, file: FileInfo, forgotten: ForgetList | None) -> Scan:
    """One object in cold storage, or under another owner's key, is no reason to leave all other parts untagged."""
    try:
        return scan_part(source, file, forgotten)
    except StorageError as error:
        if is_machine(error):
            raise
        return replace(_no_part(file, ""), left_out=[], refused=str(error))


def scan_part(source: Source, file: FileInfo, forgotten: ForgetList | None = None) -> Scan:
    """Look through the ids of a part; one that cannot be read has no groups and a reason."""
    problem = _path_problem(file)  # first: a name that is no UTF-8 cannot even be opened
    footer = PartFooter(problem, [], pa.schema([]))
    if problem is None and source.is_parquet:
        # Of another layout all rows are looked at: some may be posts behind many that are none.
        footer = source.footer(file)
    if footer.problem:
        return _no_part(file, footer.problem)
    doubtful = [name for name in READ.names if _is_doubtful(name, footer.schema, source)]
    columns = ["created_at", *doubtful, *(["user_id"] if forgotten is not None and forgotten.users else [])]
    found = _FoundRows(footer.groups, forgotten, is_parquet=source.is_parquet)
    for batch in source.batches(file, SCAN_ROWS, columns):
        found.take(batch)
    if not source.is_parquet and not len(found.seen):
        return _no_part(file, found.reason or "nothing in it")
    all_keys, created, at = Keys.concatenate(found.keys), np.concatenate(found.times), np.concatenate(found.rows)
    last, doubles = _latest(all_keys, created, at)
    entries = Entries(all_keys.take(last), created[last], np.zeros(len(last), np.uint32))
    groups = footer.groups if source.is_parquet else [len(found.seen)]
    return Scan(file, groups, found.left_out_in_all(), entries, at[last], doubles)


class _FoundRows:
    """What the batches of a part tell of its rows: which are posts, and why others are none."""

    def __init__(self, groups: Sequence[int], forgotten: ForgetList | None, *, is_parquet: bool) -> None:
        self.is_parquet = is_parquet
        self.forgotten = forgotten
        self.seen = np.zeros(sum(groups), dtype=bool)
        self.keys: list[Keys] = []
        self.times = [np.zeros(0, np.int64)]
        self.rows = [np.zeros(0, np.int64)]
        self.left_out: list[LeftOut] = []
        self.reason = ""
        """Why the part could not be read to its end."""

    def take(self, batch: PartBatch) -> None:
        """Note the rows of a batch."""
        if not self.is_parquet:  # its rows are counted as they come
            counted = batch.first_row + batch.posts.num_rows + sum(item.row is not None for item in batch.rejected)
            self.seen = np.concatenate([self.seen, np.zeros(max(0, counted - len(self.seen)), dtype=bool)])
        undated = [item for item in batch.rejected if is_undated(item)] if self.is_parquet else []
        for item in batch.rejected:
            if item.row is None:
                self.reason = item.reason
            elif not self.seen[item.row] and item not in undated:
                self.left_out.append(LeftOut(item.row, item.post_id, item.reason))
                self.seen[item.row] = True
        posts, at = self._not_forgotten(batch)
        self._note(posts["post_id"], posts["created_at"].cast(pa.int64()).fill_null(UNDATED).to_numpy(), at)
        if undated:
            ids = pa.array([item.post_id for item in undated], pa.string())
            self._note(ids, np.full(len(undated), UNDATED), np.array([item.row for item in undated], np.int64))

    def left_out_in_all(self) -> list[LeftOut]:
        """The rows that are no posts, those included that no batch told of."""
        untold = _runs(np.flatnonzero(~self.seen))
        left_out = [*self.left_out, *(LeftOut(first, None, self.reason or "unreadable", n) for first, n in untold)]
        if self.reason and not self.is_parquet:  # nobody knows how many rows follow: they are told as one
            left_out.append(LeftOut(None, None, self.reason))
        return left_out

    def _not_forgotten(self, batch: PartBatch) -> tuple[pa.Table, np.ndarray]:
        posts, at = batch.posts, batch.rows
        self.seen[at] = True
        if self.forgotten is None or not posts.num_rows:
            return posts, at
        gone = self.forgotten.covers(posts)
        self.left_out += [LeftOut(row, None, FORGOTTEN) for row in at[gone].tolist()]
        return posts.filter(pa.array(~gone)), at[~gone]

    def _note(self, ids: pa.ChunkedArray, times: np.ndarray, at: np.ndarray) -> None:
        self.seen[at] = True
        if len(at):
            self.keys.append(keys_of(ids))
            self.times.append(times)
            self.rows.append(at)


def _no_part(file: FileInfo, reason: str) -> Scan:
    nothing = np.zeros(0, np.int64), np.zeros((0, 2), np.int64)
    return Scan(file, [], [LeftOut(None, None, reason)], Entries.none(), *nothing)


def ids_of_rows(source: Source, file: FileInfo, rows: Sequence[int]) -> dict[int, tuple[str, datetime | None]]:
    """`post_id` and `created_at` of some rows that are posts. StorageError if the part changed since it was scanned."""
    wanted, found = np.array(sorted(rows), np.int64), dict[int, tuple[str, datetime | None]]()
    for batch in source.batches(file, SCAN_ROWS, ["created_at"]) if len(wanted) else ():
        here = batch.rows
        at = np.flatnonzero(np.isin(here, wanted, assume_unique=True))
        posts = batch.posts.take(pa.array(at))
        values = zip(posts["post_id"].to_pylist(), posts["created_at"].to_pylist(), strict=True)
        found |= dict(zip(here[at].tolist(), values, strict=True))
        undated = {item.row: item.post_id for item in batch.rejected if is_undated(item)}
        found |= {row: (undated[row], None) for row in wanted.tolist() if row in undated}
    if len(found) != len(set(rows)):
        raise StorageError(f"{file.uri}: changed while it was looked through: run again")
    return found


def _is_doubtful(name: str, schema: pa.Schema, source: Source) -> bool:
    """Whether a field's column must be read to know which rows are posts."""
    column = source.reading.column_of(name, schema.names)
    return column is not None and not _is_plain(schema.field(column).type)


def _is_plain(kind: pa.DataType) -> bool:
    """Whether every value of the type is acceptable wherever the column is: then it need not be read to know which rows are posts."""
    kind = kind.value_type if pt.is_dictionary(kind) else kind
    tests = (pt.is_string, pt.is_large_string, pt.is_string_view, pt.is_null, pt.is_struct)
    binary = (pt.is_binary, pt.is_large_binary, pt.is_binary_view, pt.is_fixed_size_binary)
    return any(test(kind) for test in (*tests, *binary))


def _latest(keys: Keys, created: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the latest row of each id, in the order of rows; and [m, 2], the other rows, each with that which is taken."""
    order = np.lexsort((at, created, keys.low, keys.high))
    ordered, rows = keys.take(order), at[order]
    is_last = np.ones(len(order), dtype=bool)
    is_last[:-1] = (ordered.high[1:] != ordered.high[:-1]) | (ordered.low[1:] != ordered.low[:-1])
    places = np.flatnonzero(is_last)
    others = np.flatnonzero(~is_last)
    taken = rows[places[np.searchsorted(places, others)]] if len(others) else rows[:0]
    return np.sort(order[is_last]), np.stack([rows[others], taken], axis=1)


def _runs(rows: np.ndarray) -> list[tuple[int, int]]:
    """First row and length of each run of consecutive rows."""
    pieces = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1) if len(rows) else []
    return [(int(piece[0]), len(piece)) for piece in pieces]


def _path_problem(file: FileInfo) -> str | None:
    if not is_utf8(file.uri):
        return "path: no UTF-8"
    return "path: holds '..'" if ".." in file.path.split("/") else None
