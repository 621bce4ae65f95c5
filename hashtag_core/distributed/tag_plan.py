"""What a tagging run is to do: everything that its output depends on, decided once and reused by every rerun.

The plan is made from the archive's listing, the Parquet footers and the column `post_id` (and `created_at` of repeated
ids): images are not touched. Memory: 8 bytes a post for the search of repeated ids (1 M posts: 8 MB, its sorted copy
beside it), plus the repeated ones; time: reading one column (1 M posts in about 2 s from a local disk).

A chunk is a run of at most `chunk_rows` rows within one row group. A part's `id` is a hash of all that its tagged rows
depend on (settings, path, etag, rows left out), so a part is done when there is a manifest of that id, whatever other
parts came or went. Needs no ray and no torch: a run that finds nothing to do ends without them.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal
from urllib.parse import quote

from pydantic import ValidationError

from hashtag_core import storage
from hashtag_core.config import ArchiveSection, Section
from hashtag_core.data.posts import list_parts
from hashtag_core.distributed.tag_history import HistoryFinder, ScannedPart
from hashtag_core.distributed.tag_scan import LeftOut, leave_out_repeated, scan_part
from hashtag_core.errors import AlreadyExistsError, ArchiveError, ConfigError, IntegrityError, NotFoundError
from hashtag_core.storage import FileInfo

ID_DIGITS = 16
REJECTED_KEY = b"hashtag.rejected"
"""Key in a chunk file's Parquet metadata of the JSON list of the chunk's rejected rows (schema.REJECTED)."""


class TagSettings(Section):
    """What the scores and the files depend on besides the archive's content; pinned by the first run into an output."""

    format: Literal[1] = 1
    archive: str
    model_name: str
    model_version: str
    model_hash: str
    """Content hash of the model folder, as its `model.json` has it."""
    top_k: int
    chunk_rows: int
    batch_size: int
    backend: str
    """Encoder backend and precision as asked for; what `auto` came to is pinned by the first actor in `encoders.json`."""
    precision: str
    min_score: float = 0.0
    deny: str = ""
    """Which of the model's tags are denied, and the thresholds of tags, as `Policy.told` has them."""
    thresholds: str = ""
    image_prefixes: list[str] | None = None
    max_image_bytes: int = ArchiveSection().max_image_bytes

    @property
    def identity(self) -> dict[str, Any]:
        """What ids are made of. The policy is in it where there is one: outputs from before there was any keep their ids."""
        policy = {"min_score", "deny", "thresholds"}
        return {name: value for name, value in self.model_dump().items() if value or name not in policy}


@dataclass(frozen=True)
class Chunk:
    """Rows `first_row` to `first_row + rows - 1` of the part, which begin at `offset` in row group `group`."""

    number: int
    group: int
    offset: int
    first_row: int
    rows: int


class PartPlan(Section):
    """One part of the archive: `groups` holds the rows of each row group (none if the part is unreadable), `readable`
    the rows up to which it can be read."""

    id: str
    path: str
    etag: str
    groups: list[int]
    readable: int
    left_out: list[LeftOut]
    content: str | None = None
    """For a model that reads the history: what `id` is without the histories of the part's posts."""

    @property
    def rows(self) -> int:
        """Rows by the footer."""
        return sum(self.groups)

    def chunks(self, chunk_rows: int) -> Iterator[Chunk]:
        """The chunks in order, with fixed numbers; rows that cannot be read are in none."""
        number = first_row = 0
        for group, group_rows in enumerate(self.groups):
            for offset in range(0, group_rows, chunk_rows):
                rows = min(chunk_rows, group_rows - offset, self.readable - first_row)
                if rows <= 0:
                    return
                yield Chunk(number, group, offset, first_row, rows)
                number += 1
                first_row += min(chunk_rows, group_rows - offset)


class TagPlan(Section):
    """The settings and the parts, sorted by path."""

    id: str
    settings: TagSettings
    parts: list[PartPlan]
    forgotten: str | None = None
    """The list of forgotten users whose rows are left out; see `forget_list`."""


