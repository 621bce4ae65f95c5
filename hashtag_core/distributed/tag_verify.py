"""Re-read an output and prove it whole: every post once, one version a folder, manifests that match their files.

Without the archive, the output is held to its own records; with it, every post of the archive is looked for as well.
Memory: a file and 16 bytes a post. Needs neither ray nor torch. Do it when no run is writing.
"""

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hashtag_core import storage
from hashtag_core.data.posts import iter_post_batches, list_parts
from hashtag_core.distributed.tag_plan import Layout, TagPlan
from hashtag_core.distributed.tag_rewrite import folder_below, is_by_day, is_rewritten, part_folder, rewrites
from hashtag_core.distributed.tag_scan import NO_DAY, SCAN_ROWS, day_folder, hashes_and_days
from hashtag_core.errors import HashtagError, NotFoundError
from hashtag_core.schema import STATUSES, TAGGED

logger = logging.getLogger(__name__)

SHOWN_PROBLEMS = 100
DAY_FOLDER = re.compile(rf"(day=(\d{{4}}-\d\d-\d\d|{NO_DAY}))?")


@dataclass
class Verified:
    """What was read, and what is wrong with it; `problems` is empty if the output is whole."""

    models: int = 0
    parts: int = 0
    files: int = 0
    tagged: int = 0
    rejected: int = 0
    problems: list[str] = field(default_factory=list)


def verify_output(out: str, archive: str | None = None) -> Verified:
    """Look for everything that can be wrong with an output, of all models and versions in it.

    NotFoundError where nothing was tagged. What is wrong is not raised but told in `problems`, one line each.
    """
    found = Verified()
    listed = {info.path: info for info in storage.list_files(out, hidden=True)}
    states = sorted({path.partition("/manifests/")[0] for path in listed if "/manifests/" in path})
    states = [path for path in states if path.startswith("_state/model=")]
    if not states:
        raise NotFoundError(f"{out}: no tagged output: no manifest below _state")
    named: set[str] = set()
    for state in states:
        model, version = (unquote(step.partition("=")[2]) for step in state.split("/")[1:3])
        _Version(Layout(out, model, version), listed, found, named).check(archive)
        found.models += 1
    for path in listed:
        if path.endswith(".parquet") and not path.startswith("_state/") and path not in named:
            found.problems.append(f"{path}: no manifest names it")
    return found


