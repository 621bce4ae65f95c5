"""Delete users' posts from an output, of every model and version in it, and prove it by reading it again.

    users -> forget list (later runs leave their rows out) -> whose posts are which, from the archive -> published files,
    their manifests and rejected rows, plans, staged chunks, histories and vectors without them -> the same look again

TAGGED rows name no user. In a part that is in the archive as it was tagged, a row is a user's by its number (which in a part
by day is that of its `post_id`, among the rows that are tagged); elsewhere by its `post_id`, wherever the archive has it; one that the archive does not have at all is `unknown`, and forgetting is then
not proven. Every step can be repeated. Archives, datasets and their feature caches are not touched: the tagging job reads
and writes no feature cache. Memory: a file, and 8 bytes a post of the archive.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from hashtag_core import storage
from hashtag_core.data.posts import list_parts
from hashtag_core.distributed.forget_list import FORGOTTEN, ForgetList, leave_out
from hashtag_core.distributed.lease import new_run_id
from hashtag_core.distributed.tag_history import Sidecar, drop_node_copies
from hashtag_core.distributed.tag_plan import REJECTED_KEY, Layout, PartPlan, TagPlan
from hashtag_core.distributed.tag_rewrite import (
    Rewriter,
    file_bytes,
    file_entry,
    is_by_day,
    listed,
    manifests,
    marked_plan,
    output_layouts,
    published_bytes,
    rejected_lines,
    relative,
    tagged_archive,
    tagged_rows,
)
from hashtag_core.distributed.tag_scan import LeftOut
from hashtag_core.errors import IntegrityError, NotFoundError

logger = logging.getLogger(__name__)


@dataclass
class Forgotten:
    """What was found and removed, counted over all models and versions of the output."""

    users: int
    users_found: int = 0
    """Those of them with a post in the archive."""
    tagged: int = 0
    """Tagged posts."""
    rejected: int = 0
    """Rows told as rejected, also in plans and in files of tagged rows."""
    staged: int = 0
    """Chunks of parts that are not published yet, and files that a killed writer left half written."""
    histories: int = 0
    vectors: int = 0
    remaining: int = 0
    """All of these, by a second look."""
    unknown: int = 0
    """Tagged posts and rejected rows whose user cannot be told: their part is not in the archive as it was tagged, nor their id."""


class Owners:
    """Which posts of an archive are the users' on a list."""

    def __init__(self, archive: str, users: ForgetList) -> None:
        """Reads `post_id` and `user_id` of every part."""
        self.archive = archive
        self.found: set[str] = set()
        self.ids: set[str] = set()
        self._parts: dict[str, tuple[str, np.ndarray, list[str], int]] = {}
        hashes = [np.zeros(0, np.uint64)]
        for info in list_parts(archive):
            rows, ids, seen = [np.zeros(0, np.int64)], list[str](), 0
            for batch, theirs in users.posts(info):
                rows.append(batch.rows[theirs])
                posts = batch.posts.filter(pa.array(theirs))
                ids += posts["post_id"].to_pylist()
                self.found.update(posts["user_id"].to_pylist())
                hashes.append(_hashed(batch.posts["post_id"]))
                seen = batch.first_row + batch.posts.num_rows + sum(item.row is not None for item in batch.rejected)
            path = info.path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            self._parts[path] = info.etag, np.concatenate(rows), ids, seen
            self.ids.update(ids)
        self._known = np.unique(np.concatenate(hashes))

    def has(self, path: str, etag: str) -> bool:
        """Whether the archive has that part as it was."""
        return path in self._parts and self._parts[path][0] == etag

    def rows(self, path: str) -> np.ndarray:
        """The users' rows of a part."""
        return self._parts[path][1]

    def row_of(self, path: str, etag: str, gone: Iterable[int]) -> dict[str, int]:
        """`post_id` -> row of the users' rows of that part that are not `gone`: none where the archive has it not as it was."""
        if not self.has(path, etag):
            return {}
        _, rows, ids, _ = self._parts[path]
        left_out = set(gone)
        return {post_id: row for row, post_id in zip(rows.tolist(), ids, strict=True) if row not in left_out}

    def of(
        self, path: str, etag: str, rows: Sequence[int] | np.ndarray, ids: Sequence[str | None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """bool [n] each: rows of that part that are the users', and rows of which it cannot be told."""
        if self.has(path, etag):
            _, theirs, _, seen = self._parts[path]
            at = np.asarray(rows, dtype=np.int64)
            return np.isin(at, theirs), at >= seen
        named = pa.array(ids, pa.string())
        known = np.isin(_hashed(named), self._known) | np.array([item is None for item in ids], dtype=bool)
        return np.array([item in self.ids for item in ids], dtype=bool), ~known


def forget(out: str, users: Iterable[str], archive: str | None = None, *, dry_run: bool = False) -> Forgotten:
    """Delete the users' posts from an output; with `dry_run` count them. `archive`: where users are looked up, else the one
    that was tagged.

    NotFoundError or ArchiveError, and nothing changed, where there is no output or no archive; LeaseHeldError while a run
    tags into it; IntegrityError, with the counts as its `summary`, if something of the users may be left.
    """
    named, run_id = set(users), new_run_id()
    places = {archive or held for layout in output_layouts(out) if (held := tagged_archive(layout))}
    if not places:
        raise NotFoundError(f"{out}: nothing was tagged here yet")
    for place in places:
        list_parts(place)
    known = (ForgetList.load(out) or ForgetList.new()).grown(named) if dry_run else ForgetList.add(out, named)
    result = Forgotten(len(named))
    layouts = [layout for layout in output_layouts(out) if tagged_archive(layout)]
    with ExitStack() as stack:
        rewriters = [None if dry_run else stack.enter_context(Rewriter(layout, run_id)) for layout in layouts]
        owners = {place: Owners(place, known) for place in sorted(places)}
        result.users_found = len(named & set().union(*(item.found for item in owners.values())))
        sweeps = [
            _Sweep(layout, owners[archive or tagged_archive(layout) or ""], known, rewriter)
            for layout, rewriter in zip(layouts, rewriters, strict=True)
        ]
        for sweep in sweeps:
            sweep.run()
        _records(out, sweeps, remove=not dry_run)
        for name in ("tagged", "rejected", "staged", "histories", "vectors"):
            setattr(result, name, sum(sweep.counts[name] for sweep in sweeps))
        if dry_run:
            result.unknown = sum(sweep.counts["unknown"] for sweep in sweeps)
            return result
        for layout in layouts:
            drop_node_copies(layout.state)
        proof = [_Sweep(sweep.layout, sweep.owners, known, None) for sweep in sweeps]
        for sweep in proof:
            sweep.run()
        _records(out, proof, remove=False)
    result.unknown = sum(sweep.counts.pop("unknown", 0) for sweep in proof)
    result.remaining = sum(sweep.counts.total() for sweep in proof)
    if result.remaining or result.unknown:
        error = IntegrityError(
            f"{out}: {result.remaining} row(s) of the users are left, and of {result.unknown} it cannot be told whose they "
            f"are, since {' and '.join(sorted(places))} has neither their part as it was tagged nor their post_id: name an "
            "archive that has them with --archive"
        )
        error.summary = asdict(result)  # type: ignore[attr-defined]
        raise error
    return result


@dataclass
class _Sweep:
    """One model and version of an output, looked through; what is found is removed where there is a rewriter."""

    layout: Layout
    owners: Owners
    forgotten: ForgetList
    rewriter: Rewriter | None
    counts: Counter[str] = field(default_factory=Counter)
    named: set[str] = field(default_factory=set)
    """Files that manifests name, relative to the output."""

    def run(self) -> None:
        plans = self._plans()
        for uri, manifest in list(manifests(self.layout)):
            self._part(uri, manifest)
        self._staged()
        self._histories(plans)

    def _plans(self) -> list[TagPlan]:
        """The plans that are of use: that of the last run, and those of the archive as it is. Others go."""
        plans, marked = [], marked_plan(self.layout)
        for info in listed(storage.join(self.layout.state, "plans")):
            try:
                plan = TagPlan.model_validate(storage.read_json(info.uri))
            except ValidationError as error:
                raise IntegrityError(f"{info.uri}: no plan: {error.errors()[0]['msg']}") from None
            current = all(self.owners.has(part.path, part.etag) for part in plan.parts)
            if not current and plan.id != marked and self.rewriter is not None:
                storage.remove(info.uri)
                continue
            parts = [self._planned(part) for part in plan.parts]
            self.counts["rejected"] += sum(_ids_told(part) for part in plan.parts)
            self.counts["rejected"] -= sum(_ids_told(part) for part in parts)
            digest = self.forgotten.digest if current else plan.forgotten
            swept = plan.model_copy(update={"parts": parts, "forgotten": digest})
            if self.rewriter is not None and swept != plan:
                storage.write_json(info.uri, swept.model_dump())
            plans.append(swept if self.rewriter is not None else plan)
        return plans

    def _planned(self, part: PartPlan) -> PartPlan:
        """A part of a plan without the users' rows; without any id, where it is not in the archive so."""
        if self.owners.has(part.path, part.etag):
            return leave_out(part, self.owners.rows(part.path).tolist())
        left_out = [
            left if left.post_id is None else LeftOut(row=left.row, post_id=None, reason="of a part that changed")
            for left in part.left_out
        ]
        return part.model_copy(update={"left_out": left_out})

    def _part(self, uri: str, manifest: dict[str, Any]) -> None:
        """A published part."""
        part, etag = manifest["part"], manifest["etag"]
        lines = rejected_lines(self.layout, manifest)
        told, unknown = self._of_rejected(part, etag, lines)
        self.counts["unknown"] += unknown
        by_day = is_by_day(self.layout, manifest)
        row_of = self.owners.row_of(part, etag, (line["row"] for line in lines)) if by_day else {}
        rows = np.zeros(0, np.int64) if by_day else tagged_rows(uri, manifest, lines)
        files, old, removed, begin = [], [], [], 0
        for file in manifest["files"]:
            ids, told_inside = _ids_in(storage.join(self.layout.out, file["path"]))
            here = rows[begin : begin + file["rows"]]
            here = np.array([row_of.get(post_id, -1) for post_id in ids], np.int64) if by_day else here
            begin += file["rows"]
            theirs, inside = self._in_file(manifest, file["path"], here, ids, told_inside)
            removed += here[theirs].tolist()
            if self.rewriter is None or not (theirs.any() or inside):
                files.append(file)
                continue
            content = published_bytes(self.layout, file)
            kept = file_bytes(pq.read_table(pa.BufferReader(content), partitioning=None).filter(pa.array(~theirs)))
            entry = file_entry(self.layout, manifest, file["path"], kept)
            self.rewriter.stage(manifest["id"], entry["path"], kept)
            files.append(entry)
            old.append(file["path"])
        self.counts["tagged"] += len(removed)
        self.counts["rejected"] += len(told)
        changed: dict[str, Any] = {"files": files}
        if self.rewriter is not None and (removed or told):
            lines = [line for line in lines if line["row"] not in told]
            numbers = [*told, *(None if row < 0 else row for row in removed)]
            lines += [{"part": part, "row": row, "post_id": None, "reason": FORGOTTEN} for row in numbers]
            lines.sort(key=lambda line: (line["row"] is None, line["row"] or 0))
            name = f"_rejected/{self.rewriter.run_id}-{manifest['id']}.jsonl"
            self.rewriter.stage(manifest["id"], name, "".join(json.dumps(line) + "\n" for line in lines).encode())
            old += [manifest["rejected_file"]] if manifest["rejected_file"] else []
            changed |= {
                "tagged": manifest["tagged"] - len(removed),
                "rejected": manifest["rejected"] + len(removed),
                "unread": manifest.get("unread", 0) + removed.count(-1),  # by day, and no archive says which row it was
                "forgotten": manifest.get("forgotten", 0) + len(removed) + len(told),
                "rejected_file": name,
            }
        if self.rewriter is not None and old:
            manifest = {**manifest, **changed}
            self.rewriter.commit(uri, manifest, old)
        self.named.update([*(file["path"] for file in manifest["files"]), manifest["rejected_file"] or ""])

    def _in_file(
        self, manifest: dict[str, Any], path: str, rows: np.ndarray, ids: list[str], inside: list[dict[str, Any]]
    ) -> tuple[np.ndarray, int]:
        """bool [rows]: the users' rows of a published file; and how many of theirs its chunk said it rejected."""
        part, etag = manifest["part"], manifest["etag"]
        if len(ids) != len(rows):
            raise IntegrityError(f"{path}: {len(ids)} rows, its manifest says {len(rows)}: run --verify")
        theirs, unknown = self.owners.of(part, etag, rows, ids)
        foreign = [ids[at] for at in np.flatnonzero(theirs) if ids[at] not in self.owners.ids]
        if foreign:
            raise IntegrityError(f"{path}: post {foreign[0]!r} is none of the archive's row: run --verify")
        self.counts["unknown"] += int(unknown.sum())
        said, _ = self._of_rejected(part, etag, inside)
        self.counts["rejected"] += len(said)
        return theirs, len(said)

    def _of_rejected(self, part: str, etag: str, lines: list[dict[str, Any]]) -> tuple[list[int], int]:
        """Rows of the users' among rejected rows that still say something of a post, and how many cannot be told."""
        lines = [line for line in lines if line["row"] is not None and line["reason"] != FORGOTTEN]
        theirs, unknown = self.owners.of(
            part, etag, [line["row"] for line in lines], [line["post_id"] for line in lines]
        )
        return [lines[at]["row"] for at in np.flatnonzero(theirs)], int(unknown.sum())

    def _staged(self) -> None:
        """Chunks of parts that are not published: one that holds a post of theirs, or an unknown one, is done again."""
        staged = [info for info in listed(self.layout.chunks) if info.path.endswith(".parquet")]
        staged += [info for info in listed(self.layout.tagged) if relative(self.layout, info.uri) not in self.named]
        folders = (
            self.layout.chunks,
            self.layout.vectors,
            self.layout.tagged,
            storage.join(self.layout.state, "plans"),
        )
        for info in [info for folder in folders for info in listed(folder, temporary=True)]:
            self.counts["staged"] += 1
            if self.rewriter is not None:
                storage.remove(info.uri)
        for info in staged:
            ids, inside = _ids_in(info.uri)
            theirs, unknown = self.owners.of("", "", [], [*ids, *(line["post_id"] for line in inside)])
            self.counts["staged"] += int(theirs.any())
            if self.rewriter is not None and (theirs | unknown).any():
                self.rewriter.begin()
                storage.remove(info.uri)

    def _histories(self, plans: list[TagPlan]) -> None:
        """Sidecars in which the users' posts have a history or a tag, and vectors of their posts."""
        by_id = {plan.id: plan for plan in plans}
        for name in sorted({info.path.partition("/")[0] for info in listed(self.layout.histories)}):
            if name in by_id and self._is_clean(name, by_id[name]):
                continue
            self.counts["histories"] += 1
            if self.rewriter is not None:
                storage.remove_tree(self.layout.history(name))
        contents = {part.content or part.id: part for plan in plans for part in plan.parts}
        for info in listed(self.layout.vectors):
            content = contents.get(info.path.partition("/")[0])
            if content is None or not self.owners.has(content.path, content.etag):
                self.counts["vectors"] += 1
                if self.rewriter is not None:
                    storage.remove(info.uri)
                continue
            with storage.open_input(info.uri) as source:
                table = pq.read_table(source)
            theirs = np.isin(table["row"].to_numpy(), self.owners.rows(content.path))
            self.counts["vectors"] += int(theirs.sum())
            if self.rewriter is not None and theirs.any():
                with storage.open_output(info.uri) as file:
                    pq.write_table(table.filter(pa.array(~theirs)), file)

    def _is_clean(self, name: str, plan: TagPlan) -> bool:
        sidecar, begin = Sidecar.open(self.layout.history(name)), 0
        for part in plan.parts:
            if not self.owners.has(part.path, part.etag):
                return False
            rows = begin + self.owners.rows(part.path)
            begin += part.rows
            tags = sidecar.tag_offsets[rows + 1] - sidecar.tag_offsets[rows]
            if (sidecar.rows[rows] >= 0).any() or tags.any() or sidecar.may_stand[rows].any():
                return False
        return True


def _records(out: str, sweeps: list[_Sweep], *, remove: bool) -> None:
    """Files of rejected rows that no manifest names, of contents that have changed: those with a row that is theirs, or of
    which it cannot be told."""
    named: set[str] = set().union(*(sweep.named for sweep in sweeps))
    for info in listed(storage.join(out, "_rejected"), temporary=True) if remove else ():
        storage.remove(info.uri)
    for info in listed(storage.join(out, "_rejected")):
        if f"_rejected/{info.path}" in named:
            continue
        ids = [json.loads(line)["post_id"] for line in storage.read_bytes(info.uri).decode().split("\n") if line]
        found = [sweep.owners.of("", "", [], ids) for sweep in sweeps]
        if any((theirs | unknown).any() for theirs, unknown in found):
            sweeps[0].counts["rejected"] += 1
            if remove:
                storage.remove(info.uri)


def _ids_in(uri: str) -> tuple[list[str], list[dict[str, Any]]]:
    """The ids in a file of tagged rows, and the rejected rows that its chunk told."""
    with storage.open_input(uri) as source:
        held = pq.ParquetFile(source)
        inside = json.loads((held.metadata.metadata or {}).get(REJECTED_KEY, b"[]"))
        return held.read(columns=["post_id"])["post_id"].to_pylist(), inside


def _ids_told(part: PartPlan) -> int:
    return sum(left.post_id is not None for left in part.left_out)


def _hashed(ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    values = ids.to_numpy(zero_copy_only=False) if isinstance(ids, pa.Array) else ids.to_numpy()
    return np.asarray(pd.util.hash_array(values, categorize=False), dtype=np.uint64)