@dataclass(frozen=True)
class Layout:
    """Where everything of one output, model and version is."""

    out: str
    model_name: str
    model_version: str

    @cached_property
    def _partition(self) -> str:
        return f"model={_hive(self.model_name)}/version={_hive(self.model_version)}"

    @property
    def tagged(self) -> str:
        """Root of the tagged parts."""
        return storage.join(self.out, self._partition)

    @property
    def state(self) -> str:
        """Root of the state of this model and version."""
        return storage.join(self.out, "_state", self._partition)

    @property
    def settings(self) -> str:
        return storage.join(self.state, "settings.json")

    @property
    def encoders(self) -> str:
        return storage.join(self.state, "encoders.json")

    @property
    def manifests(self) -> str:
        return storage.join(self.state, "manifests")

    @property
    def chunks(self) -> str:
        return storage.join(self.state, "chunks")

    @property
    def vectors(self) -> str:
        """Pooled vectors of posts that stand in histories."""
        return storage.join(self.state, "vectors")

    @property
    def histories(self) -> str:
        return storage.join(self.state, "history")

    def history(self, plan_id: str) -> str:
        """The histories of all rows of a plan; see `tag_history.Sidecar`."""
        return storage.join(self.histories, plan_id)

    @property
    def lease(self) -> str:
        return storage.join(self.state, "lease.json")

    @property
    def success(self) -> str:
        return storage.join(self.state, "_SUCCESS")

    @property
    def retag(self) -> str:
        return storage.join(self.state, "retag.json")

    def plan(self, plan_id: str) -> str:
        return storage.join(self.state, "plans", f"{plan_id}.json")

    def manifest(self, part: PartPlan) -> str:
        return storage.join(self.manifests, part.path, f"{part.id}.json")

    def staged(self, part_id: str, number: int) -> str:
        """A chunk of a part that is not whole yet."""
        return storage.join(self.chunks, part_id, f"{number:05d}.parquet")

    def published(self, part: PartPlan, number: int) -> str:
        """The same chunk, once the part is whole."""
        return storage.join(self.tagged, part.path, f"part-{part.id}-{number:05d}.parquet")

    def run(self, run_id: str) -> str:
        return storage.join(self.out, "_state", "runs", f"{run_id}.json")

    def rejected(self, name: str) -> str:
        return storage.join(self.out, "_rejected", name)


def resolve_archive(archive: str, out: str) -> str:
    """The archive's URI as it is pinned (an absolute path without links), once neither lies where it must not.

    ConfigError if the output is the archive or inside it: it would be read as parts.
    """
    where, target = (uri.rstrip("/") if storage.is_remote(uri) else _real(uri) for uri in (archive, out))
    if (target + "/").startswith(where + "/"):
        raise ConfigError(f"--out {out} is inside --archive {archive}: the tagged files would be read as its parts")
    return where


def differing_settings(layout: Layout, settings: TagSettings) -> list[str]:
    """What the run before had set otherwise, each as `name was .., now ..`; empty where there was none."""
    try:
        held = storage.read_json(layout.settings)
    except NotFoundError:
        return []
    before = {name: item.get_default() for name, item in TagSettings.model_fields.items()} | held
    asked = settings.model_dump().items()
    return [f"{name} was {before[name]!r}, now {value!r}" for name, value in asked if before[name] != value]


def pin_settings(layout: Layout, settings: TagSettings, *, write: bool) -> None:
    """Record the settings of this output, model and version, or check them against those of the run before.

    ConfigError names every setting that differs: rows made under two settings are never mixed.
    """
    if write:
        with suppress(AlreadyExistsError):
            storage.create_bytes(layout.settings, _json(settings.model_dump()))
    if differing := differing_settings(layout, settings):
        raise ConfigError(
            f"{layout.tagged} was tagged with other settings ({'; '.join(differing)}): use the same, or another --out, or "
            "tag all of it again with --retag"
        )


def replace_settings(layout: Layout, settings: TagSettings) -> None:
    """Record other settings: of a run that tags all parts again. How its encoders run is decided anew too."""
    storage.write_json(layout.settings, settings.model_dump())
    storage.remove(layout.encoders)


def list_archive(settings: TagSettings) -> list[FileInfo]:
    """The parts of the archive as they are listed now, their paths in UTF-8. NotFoundError, or ArchiveError if there is none."""
    return [_named_in_utf8(file) for file in list_parts(settings.archive)]