class _Version:
    """One model and version of an output."""

    def __init__(self, layout: Layout, listed: dict[str, storage.FileInfo], found: Verified, named: set[str]) -> None:
        self.layout, self.listed, self.found, self.named = layout, listed, found, named
        self.manifests: dict[str, dict[str, Any]] = {}
        self.hashes: list[np.ndarray] = []
        self.files: list[str] = []
        self.tagged: dict[str, list[tuple[str, str, np.ndarray]]] = {}
        """Of each part its files: path, folder of a day (empty where it is not by day) and hashes of the ids in it."""

    def check(self, archive: str | None) -> None:
        self._read_manifests()
        for manifest in self.manifests.values():
            self._check_part(manifest)
        self._check_repeated()
        self._check_rewrites()
        self._check_marker()
        if archive is not None:
            self._check_archive(archive)

    def _problem(self, where: str, what: str) -> None:
        self.found.problems.append(f"{where}: {what}")

    def _read_manifests(self) -> None:
        root = self.layout.manifests.removeprefix(self.layout.out.rstrip("/") + "/") + "/"
        for path in sorted(path for path in self.listed if path.startswith(root) and path.endswith(".json")):
            part, _, name = path.removeprefix(root).rpartition("/")
            try:
                manifest = dict(storage.read_json(self.listed[path].uri))
                missing = {"part", "id", "rows", "tagged", "rejected", "rejected_file", "files"} - set(manifest)
                if missing:
                    raise ValueError(f"no {sorted(missing)[0]} in it")
            except (HashtagError, TypeError, ValueError) as error:
                self._problem(path, f"no manifest: {error}")
                continue
            if (manifest["part"], f"{manifest['id']}.json") != (part, name):
                self._problem(path, f"is of part {manifest['part']}, {manifest['id']}")
            self.manifests[path] = manifest
            self.named.update(file["path"] for file in manifest["files"])
        self.found.parts += len(self.manifests)
        twice = Counter(manifest["part"] for manifest in self.manifests.values())
        for part in (part for part, count in twice.items() if count > 1):
            self._problem(part, f"{twice[part]} manifests: rows of two contents")

    def _check_part(self, manifest: dict[str, Any]) -> None:
        part = manifest["part"]
        if not is_by_day(self.layout, manifest) and any(
            folder_below(self.layout, manifest, file) for file in manifest["files"]
        ):
            self._problem(part, "some of its files are in folders of a day, others are not")
        tagged = sum(self._check_file(manifest, file) for file in manifest["files"])
        if tagged != manifest["tagged"]:
            self._problem(part, f"{tagged} rows in its files, its manifest says {manifest['tagged']}")
        unread = manifest.get("unread", 0)
        expected = manifest["rows"] or unread
        if manifest["tagged"] + manifest["rejected"] != expected:
            sums = f"{manifest['tagged']} tagged and {manifest['rejected']} rejected"
            self._problem(part, f"{sums} do not make its {expected} rows")
        told = [row for row in self._rejected(manifest) if row is not None]
        if len(told) + unread != manifest["rejected"]:
            self._problem(
                part, f"{len(told) + unread} rows in its file of rejected, its manifest says {manifest['rejected']}"
            )
        if len(set(told)) != len(told) or not all(0 <= row < manifest["rows"] for row in told):
            self._problem(part, "a row is rejected twice, or is none of the part's")
        self.found.tagged += tagged
        self.found.rejected += manifest["rejected"]

    def _rejected(self, manifest: dict[str, Any]) -> Iterator[int | None]:
        name = manifest["rejected_file"]
        if name is None:
            return
        try:
            for line in storage.read_bytes(storage.join(self.layout.out, name)).decode().split("\n"):
                if line:
                    item = json.loads(line)
                    if item["part"] != manifest["part"]:
                        self._problem(name, f"holds a row of {item['part']}, and is that of {manifest['part']}")
                    yield item["row"]
        except (HashtagError, ValueError, KeyError, TypeError) as error:
            self._problem(name, f"not readable: {error}")

    def _check_file(self, manifest: dict[str, Any], file: dict[str, Any]) -> int:
        """The rows that are in it."""
        path, folder = file["path"], part_folder(self.layout, manifest)
        day = folder_below(self.layout, manifest, file)
        if path.rpartition("/")[0] not in (folder, f"{folder}/{day}") or not DAY_FOLDER.fullmatch(day):
            self._problem(path, f"is not in {folder}, the folder of its part, or that of a day in it")
        self.found.files += 1
        try:
            content = storage.read_bytes(storage.join(self.layout.out, path))
            if "sha256" in file and hashlib.sha256(content).hexdigest() != file["sha256"]:
                self._problem(path, f"its content ({len(content)} bytes) is not what was published ({file['size']})")
            table = pq.read_table(pa.BufferReader(content), partitioning=None)
        except (HashtagError, pa.ArrowException, OSError) as error:
            self._problem(path, f"not readable: {str(error).splitlines()[0]}")
            return 0
        if table.num_rows != file["rows"]:
            self._problem(path, f"{table.num_rows} rows, its manifest says {file['rows']}")
        if not table.schema.equals(TAGGED):
            self._problem(path, f"its schema is not TAGGED: {', '.join(table.schema.names)}")
            return int(table.num_rows)
        for fault in _row_faults(table, self.layout):
            self._problem(path, fault)
        self.hashes.append(_hashed(table["post_id"]))
        self.files.append(path)
        self.tagged.setdefault(manifest["part"], []).append((path, day, self.hashes[-1]))
        return int(table.num_rows)

    def _check_repeated(self) -> None:
        """Every post once. Hashes say which ids may be repeated, a second look which are."""
        if not self.hashes:
            return
        ordered = np.sort(np.concatenate(self.hashes))
        suspected = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        places: dict[str, list[str]] = {}
        for path, hashes in zip(self.files, self.hashes, strict=True) if len(suspected) else []:
            rows = np.flatnonzero(np.isin(hashes, suspected))
            if len(rows):
                content = storage.read_bytes(storage.join(self.layout.out, path))
                ids = pq.read_table(pa.BufferReader(content), columns=["post_id"])["post_id"]
                for post_id in ids.take(pa.array(rows)).to_pylist():
                    places.setdefault(post_id, []).append(path)
        for post_id, paths in places.items():
            if len(paths) > 1:
                self._problem(paths[-1], f"post {post_id!r} is tagged {len(paths)} times, also in {paths[0]}")

    def _check_rewrites(self) -> None:
        folder = rewrites(self.layout).removeprefix(self.layout.out.rstrip("/") + "/")
        if any(path.startswith(f"{folder}/") for path in self.listed):
            self._problem(folder, "files were being replaced when the process was killed: run that command again")

    def _check_marker(self) -> None:
        where = self.layout.success.removeprefix(self.layout.out.rstrip("/") + "/")
        try:
            marker = storage.read_json(self.layout.success)
        except NotFoundError:
            self._problem(where, "missing: the last run did not end well, run it again")
            return
        except HashtagError as error:
            self._problem(where, str(error))
            return
        try:
            plan = TagPlan.model_validate(storage.read_json(self.layout.plan(marker["plan"])))
        except (HashtagError, ValueError, KeyError, TypeError) as error:
            self._problem(where, f"names no plan that can be read: {str(error).splitlines()[0]}")
            return
        if marker["parts"] != len(plan.parts):
            self._problem(where, f"says {marker['parts']} parts, its plan has {len(plan.parts)}")
        done = {manifest["id"]: manifest for manifest in self.manifests.values()}
        for part in plan.parts:
            manifest = done.get(part.id)
            if manifest is None:
                self._problem(part.path, "is in the plan of the last run and has no manifest")
                continue
            expected = [
                self.layout.published(part, chunk.number).removeprefix(self.layout.out.rstrip("/") + "/")
                for chunk in part.chunks(plan.settings.chunk_rows)
            ]
            held = {file["path"] for file in manifest["files"]}
            planned = [path for path in expected if path in held]
            named = [file["path"] for file in manifest["files"] if not is_rewritten(manifest, file)]
            whole = planned == expected or "compacted_to" in manifest or len(named) < len(manifest["files"])
            if manifest["rows"] != part.rows or named != planned or not whole:
                self._problem(part.path, "its manifest has other rows or files than the plan")

    def _check_archive(self, archive: str) -> None:
        """Every row of every part is tagged or rejected, and nothing else is."""
        by_part = {manifest["part"]: manifest for manifest in self.manifests.values()}
        empty = np.zeros(0, np.uint64)
        for info in list_parts(archive):
            name = info.path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            manifest = by_part.pop(name, None)
            if manifest is None:
                self._problem(name, "is in the archive and not tagged")
                continue
            if manifest["etag"] != info.etag:
                self._problem(name, "has changed in the archive since it was tagged")
                continue
            gone = {row for row in self._rejected(manifest) if row is not None}
            held = []
            for batch in iter_post_batches(info, SCAN_ROWS, ["post_id"]):
                keep = ~np.isin(batch.rows, list(gone))
                held.append(_hashed(batch.posts["post_id"])[keep])
            here = np.sort(np.concatenate([empty, *held]))
            there = np.sort(np.concatenate([empty, *(hashes for *_, hashes in self.tagged.get(name, []))]))
            if not np.array_equal(here, there):
                missing, foreign = (len(np.setdiff1d(*pair)) for pair in ((here, there), (there, here)))
                self._problem(
                    name, f"{missing} of its posts are neither tagged nor rejected, {foreign} tagged are none of its"
                )
            elif is_by_day(self.layout, manifest):
                self._check_days(info, manifest, gone)
        for name in by_part:
            logger.warning("%s: tagged, and no longer in the archive", name)

    def _check_days(self, info: storage.FileInfo, manifest: dict[str, Any], gone: set[int]) -> None:
        """Every post is in the folder of its day."""
        hashes, days = hashes_and_days(info, manifest["rows"])
        order = np.argsort(hashes)
        order = order[~np.isin(order, list(gone))]
        for path, folder, held in self.tagged.get(manifest["part"], []):
            at = order[np.searchsorted(hashes[order], held)]
            others = {day_folder(day) for day in np.unique(days[at])} - {folder}
            if others:
                self._problem(path, f"holds posts of {sorted(others)[0]}")


