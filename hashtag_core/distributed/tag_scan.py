"""The first look at an archive: footers and ids alone, and which row of each repeated id is tagged."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from hashtag_core import storage
from hashtag_core.config import Section
from hashtag_core.data.posts import iter_post_batches, part_problem
from hashtag_core.storage import FileInfo

SCAN_ROWS = 8_192
DAY_US = 86_400_000_000
UNDATED = np.iinfo(np.int32).min
NO_DAY = "__HIVE_DEFAULT_PARTITION__"
REPEATED = "repeated post_id"
"""How the reason of a row begins whose id another row has too."""


class LeftOut(Section):
    """A row that is not tagged from this part, and why; `row` null: the part, or the rest of it."""

    row: int | None
    post_id: str | None
    reason: str


@dataclass
class Scan:
    """What one look through a part's ids found; `hashes` and `rows` are of its posts."""

    file: FileInfo
    groups: list[int]
    readable: int
    left_out: list[LeftOut]
    hashes: np.ndarray
    rows: np.ndarray


def scan_part(file: FileInfo) -> Scan:
    """Look through the ids of a part; one that cannot be read has no groups and a reason."""
    problem = _path_problem(file.path) or part_problem(file)
    if problem:
        nothing = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        return Scan(file, [], 0, [LeftOut(row=None, post_id=None, reason=problem)], *nothing)
    with storage.open_input(file.uri) as source:
        footer = pq.ParquetFile(source, pre_buffer=False).metadata
    groups = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
    hashes, rows, left_out, readable = [], [], [], sum(groups)
    for batch in iter_post_batches(file, SCAN_ROWS, ["post_id"]):
        left_out += [LeftOut(row=item.row, post_id=item.post_id, reason=item.reason) for item in batch.rejected]
        if any(item.row is None for item in batch.rejected):
            readable = batch.first_row
        hashes.append(pd.util.hash_array(batch.posts["post_id"].to_numpy(), categorize=False))
        rows.append(batch.rows)
    return Scan(
        file,
        groups,
        readable,
        left_out,
        np.concatenate(hashes) if hashes else np.zeros(0, np.uint64),
        np.concatenate(rows) if rows else np.zeros(0, np.int64),
    )


def leave_out_repeated(scans: list[Scan]) -> None:
    """Of the rows with one id, all but the latest by `created_at` (null: the earliest), then the last part and row, go to `left_out`."""
    hashes = np.sort(np.concatenate([scan.hashes for scan in scans]))
    repeated = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    if not len(repeated):
        return
    found: dict[str, list[tuple[int, int, int]]] = {}
    for position, scan in enumerate(scans):
        suspects = scan.rows[np.isin(scan.hashes, repeated)]
        if len(suspects):
            for post_id, row, time_us in _ids_and_times(scan.file, suspects):
                found.setdefault(post_id, []).append((time_us, position, row))
    for post_id, places in found.items():
        *others, (_, winner, winner_row) = sorted(places)
        reason = f"{REPEATED}: tagged from {scans[winner].file.path}, row {winner_row}"
        for _, position, row in others:
            scans[position].left_out.append(LeftOut(row=row, post_id=post_id, reason=reason))


def hashes_and_days(file: FileInfo, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each of a part's `rows` rows the hash of its id, uint64 (0 where none can be read), and the day of `created_at` in
    UTC, int32 days since 1970 (UNDATED where there is none that can be read)."""
    hashes, days = np.zeros(rows, np.uint64), np.full(rows, UNDATED, np.int32)
    for batch in iter_post_batches(file, SCAN_ROWS, ["created_at"]):
        hashes[batch.rows] = pd.util.hash_array(batch.posts["post_id"].to_numpy(), categorize=False)
        times = batch.posts["created_at"]
        dated = times.is_valid().to_numpy()
        days[batch.rows[dated]] = times.drop_null().cast("int64").to_numpy() // DAY_US
        named = {item.row: item.post_id for item in batch.rejected if item.row is not None and item.post_id is not None}
        ids = np.array(list(named.values()), dtype=object)  # a post all the same, without a time
        hashes[np.array(list(named), np.int64)] = pd.util.hash_array(ids, categorize=False)
    return hashes, days


def day_folder(day: int) -> str:
    """Name of the folder of a day as `hashes_and_days` gives it; hive's own for posts without a date, which readers take as null."""
    return f"day={NO_DAY if day == UNDATED else np.datetime64(int(day), 'D')}"


def _ids_and_times(file: FileInfo, wanted: np.ndarray) -> Iterator[tuple[str, int, int]]:
    """`post_id`, row and `created_at` (microseconds; the smallest integer if there is none that can be read) of those rows."""
    never = np.iinfo(np.int64).min
    times: dict[int, int] = {}
    for batch in iter_post_batches(file, SCAN_ROWS, ["created_at"]):
        here = np.flatnonzero(np.isin(batch.rows, wanted))
        values = batch.posts["created_at"].take(here).cast("int64").to_pylist()
        times |= {int(batch.rows[at]): value for at, value in zip(here, values, strict=True) if value is not None}
    for batch in iter_post_batches(file, SCAN_ROWS, ["post_id"]):
        here = np.flatnonzero(np.isin(batch.rows, wanted))
        for at, post_id in zip(here, batch.posts["post_id"].take(here).to_pylist(), strict=True):
            yield post_id, int(batch.rows[at]), times.get(int(batch.rows[at]), never)


def _path_problem(path: str) -> str | None:
    if "\ufffd" in path:
        return "path: no UTF-8"  # or that very character: neither reaches every reader whole
    return "path: holds '..'" if ".." in path.split("/") else None
