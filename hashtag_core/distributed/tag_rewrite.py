"""Replace published files by others with a new manifest, whole or not at all.

New files wait under `_state/.../rewrites/<part id>/` -> a journal there says where they go, what the manifest will be and
what goes away -> files into place -> manifest -> old files removed -> journal removed. A part whose journal was written is
finished by whoever comes next (the same command, or a tagging run); one without is as it was. While parts are rewritten the
marker `_SUCCESS` is away: between the first new file in place and the last old one removed a reader of all files sees
rows twice, one of the files that manifests name does not.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hashtag_core import storage
from hashtag_core.distributed.lease import Lease
from hashtag_core.distributed.tag_plan import Layout
from hashtag_core.errors import IntegrityError, NotFoundError

logger = logging.getLogger(__name__)

JOURNAL, MARKER = "rewrite.json", "success.json"
ROW_GROUP_ROWS = 65_536


def output_layouts(out: str) -> list[Layout]:
    """Every model and version of an output that has any state. NotFoundError where there is none."""
    steps = {tuple(info.path.split("/")[:2]) for info in listed(storage.join(out, "_state"))}
    found = sorted(step for step in steps if len(step) == 2 and step[0].startswith("model="))
    if not found:
        raise NotFoundError(f"{out}: no tagged output: nothing of a model below _state")
    return [Layout(out, *(unquote(step.partition("=")[2]) for step in steps)) for steps in found]


class Rewriter:
    """`with Rewriter(layout, run_id) as rewriter:` holds the lease; what a killed one left is finished first."""

    def __init__(self, layout: Layout, run_id: str) -> None:
        self.layout, self.run_id = layout, run_id
        self._lease = Lease(layout.lease, run_id)
        self._moves: list[tuple[str, str]] = []
        self._marker = storage.join(rewrites(layout), MARKER)

    def __enter__(self) -> Self:
        """LeaseHeldError while a tagging run is at work."""
        self._lease.__enter__()
        try:
            finish_rewrites(self.layout)
        except BaseException as error:
            self._lease.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._lease.check()
                with suppress(NotFoundError):
                    storage.move(self._marker, self.layout.success)
        finally:
            self._lease.__exit__(kind, error, trace)

    def begin(self) -> None:
        """Take the marker for consumers away, before the first change: a tagging run then looks for what was left."""
        self._lease.check()
        with suppress(NotFoundError):
            storage.move(self.layout.success, self._marker)

    def stage(self, part_id: str, path: str, content: bytes) -> None:
        """Write a new file that is to stand at `path`, relative to the output."""
        self.begin()
        name = f"{len(self._moves):06d}"
        storage.write_bytes(storage.join(rewrites(self.layout), part_id, name), content)
        self._moves.append((name, path))

    def commit(self, uri: str, manifest: dict[str, Any], old: list[str]) -> None:
        """Put what was staged in place, with the manifest at `uri`, and remove the files `old`."""
        new = {path for _, path in self._moves}
        journal = {
            "moves": self._moves,
            "manifest_path": relative(self.layout, uri),
            "manifest": manifest,
            "old": [path for path in old if path not in new],
        }
        self.begin()
        storage.write_json(storage.join(rewrites(self.layout), manifest["id"], JOURNAL), journal)
        self._moves = []
        _finish(self.layout, manifest["id"])


def manifests(layout: Layout) -> Iterator[tuple[str, dict[str, Any]]]:
    """URI and content of each manifest."""
    for info in listed(layout.manifests):
        yield info.uri, dict(storage.read_json(info.uri))


def marked_plan(layout: Layout) -> str | None:
    """The plan that the marker for consumers names, also while it is away; None where there is none."""
    for uri in (layout.success, storage.join(rewrites(layout), MARKER)):
        with suppress(NotFoundError):
            return str(storage.read_json(uri)["plan"])
    return None


def rewrites(layout: Layout) -> str:
    """Folder of rewrites that are not finished."""
    return storage.join(layout.state, "rewrites")


def finish_rewrites(layout: Layout) -> None:
    """Finish every rewrite whose journal was written, and remove what was staged for others."""
    found = listed(rewrites(layout)) + listed(rewrites(layout), temporary=True)
    names = {info.path.partition("/")[0] for info in found if "/" in info.path}
    for name in sorted(names):
        if storage.exists(storage.join(rewrites(layout), name, JOURNAL)):
            logger.info("finishing what was being written of part %s", name)
            _finish(layout, name)
        else:
            storage.remove_tree(storage.join(rewrites(layout), name))


def sweep_rewrites(layout: Layout) -> None:
    """The same for a tagging run, which writes a marker of its own."""
    finish_rewrites(layout)
    storage.remove_tree(rewrites(layout))


def _finish(layout: Layout, part_id: str) -> None:
    folder = storage.join(rewrites(layout), part_id)
    journal = storage.read_json(storage.join(folder, JOURNAL))
    for name, path in journal["moves"]:
        target = storage.join(layout.out, path)
        try:
            storage.move(storage.join(folder, name), target)
        except NotFoundError:
            if not storage.exists(target):
                raise
    storage.write_json(storage.join(layout.out, journal["manifest_path"]), journal["manifest"])
    for path in journal["old"]:
        storage.remove(storage.join(layout.out, path))
    storage.remove(storage.join(folder, JOURNAL))
    storage.remove_tree(folder)


def published_bytes(layout: Layout, file: dict[str, Any]) -> bytes:
    """The content of a published file. IntegrityError if it is not what its manifest says: it must not be made anew from."""
    content = storage.read_bytes(storage.join(layout.out, file["path"]))
    if hashlib.sha256(content).hexdigest() != file["sha256"]:
        raise IntegrityError(f"{file['path']}: its content is not what was published: run --verify")
    return content


def file_bytes(table: pa.Table) -> bytes:
    """TAGGED rows as a published file, without anything else that their chunk said."""
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(None), sink, compression="zstd", row_group_size=ROW_GROUP_ROWS)
    return bytes(sink.getvalue())


def file_entry(layout: Layout, manifest: dict[str, Any], before: str, content: bytes) -> dict[str, Any]:
    """What a manifest says of a new file that begins where `before` does, and stands in the same folder. Its name is
    `part-<part id>-<number of the first chunk>-<hash of the content>.parquet`."""
    sha256 = hashlib.sha256(content).hexdigest()
    folder, _, name = before.removesuffix(".parquet").rpartition("/")
    chunk = name.removeprefix(f"part-{manifest['id']}-").partition("-")[0]
    return {
        "path": f"{folder}/{_name(manifest['id'], chunk, sha256)}",
        "rows": pq.ParquetFile(pa.BufferReader(content)).metadata.num_rows,
        "size": len(content),
        "sha256": sha256,
    }


def part_folder(layout: Layout, manifest: dict[str, Any]) -> str:
    """Folder of a part's files, relative to the output; those of a part by day are in folders below it."""
    return relative(layout, storage.join(layout.tagged, manifest["part"]))