def load_plan(
    layout: Layout,
    settings: TagSettings,
    files: Sequence[FileInfo],
    finder: HistoryFinder | None = None,
    tokens: Mapping[str, str] | None = None,
) -> tuple[TagPlan, bool]:
    """The plan for the parts: the one written before, or a new one (not yet written); True if it is new.

    `tokens`: by path, of parts that are tagged again; see `tag_select`.
    """
    tokens = tokens or {}
    plan_id = _digest(settings.identity, [[file.path, file.etag, *_token(file, tokens)] for file in files])
    where = layout.plan(plan_id)
    try:
        return TagPlan.model_validate(storage.read_json(where)), False
    except NotFoundError:
        return make_plan(plan_id, settings, files, finder, tokens), True
    except ValidationError as error:
        raise IntegrityError(f"{where}: not a plan of this version: {error.errors()[0]['msg']}") from None


def make_plan(
    plan_id: str,
    settings: TagSettings,
    files: Sequence[FileInfo],
    finder: HistoryFinder | None = None,
    tokens: Mapping[str, str] | None = None,
) -> TagPlan:
    """Scan the ids of the parts and decide which row of each repeated id is tagged; with `finder`, find the histories too.

    ArchiveError if the parts' folders mix Hive keys, if no part can be read, or if there is no row in any.
    """
    _check_folders([file.path for file in files])
    scans = [scan_part(file) for file in files]
    if not any(sum(scan.groups) for scan in scans):
        reasons = {left.reason for scan in scans for left in scan.left_out}
        raise ArchiveError(
            f"{settings.archive}: no part holds posts: {files[0].path}: {sorted(reasons)[0] if reasons else 'empty'}"
        )
    leave_out_repeated(scans)
    parts = []
    for scan in scans:
        left_out = sorted(scan.left_out, key=lambda left: (left.row is None, left.row or 0))
        depends_on = [settings.identity, scan.file.path, scan.file.etag, scan.groups, scan.readable]
        left_out_values = [left.model_dump() for left in left_out]
        part_id = _digest(*depends_on, left_out_values, *_token(scan.file, tokens or {}))
        parts.append(
            PartPlan(
                id=part_id,
                path=scan.file.path,
                etag=scan.file.etag,
                groups=scan.groups,
                readable=scan.readable,
                left_out=left_out,
            )
        )
    if finder is not None:
        histories = finder.find(scanned(settings, parts))
        parts = [
            part.model_copy(update={"id": _digest(part.id, history), "content": part.id})
            for part, history in zip(parts, histories, strict=True)
        ]
    return TagPlan(id=plan_id, settings=settings, parts=parts)


def scanned(settings: TagSettings, parts: Sequence[PartPlan]) -> list[ScannedPart]:
    """The parts as histories are found in them."""
    return [
        ScannedPart(
            uri=storage.join(settings.archive, part.path),
            path=part.path,
            etag=part.etag,
            rows=part.rows,
            left_out=[left.row for left in part.left_out if left.row is not None],
        )
        for part in parts
    ]


def _check_folders(paths: Sequence[str]) -> None:
    """Readers take `key=value` folders as columns, which then must be the same ones in every part."""
    keys = {path: tuple(step.partition("=")[0] for step in path.split("/") if "=" in step) for path in paths}
    if len(set(keys.values())) > 1:
        first = paths[0]
        other = next(path for path in paths if keys[path] != keys[first])
        raise ArchiveError(
            f"the archive mixes partition folders: {first} beside {other}: tag them into different --out"
        )
    if {"model", "version"} & set(keys[paths[0]]):
        raise ArchiveError(f"{paths[0]}: the folder keys 'model' and 'version' are those of the output")


def _named_in_utf8(file: FileInfo) -> FileInfo:
    """A local file's name may be any bytes; what is no UTF-8 in it is replaced, and the part then refused."""
    return replace(file, path=file.path.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


def _token(file: FileInfo, tokens: Mapping[str, str]) -> list[str]:
    return [tokens[file.path]] if file.path in tokens else []


def _digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:ID_DIGITS]


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _hive(value: str) -> str:
    return quote(value, safe=" ()+,;@!$&'~")


def _real(uri: str) -> str:
    return os.path.realpath(storage.local_path(uri))