def _row_faults(table: pa.Table, layout: Layout) -> Iterator[str]:
    """What is wrong with the values of TAGGED rows."""
    nulls = [name for name in TAGGED.names if name != "detail" and table[name].null_count]
    if nulls:
        yield f"null in {nulls[0]}"
    for name, expected in (("model_name", layout.model_name), ("model_version", layout.model_version)):
        others = set(pc.unique(table[name]).to_pylist()) - {expected}
        if others:
            yield f"{name} {sorted(map(str, others))[0]!r}, its folder says {expected!r}"
    unknown = set(pc.unique(table["status"]).to_pylist()) - set(STATUSES)
    if unknown:
        yield f"status {sorted(map(str, unknown))[0]!r}, expected one of {', '.join(STATUSES)}"
    if not pc.all(pc.equal(pc.equal(table["status"], "ok"), pc.is_null(table["detail"]))).as_py() and table.num_rows:
        yield "a post that is ok has a detail, or one that is not has none"
    tags, scores = table["hashtags"].combine_chunks(), table["scores"].combine_chunks()
    if not pc.list_value_length(tags).equals(pc.list_value_length(scores)):
        yield "hashtags and scores of different lengths"
        return
    values = scores.flatten().to_numpy(zero_copy_only=False)
    if not np.all((values >= 0) & (values <= 1)):
        yield "a score that is not in [0, 1]"
    of_post = np.repeat(
        np.arange(len(scores)), pc.list_value_length(scores).fill_null(0).to_numpy(zero_copy_only=False)
    )
    if np.any((np.diff(values) > 0) & (np.diff(of_post) == 0)):
        yield "scores that increase within a post"


def _hashed(ids: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pd.util.hash_array(ids.to_numpy(), categorize=False), dtype=np.uint64)