def folder_below(layout: Layout, manifest: dict[str, Any], file: dict[str, Any]) -> str:
    """`day=...` for a file of a part by day; empty for one that is right in the part's folder."""
    return str(file["path"]).rpartition("/")[0].removeprefix(part_folder(layout, manifest)).strip("/")


def is_by_day(layout: Layout, manifest: dict[str, Any]) -> bool:
    """Whether all files of the part are in folders of a day; so they are where there is no file."""
    return all(folder_below(layout, manifest, file) for file in manifest["files"])


def rejected_lines(layout: Layout, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """What is told of the part's rows that are not tagged."""
    name = manifest["rejected_file"]
    content = storage.read_bytes(storage.join(layout.out, name)).decode() if name else ""
    return [json.loads(line) for line in content.split("\n") if line]


def tagged_rows(uri: str, manifest: dict[str, Any], lines: list[dict[str, Any]]) -> np.ndarray:
    """int64 [tagged]: number in the part of each row as they follow in the files of a part that is not by day. `lines`: its
    rejected ones. IntegrityError if they do not match the counts."""
    gone = [line["row"] for line in lines if line["row"] is not None]
    rows = np.setdiff1d(np.arange(manifest["rows"]), gone)[: manifest["tagged"]]
    if len(rows) != manifest["tagged"]:
        raise IntegrityError(f"{uri}: its counts do not match its rejected rows: run --verify")
    return rows


def tagged_archive(layout: Layout) -> str | None:
    """The archive that was tagged; None before the first run got so far."""
    try:
        return str(storage.read_json(layout.settings)["archive"])
    except NotFoundError:
        return None


def is_rewritten(manifest: dict[str, Any], file: dict[str, Any]) -> bool:
    """Whether a file of the manifest has the name that its content gives it."""
    name = file["path"].rpartition("/")[2]
    chunk = name.removeprefix(f"part-{manifest['id']}-").partition("-")[0]
    return bool(name == _name(manifest["id"], chunk, file.get("sha256", "")))


def _name(part_id: str, chunk: str, sha256: str) -> str:
    return f"part-{part_id}-{chunk}-{sha256[:12]}.parquet"


def relative(layout: Layout, uri: str) -> str:
    """A URI below the output as manifests name it."""
    return uri.removeprefix(layout.out.rstrip("/") + "/")


def listed(uri: str, *, temporary: bool = False) -> list[storage.FileInfo]:
    """All files below a folder, none where it is not there; or what writers that were killed left half written of them."""
    try:
        found = storage.list_files(uri, hidden=True)
    except NotFoundError:
        return []
    return [info for info in found if info.uri.rpartition("/")[2].startswith(".") == temporary]
