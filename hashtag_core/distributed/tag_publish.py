"""How a tagged part becomes visible, whole and once, and what a killed run left is cleaned up.

A part's chunks wait in `_state/`. When all are there: note that publishing began -> move them into place -> write the
rejected rows -> remove what an older content of the part had published -> write the manifest, last. Each step can be
repeated, so a run killed between two of them is taken up by the next.
"""

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hashtag_core import storage
from hashtag_core.distributed.forget_list import FORGOTTEN
from hashtag_core.distributed.tag_plan import REJECTED_KEY, Layout, PartPlan, TagPlan
from hashtag_core.distributed.tag_report import COUNTED, TagFigures
from hashtag_core.distributed.tag_rewrite import sweep_rewrites
from hashtag_core.errors import NotFoundError, StorageError

logger = logging.getLogger(__name__)

MARKER = "publishing.json"
REQUESTS = 8
"""Chunk files that are looked at or moved at once."""


@dataclass(frozen=True)
class Published:
    """What the manifests say is done: part id -> URI of its manifest, and manifests of older content by part path."""

    done: dict[str, str]
    older: dict[str, list[str]]
    gone: list[str]
    """Paths of published parts that the archive no longer has."""


def find_published(layout: Layout, plan: TagPlan) -> Published:
    """One listing; no manifest is read."""
    ids = {part.path: part.id for part in plan.parts}
    done: dict[str, str] = {}
    older: defaultdict[str, list[str]] = defaultdict(list)
    gone = set()
    for info in _listed(layout.manifests):
        path, _, name = info.path.rpartition("/")
        part_id = name.removesuffix(".json")
        if path not in ids:
            gone.add(path)
        elif ids[path] == part_id:
            done[part_id] = info.uri
        else:
            older[path].append(info.uri)
    return Published(done, dict(older), sorted(gone))


def sweep(layout: Layout, keep: set[str]) -> None:
    """Remove what killed runs left of parts that are done or have changed; parts in `keep` go on from their chunks.

    Chunks of a changed part that were in place already would be read as rows of two versions.
    """
    sweep_rewrites(layout)
    found = _listed(layout.chunks, hidden=True)
    for part_id in sorted({info.path.partition("/")[0] for info in found} - keep):
        folder = storage.join(layout.chunks, part_id)
        marker = _marker(layout, part_id)
        if marker and not storage.exists(storage.join(layout.manifests, marker["part"], f"{part_id}.json")):
            for info in _listed(storage.join(layout.tagged, marker["part"]), prefix=f"part-{part_id}-"):
                storage.remove(info.uri)
            storage.remove(layout.rejected(marker["rejected"]))
        storage.remove_tree(folder)
    for info in found:
        if info.uri.endswith(".tmp"):
            storage.remove(info.uri)


def chunks_done(layout: Layout, parts: Sequence[PartPlan]) -> dict[str, set[int]]:
    """Part id -> numbers of the chunks that exist, staged or in place already."""
    done: defaultdict[str, set[int]] = defaultdict(set)
    for info in _listed(layout.chunks, suffix=".parquet"):
        part_id, _, name = info.path.partition("/")
        done[part_id].add(int(name.removesuffix(".parquet")))
    for part in parts:
        if _marker(layout, part.id):
            for info in _listed(storage.join(layout.tagged, part.path), prefix=f"part-{part.id}-"):
                done[part.id].add(int(info.path.rpartition("-")[2].removesuffix(".parquet")))
    return dict(done)


def publish(
    layout: Layout,
    plan: TagPlan,
    part: PartPlan,
    run_id: str,
    rejected_name: str,
    older: Sequence[str],
    figures: TagFigures,
) -> dict[str, Any]:
    """Publish a part whose chunks are all there; returns its manifest. Its rows are counted in `figures`.

    In it `rejected` counts the rows that are not tagged, `unread` those of them that could not even be read and are told in
    one line (at least 1, for a part of which nothing is known): `tagged + rejected` is `rows`, or 1 for such a part.

    StorageError, and nothing published, if the part is not what the plan read: a rerun tags the new content.
    """
    source = storage.join(plan.settings.archive, part.path)
    if part.groups and storage.file_info(source).etag != part.etag:
        storage.remove_tree(storage.join(layout.chunks, part.id))
        raise StorageError(f"{source} changed while it was tagged: run again")
    numbers = [chunk.number for chunk in part.chunks(plan.settings.chunk_rows)]
    marker = _marker(layout, part.id)
    if marker is None:
        marker = {"part": part.path, "rejected": rejected_name}
        storage.write_json(storage.join(layout.chunks, part.id, MARKER), marker)
    rejected = [{"part": part.path, **left.model_dump()} for left in part.left_out]
    files, counted = [], TagFigures()
    with ThreadPoolExecutor(REQUESTS) as pool:
        for file, items, of_chunk in pool.map(lambda number: _place(layout, part, number), numbers):
            files.append(file)
            rejected += items
            counted.add(of_chunk)
    if rejected:
        lines = "".join(json.dumps(item) + "\n" for item in rejected)  # in ASCII: U+2028 in an id ends a line for some
        storage.write_bytes(layout.rejected(marker["rejected"]), lines.encode())
    whole = any(item["row"] is None for item in rejected)
    unread = max(1, part.rows - part.readable) if whole else 0
    for manifest in older:
        for file in storage.read_json(manifest)["files"]:
            storage.remove(storage.join(layout.out, file["path"]))
    written = {
        "format": 1,
        "part": part.path,
        "etag": part.etag,
        "id": part.id,
        "run": run_id,
        "model_name": layout.model_name,
        "model_version": layout.model_version,
        "model_hash": plan.settings.model_hash,
        "rows": part.rows,
        "tagged": sum(file["rows"] for file in files),
        "rejected": len([item for item in rejected if item["row"] is not None]) + unread,
        "unread": unread,
        "forgotten": sum(left.reason == FORGOTTEN for left in part.left_out),
        "rejected_file": f"_rejected/{marker['rejected']}" if rejected else None,
        "files": files,
    }
    storage.write_json(layout.manifest(part), written)
    figures.add(counted)
    for manifest in older:
        storage.remove(manifest)
    storage.remove_tree(storage.join(layout.chunks, part.id))
    return written


def _place(layout: Layout, part: PartPlan, number: int) -> tuple[dict[str, Any], list[dict[str, Any]], TagFigures]:
    """Move a chunk into place unless it is there; its entry in the manifest, its rejected rows, and its figures."""
    staged, target = layout.staged(part.id, number), layout.published(part, number)
    try:
        storage.move(staged, target)
    except NotFoundError:
        if not storage.exists(target):
            raise
    content = storage.read_bytes(target)
    held = pq.ParquetFile(pa.BufferReader(content))
    footer = held.metadata
    file = {
        "path": target.removeprefix(layout.out.rstrip("/") + "/"),
        "rows": footer.num_rows,
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    rejected = list(json.loads((footer.metadata or {}).get(REJECTED_KEY, b"[]")))
    return file, rejected, TagFigures.of(held.read(columns=COUNTED))


def _marker(layout: Layout, part_id: str) -> dict[str, Any] | None:
    try:
        return dict(storage.read_json(storage.join(layout.chunks, part_id, MARKER)))
    except NotFoundError:
        return None


def _listed(uri: str, *, suffix: str = "", prefix: str = "", hidden: bool = False) -> list[storage.FileInfo]:
    """The files below a folder, none where it is not there."""
    try:
        return [info for info in storage.list_files(uri, suffix, hidden=hidden) if info.path.startswith(prefix)]
    except NotFoundError:
        return []
