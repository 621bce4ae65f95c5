"""Put the published rows of each part into folders by day: `<part>/day=2026-01-31/part-*.parquet`, the UTC day of `created_at`.

TAGGED rows have no date: it is that of their row in the archive, of which `post_id` and `created_at` alone are read, and
every id is compared. Posts without a date are in hive's own `day=__HIVE_DEFAULT_PARTITION__`, which readers take as null.
Rows keep their order within a day; a file is named by the part's id, a number that only orders a day's files, and its
content. What stands where meanwhile is told in `tag_rewrite`; parts that are by day already are merged as in `tag_compact`.
A part that the archive no longer has as it was tagged is left as it is.

Memory: 12 bytes a row of the part; a file as it is read and one of the target size; and the rows of as many days as make up
HELD_BYTES. Files are read once for each such run of days that they hold rows of: a part in order of time about once, one in
no order once for every HELD_BYTES of its rows. A day that is larger alone is not held but streamed.
"""

import logging
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hashtag_core import storage
from hashtag_core.data.posts import list_parts
from hashtag_core.distributed.lease import new_run_id
from hashtag_core.distributed.passes import passing
from hashtag_core.distributed.tag_compact import TARGET_BYTES, Compacted, merge, merged, rewrite, waits
from hashtag_core.distributed.tag_plan import Layout
from hashtag_core.distributed.tag_rewrite import (
    Rewriter,
    is_by_day,
    listed,
    manifests,
    output_layouts,
    part_folder,
    published_bytes,
    rejected_lines,
    tagged_archive,
    tagged_rows,
)
from hashtag_core.distributed.tag_scan import SCAN_ROWS, day_folder, hashes_and_days
from hashtag_core.errors import ConfigError, IntegrityError, NotFoundError
from hashtag_core.schema import TAGGED
from hashtag_core.storage import FileInfo

logger = logging.getLogger(__name__)

HELD_BYTES = 256 << 20
"""Of rows in memory, as the first batch of the part has them on the mean."""


@dataclass
class Partitioned(Compacted):
    """`compacted_parts`: those that were rewritten."""

    left_parts: int = 0
    """Left as they are: the archive has them no longer as they were tagged."""


def partition(
    out: str, archive: str | None = None, target_bytes: int = TARGET_BYTES, *, dry_run: bool = False
) -> Partitioned:
    """Put by day what is not; with `dry_run` say what that is (`files_after` is then not known, and 0). `archive`: where the
    posts' times are, else the one that was tagged.

    ConfigError, and nothing changed, for an archive that has folders `day=` itself; NotFoundError or ArchiveError where there
    is no output or no archive; LeaseHeldError while a run tags; IntegrityError for a file that is not what its manifest says,
    and, with the counts as its `summary`, once all others are done, if parts were left as they are.
    """
    places = {layout: archive or held for layout in output_layouts(out) if (held := tagged_archive(layout))}
    if not places:
        raise NotFoundError(f"{out}: nothing was tagged here yet")
    for layout, place in places.items():
        _check_folders(layout)
        list_parts(place)
    result, run_id, left = Partitioned(), new_run_id(), list[str]()
    for layout, place in places.items():
        with nullcontext() if dry_run else Rewriter(layout, run_id) as rewriter:
            found = list(manifests(layout))
            for uri, manifest in passing(found, "by day", "part"):
                by_day = is_by_day(layout, manifest)
                source = None if by_day else _as_tagged(place, manifest)
                is_left = not by_day and source is None and manifest["tagged"] > 0
                if is_left:
                    logger.warning("%s: left as it is: %s has it no longer as it was tagged", manifest["part"], place)
                    left.append(manifest["part"])
                waiting = waits(manifest, target_bytes) if by_day else not is_left
                result.count(manifest, waits=waiting)
                if rewriter is None:
                    continue
                if not waiting:
                    written = manifest
                elif by_day:
                    written = merge(rewriter, uri, manifest, target_bytes)
                else:
                    contents = _by_day(layout, uri, manifest, source, target_bytes)
                    written = rewrite(rewriter, uri, manifest, contents, target_bytes)
                result.count_after(written)
    result.left_parts = len(left)
    if left and not dry_run:
        error = IntegrityError(
            f"{out}: {len(left)} part(s) are not by day: {', '.join(left[:3])}: the archive has them no longer as they were "
            "tagged. Tag them as they are now and run again, or name an archive that has them with --archive; as long as "
            "parts are by day and others are not, read without the day (hive_partitioning=false)"
        )
        error.summary = asdict(result)  # type: ignore[attr-defined]
        raise error
    return result


