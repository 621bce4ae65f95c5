"""Merge the published chunk files of each part into files of about a target size: the same rows in the same order.

A chunk is small, so that a killed run loses little; readers like few large files. A file is named by the part's id, the
number of its first chunk and its content; see `tag_rewrite` for what stands where while a part is rewritten. A part that was
compacted to the same size is left alone, so a second run does nothing. Memory: one file of the target size, and a chunk.
"""

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from hashtag_core.distributed.lease import new_run_id
from hashtag_core.distributed.tag_plan import Layout
from hashtag_core.distributed.tag_rewrite import (
    ROW_GROUP_ROWS,
    Rewriter,
    file_entry,
    manifests,
    output_layouts,
    published_bytes,
)
from hashtag_core.errors import IntegrityError
from hashtag_core.schema import TAGGED

logger = logging.getLogger(__name__)

TARGET_BYTES = 128 << 20
ROW_GROUPS_A_FILE = 4
"""At least, of a file of the target size: a reader can share its work."""


@dataclass
class Compacted:
    """Counts over all models and versions of an output; parts and files before and after are of all its parts."""

    parts: int = 0
    compacted_parts: int = 0
    files_before: int = 0
    files_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0


def compact(out: str, target_bytes: int = TARGET_BYTES, *, dry_run: bool = False) -> Compacted:
    """Merge what can be merged; with `dry_run` say what that is (`files_after` is then not known, and 0).

    NotFoundError where nothing was tagged, LeaseHeldError while a run tags, IntegrityError for a file that is not what its
    manifest says: it is left as it is.
    """
    result = Compacted()
    run_id = new_run_id()
    for layout in output_layouts(out):
        if dry_run:
            for _, manifest in manifests(layout):
                _count(result, manifest, waits=_waits(manifest, target_bytes))
            continue
        with Rewriter(layout, run_id) as rewriter:
            found = list(manifests(layout))
            for uri, manifest in tqdm(found, unit="part", desc="compacting", file=sys.stderr, mininterval=1):
                waits = _waits(manifest, target_bytes)
                _count(result, manifest, waits=waits)
                written = _merge(rewriter, uri, manifest, target_bytes) if waits else manifest
                result.files_after += len(written["files"])
                result.bytes_after += sum(file["size"] for file in written["files"])
    return result


def _waits(manifest: dict[str, Any], target_bytes: int) -> bool:
    return len(manifest["files"]) > 1 and manifest.get("compacted_to") != target_bytes


def _count(result: Compacted, manifest: dict[str, Any], *, waits: bool) -> None:
    result.parts += 1
    result.compacted_parts += waits
    result.files_before += len(manifest["files"])
    result.bytes_before += sum(file["size"] for file in manifest["files"])


def _merge(rewriter: Rewriter, uri: str, manifest: dict[str, Any], target_bytes: int) -> dict[str, Any]:
    """Rewrite one part; its new manifest."""
    layout, files = rewriter.layout, []
    for first, content in _merged(layout, manifest["files"], target_bytes):
        files.append(file_entry(layout, manifest, first, content))
        rewriter.stage(manifest["id"], files[-1]["path"], content)
    if sum(file["rows"] for file in files) != manifest["tagged"]:
        raise IntegrityError(f"{uri}: its files hold other rows than it says: run --verify")
    written = {**manifest, "files": files, "compacted_to": target_bytes}
    rewriter.commit(uri, written, [file["path"] for file in manifest["files"]])
    return written


def _merged(layout: Layout, files: Sequence[dict[str, Any]], target_bytes: int) -> Iterator[tuple[str, bytes]]:
    """The new files in order: the first old one in it, and its content. A file ends with the row group that takes it past
    the target, a row group with the old file that takes it past its share."""
    sink, writer, first = pa.BufferOutputStream(), None, ""
    waiting: list[pa.Table] = []
    waiting_bytes = 0
    for number, file in enumerate(files):
        content = published_bytes(layout, file)
        first = first or file["path"]
        waiting.append(pq.read_table(pa.BufferReader(content), partitioning=None).cast(TAGGED))
        waiting_bytes += len(content)
        last = number == len(files) - 1
        rows = sum(table.num_rows for table in waiting)
        if rows < ROW_GROUP_ROWS and waiting_bytes < target_bytes // ROW_GROUPS_A_FILE and not last:
            continue
        writer = writer or pq.ParquetWriter(sink, TAGGED, compression="zstd")
        writer.write_table(pa.concat_tables(waiting), row_group_size=ROW_GROUP_ROWS)
        waiting, waiting_bytes = [], 0
        if sink.tell() >= target_bytes or last:
            writer.close()
            yield first, bytes(sink.getvalue())
            sink, writer, first = pa.BufferOutputStream(), None, ""
