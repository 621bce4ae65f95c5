"""Merge the published chunk files of each part into files of about a target size: the same rows in the same order.

A chunk is small, so that a killed run loses little; readers like few large files. A file is named by the part's id, the
number of its first chunk and its content; see `tag_rewrite` for what stands where while a part is rewritten. Files of a part
by day (`tag_by_day`) are merged within their day. A part that was compacted to the same size is left alone, so a second run
does nothing. Memory: one file of the target size, and a chunk.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hashtag_core.distributed.lease import new_run_id
from hashtag_core.distributed.passes import passing
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

    def count(self, manifest: dict[str, Any], *, waits: bool) -> None:
        """A part as it is found; `waits` to be rewritten."""
        self.parts += 1
        self.compacted_parts += waits
        self.files_before += len(manifest["files"])
        self.bytes_before += sum(file["size"] for file in manifest["files"])

    def count_after(self, manifest: dict[str, Any]) -> None:
        """A part as it is left."""
        self.files_after += len(manifest["files"])
        self.bytes_after += sum(file["size"] for file in manifest["files"])


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
                result.count(manifest, waits=waits(manifest, target_bytes))
            continue
        with Rewriter(layout, run_id) as rewriter:
            found = list(manifests(layout))
            for uri, manifest in passing(found, "compacting", "part"):
                waiting = waits(manifest, target_bytes)
                result.count(manifest, waits=waiting)
                result.count_after(merge(rewriter, uri, manifest, target_bytes) if waiting else manifest)
    return result


def waits(manifest: dict[str, Any], target_bytes: int) -> bool:
    """Whether a part has files to merge, and was not compacted to that size."""
    folders = {_folder(file) for file in manifest["files"]}
    return len(manifest["files"]) > len(folders) and manifest.get("compacted_to") != target_bytes


def merge(rewriter: Rewriter, uri: str, manifest: dict[str, Any], target_bytes: int) -> dict[str, Any]:
    """Merge the files of one part that are in one folder; its new manifest."""
    contents = (
        content
        for _, files in groupby(manifest["files"], _folder)
        for content in merged(_pieces(rewriter.layout, list(files)), target_bytes)
    )
    return rewrite(rewriter, uri, manifest, contents, target_bytes)


def rewrite(
    rewriter: Rewriter, uri: str, manifest: dict[str, Any], contents: Iterable[tuple[str, bytes]], target_bytes: int
) -> dict[str, Any]:
    """Replace the files of one part by `contents`, as `merged` gives them; its new manifest."""
    files = []
    for first, content in contents:
        files.append(file_entry(rewriter.layout, manifest, first, content))
        rewriter.stage(manifest["id"], files[-1]["path"], content)
    if sum(file["rows"] for file in files) != manifest["tagged"]:
        raise IntegrityError(f"{uri}: its files hold other rows than it says: run --verify")
    written = {**manifest, "files": files, "compacted_to": target_bytes}
    rewriter.commit(uri, written, [file["path"] for file in manifest["files"]])
    return written


def merged(pieces: Iterable[tuple[str, pa.Table, float]], target_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Files of about the target size from rows in order: where each begins, and its content.

    A piece is where its rows come from, the rows, and about how many bytes they take in a file. A file ends with the row
    group that takes it past the target, a row group with the piece that takes it past its share.
    """
    sink, writer, first = pa.BufferOutputStream(), None, ""
    waiting: list[pa.Table] = []
    waiting_bytes = 0.0
    for before, table, size in pieces:
        first = first or before
        waiting.append(table)
        waiting_bytes += size
        rows = sum(piece.num_rows for piece in waiting)
        if rows < ROW_GROUP_ROWS and waiting_bytes < target_bytes // ROW_GROUPS_A_FILE:
            continue
        writer = writer or pq.ParquetWriter(sink, TAGGED, compression="zstd")
        writer.write_table(pa.concat_tables(waiting), row_group_size=ROW_GROUP_ROWS)
        waiting, waiting_bytes = [], 0.0
        if sink.tell() >= target_bytes:
            writer.close()
            yield first, bytes(sink.getvalue())
            sink, writer, first = pa.BufferOutputStream(), None, ""
    if waiting:
        writer = writer or pq.ParquetWriter(sink, TAGGED, compression="zstd")
        writer.write_table(pa.concat_tables(waiting), row_group_size=ROW_GROUP_ROWS)
    if writer is not None:
        writer.close()
        yield first, bytes(sink.getvalue())


def _pieces(layout: Layout, files: Sequence[dict[str, Any]]) -> Iterator[tuple[str, pa.Table, int]]:
    for file in files:
        content = published_bytes(layout, file)
        yield (
            file["path"],
            pq.read_table(pa.BufferReader(content), partitioning=None).cast(TAGGED),
            len(content),
        )


def _folder(file: dict[str, Any]) -> str:
    return str(file["path"]).rpartition("/")[0]
