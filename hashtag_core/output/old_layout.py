"""What an output of the layout before the table says of itself: manifests, rejected rows in JSON lines, settings.

::

    OUT/model=M/version=V/<part path>/[day=D/]part-<id>-*.parquet      TAGGED rows of a part, in the order of its rows unless by day
    OUT/_rejected/*.jsonl                                              rows that are not tagged, a file a part and run
    OUT/_state/model=M/version=V/manifests/<part path>/<id>.json       a part that is done: its files, its counts
    OUT/_state/model=M/version=V/{settings,retag,encoders}.json, plans/, chunks/, rewrites/, history/, vectors/, _SUCCESS
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from hashtag_core import storage
from hashtag_core.errors import HashtagError, IntegrityError, NotFoundError
from hashtag_core.output.layout import Layout
from hashtag_core.output.records import RetagRecord, TagSettings
from hashtag_core.output.versions import listed
from hashtag_core.schema import TAGGED

logger = logging.getLogger(__name__)

JOURNAL = "rewrite.json"
STATE = ("plans", "chunks", "rewrites", "history")
"""Folders of the old state; what is of use of it is in the table."""
STATE_FILES = ("_SUCCESS", "settings.json", "retag.json", "encoders.json")


class OldFile(BaseModel):
    """A data file of a part; its path is below the output."""

    path: str
    rows: int


class OldPart(BaseModel):
    """A manifest."""

    part: str
    id: str
    etag: str
    rows: int
    tagged: int
    rejected: int
    unread: int = 0
    rejected_file: str | None = None
    files: list[OldFile]


@dataclass(frozen=True)
class OldLine:
    """A rejected row; `row` None: what could not be read."""

    row: int | None
    post_id: str | None
    reason: str


def is_old(layout: Layout) -> bool:
    """Whether there are manifests: they go last when an output is taken over."""
    return storage.exists(storage.join(layout.state, "manifests"))


def finish_rewrites(layout: Layout) -> None:
    """Finish what a compaction or a deletion of the old layout was at when it was killed, as far as its journal was written."""
    root = storage.join(layout.state, "rewrites")
    for info in listed(root):
        if info.path.rpartition("/")[2] != JOURNAL:
            continue
        journal = storage.read_json(info.uri)
        folder = info.uri.rpartition("/")[0]
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
        storage.remove(info.uri)


def old_parts(layout: Layout) -> list[OldPart]:
    """The parts that are done, by path. IntegrityError for a manifest that is none, or for two contents of one part."""
    found: dict[str, OldPart] = {}
    for info in listed(storage.join(layout.state, "manifests")):
        if not info.path.endswith(".json") or info.path.rpartition("/")[2].startswith("."):
            continue
        try:
            part = OldPart.model_validate(storage.read_json(info.uri))
        except (ValidationError, HashtagError) as error:
            raise IntegrityError(f"{info.uri}: no manifest: {str(error).splitlines()[0]}") from None
        if not all(storage.exists(storage.join(layout.out, file.path)) for file in part.files):
            logger.warning("%s: names files that are not there: the next run tags %s again", info.path, part.part)
            continue
        if part.part in found:
            raise IntegrityError(
                f"{part.part}: rows of two contents: tag it once with the version that wrote them, then migrate"
            )
        found[part.part] = part
    return [found[path] for path in sorted(found)]


def old_settings(layout: Layout) -> TagSettings | None:
    """The settings that the output was tagged with; None where no run got so far."""
    uri = storage.join(layout.state, "settings.json")
    try:
        return TagSettings.model_validate({**storage.read_json(uri), "format": 2})
    except NotFoundError:
        return None
    except ValidationError as error:
        raise IntegrityError(f"{uri}: no settings: {error.errors()[0]['msg']}") from None


def old_retag(layout: Layout) -> RetagRecord:
    """Orders to tag again."""
    try:
        return RetagRecord.model_validate(storage.read_json(storage.join(layout.state, "retag.json")))
    except NotFoundError:
        return RetagRecord()


def old_lines(layout: Layout, part: OldPart) -> list[OldLine]:
    """The rejected rows of a part."""
    if part.rejected_file is None:
        return []
    content = storage.read_bytes(storage.join(layout.out, part.rejected_file)).decode()
    lines = [json.loads(line) for line in content.split("\n") if line]
    return [OldLine(line["row"], line["post_id"], line["reason"]) for line in lines]


def is_by_day(layout: Layout, part: OldPart) -> bool:
    """Whether all its files are in folders of a day below that of the part."""
    return all(file.path.rpartition("/")[0] != f"{layout.partition}/{part.part}" for file in part.files)


def old_rows(layout: Layout, part: OldPart) -> Iterator[pa.Table]:
    """TAGGED rows, a file after the other. IntegrityError where a file has other rows than its manifest says."""
    for file in part.files:
        uri = storage.join(layout.out, file.path)
        try:
            with storage.open_input(uri) as source:
                rows = (
                    pq.read_table(source, partitioning=None)
                    .replace_schema_metadata(None)
                    .select(TAGGED.names)
                    .cast(TAGGED)
                )
        except (pa.ArrowException, KeyError) as error:
            raise IntegrityError(f"{uri}: no tagged rows: {str(error).splitlines()[0]}") from None
        if rows.num_rows != file.rows:
            raise IntegrityError(f"{uri}: {rows.num_rows} rows, its manifest says {file.rows}")
        yield rows


def tagged_row_numbers(part: OldPart, lines: list[OldLine]) -> np.ndarray:
    """int64 [tagged]: row of the part of each tagged row, in the order of a part that is not by day."""
    gone = [line.row for line in lines if line.row is not None]
    rows = np.setdiff1d(np.arange(part.rows), np.array(gone, np.int64))[: part.tagged]
    if len(rows) != part.tagged:
        raise IntegrityError(f"{part.part}: its counts do not match its rejected rows")
    return rows


def vector_folders(layout: Layout) -> dict[tuple[str, str], str]:
    """Path and version of a part -> the folder of its vectors, for models that read the history, as the last plans say."""
    found: dict[tuple[str, str], str] = {}
    for info in listed(storage.join(layout.state, "plans")):
        if info.path.endswith(".json") and not info.path.startswith("."):
            for part in storage.read_json(info.uri).get("parts", []):
                if part.get("content"):
                    found[part["path"], part["etag"]] = part["content"]
    return found


def remove_old_state(layout: Layout) -> None:
    """Remove what the table has taken over, but for the data files; the manifests last."""
    for info in listed(storage.join(layout.state, "manifests")):
        rejected_file = storage.read_json(info.uri).get("rejected_file") if info.path.endswith(".json") else None
        if rejected_file is not None:
            storage.remove(storage.join(layout.out, rejected_file))
    for name in STATE:
        storage.remove_tree(storage.join(layout.state, name))
    for name in STATE_FILES:
        storage.remove(storage.join(layout.state, name))
    storage.remove_tree(storage.join(layout.state, "manifests"))