def _check_folders(layout: Layout) -> None:
    for info in listed(layout.manifests):
        if any(step.lower().startswith("day=") for step in info.path.split("/")):
            raise ConfigError(
                f"{layout.tagged}: its parts are in folders 'day=' already, as {info.path.rpartition('/')[0]}"
            )


def _as_tagged(archive: str, manifest: dict[str, Any]) -> FileInfo | None:
    """The archive's part, if it is what was tagged."""
    if manifest["tagged"]:
        with suppress(NotFoundError):
            info = storage.file_info(storage.join(archive, manifest["part"]))
            return info if info.etag == manifest["etag"] else None
    return None


def _by_day(
    layout: Layout, uri: str, manifest: dict[str, Any], source: FileInfo | None, target_bytes: int
) -> Iterator[tuple[str, bytes]]:
    """The new files of a part, day after day; none where no row is tagged (`source` None)."""
    if source is None:
        return
    hashes, days = hashes_and_days(source, manifest["rows"])
    rows = tagged_rows(uri, manifest, rejected_lines(layout, manifest))
    hashes, days = hashes[rows], days[rows]
    before = f"{part_folder(layout, manifest)}/%s/part-{manifest['id']}-%05d.parquet"
    row_bytes = sum(file["size"] for file in manifest["files"]) / len(rows)
    for run in _runs(days, int(HELD_BYTES / _held_bytes(layout, manifest))):
        for day, tables in _tables(layout, manifest, hashes, days, run):
            pieces = (
                (before % (day_folder(day), number), table, table.num_rows * row_bytes)
                for number, table in enumerate(tables)
            )
            yield from merged(pieces, target_bytes)


def _runs(days: np.ndarray, most_rows: int) -> Iterator[np.ndarray]:
    """The distinct days in order, as many at once as have no more rows together, at least one."""
    distinct, counts = np.unique(days, return_counts=True)
    begin = 0
    while begin < len(distinct):
        end = begin + max(1, int(np.searchsorted(np.cumsum(counts[begin:]), most_rows, side="right")))
        yield distinct[begin:end]
        begin = end


def _tables(
    layout: Layout, manifest: dict[str, Any], hashes: np.ndarray, days: np.ndarray, run: np.ndarray
) -> Iterator[tuple[int, Iterator[pa.Table]]]:
    """Of each day of the run its rows, in tables of at most SCAN_ROWS."""
    batches = _batches(layout, manifest, hashes, days, run)
    if len(run) == 1:
        yield run[0], batches
        return
    held, of_row = pa.concat_tables(batches), days[np.isin(days, run)]
    for day in run:
        rows = held.filter(pa.array(of_row == day))
        yield day, (rows.slice(begin, SCAN_ROWS) for begin in range(0, rows.num_rows, SCAN_ROWS))


def _batches(
    layout: Layout, manifest: dict[str, Any], hashes: np.ndarray, days: np.ndarray, run: np.ndarray
) -> Iterator[pa.Table]:
    """The rows of those days in order. IntegrityError for a row that is not the archive's."""
    end = 0
    for file in manifest["files"]:
        begin, end = end, end + file["rows"]
        if not np.isin(days[begin:end], run).any():
            continue
        for batch in pq.ParquetFile(pa.BufferReader(published_bytes(layout, file))).iter_batches(SCAN_ROWS):
            here = slice(begin, begin := begin + batch.num_rows)
            ids = batch.column("post_id").to_numpy(zero_copy_only=False)
            if not np.array_equal(pd.util.hash_array(ids, categorize=False), hashes[here]):
                raise IntegrityError(f"{file['path']}: its posts are not the archive's rows: run --verify --archive")
            wanted = pa.array(np.isin(days[here], run))
            yield pa.Table.from_batches([batch]).cast(TAGGED).filter(wanted)


def _held_bytes(layout: Layout, manifest: dict[str, Any]) -> float:
    """Bytes of a row in memory."""
    content = published_bytes(layout, next(file for file in manifest["files"] if file["rows"]))
    batch = next(pq.ParquetFile(pa.BufferReader(content)).iter_batches(SCAN_ROWS))
    return float(batch.nbytes / batch.num_rows)
