"""The state of an output as records in a table: the parts that are done, the settings, what is to be tagged again.

A record that changes is appended with a greater `sequence`; the greatest counts. One commit writes all records of a step, and
now and then all of them into one file, so that what a run reads at its start is few files however many parts there are.
The table is committed to last: a part whose rows are in the output and whose record is not is committed once more, from
the chunks that are still there, and nothing is tagged again.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa
from pydantic import ValidationError

from hashtag_core.config import ArchiveSection, ReadingOptions, Section
from hashtag_core.data.tagged_archive import Source
from hashtag_core.errors import IntegrityError
from hashtag_core.output.fenced_table import Change, DataFile, Table
from hashtag_core.schema import RECORDS

MERGE_FILES = 24
"""So many files are merged into one by the commit that would add another."""


FOR_NEW_PARTS = frozenset(
    [
        "top_k",
        "chunk_rows",
        "min_score",
        "deny",
        "thresholds",
        "diversity",
        "image_prefixes",
        "max_image_bytes",
        "image_hosts",
    ]
)
"""Settings that may be other ones for parts that are new or changed, while the rows of the others stay as they are: they
choose among scores, and say which pictures are fetched."""


class TagSettings(Section):
    """What the scores depend on besides the archive's content; pinned by the first run of a model version into an output."""

    format: Literal[2] = 2
    archive: str
    model_name: str
    model_version: str
    model_hash: str
    """The version that the files of the model folder make, computed from them."""
    top_k: int
    chunk_rows: int
    batch_size: int
    backend: str
    """Encoder backend and precision as asked for; what `auto` came to is pinned by the first actor in `encoders-*.json`."""
    precision: str
    min_score: float = 0.0
    deny: str = ""
    """Which of the model's tags are denied, and the thresholds of tags, as `Policy.as_settings` has them."""
    thresholds: str = ""
    extra_tags: str = ""
    """Tags that the model was not taught and may give, told in the same way."""
    diversity: float = 0.0
    image_prefixes: list[str] | None = None
    max_image_bytes: int = ArchiveSection().max_image_bytes
    image_hosts: list[str] = []
    reading: ReadingOptions = {}
    """Layout of the archive and what was said of its columns, where that is not the default."""

    def source(self, archive: str | None = None) -> Source:
        """The archive that was tagged, or another one, read as it was."""
        return Source(archive or self.archive, ArchiveSection(**self.reading, max_image_bytes=self.max_image_bytes))

    def differing(self, before: "TagSettings") -> list[str]:
        """What was set otherwise before, each as `name was .., now ..`."""
        was = before.model_dump()
        return [f"{name} was {was[name]!r}, now {now!r}" for name, now in self.model_dump().items() if was[name] != now]

    def fits_tagged(self, before: "TagSettings") -> bool:
        """Whether rows tagged with those may stand beside new ones: nothing but FOR_NEW_PARTS differs."""
        others = set(type(self).model_fields) - FOR_NEW_PARTS
        return self.model_dump(include=others) == before.model_dump(include=others)


class PartRecord(Section):
    """A part that is in the output."""

    path: str
    etag: str
    """Version of the part; empty where some of its posts are another part's by now, so that it counts as new if it returns."""
    number: int
    """Names the part in the index of ids; a new version has a new one."""
    size: int
    rows: int
    """Rows by the footer; 0 for a part that cannot be read."""
    groups: list[int] = []
    """Rows of each row group."""
    tagged: int = 0
    rejected: int = 0
    token: str = ""
    """Of the order to tag again that it was last tagged by."""
    run: str = ""
    barred: list[str] = []
    """Ids, as hexadecimal keys, that another part may have instead: the row here was rejected when it was tagged."""
    untried: dict[str, list[int]] = {}
    """The same for posts that this part has another row of: key of the id -> those rows, the next one first."""
    hopeless: list[str] = []
    """The same where no other row had the post then: a part that brings it later has it."""


class RetagRecord(Section):
    """Orders to tag again: the token of each part that was ever tagged again, and the parts of the last order as long as
    it is not done."""

    tokens: dict[str, str] = {}
    open: list[str] = []


@dataclass
class Records:
    """The records of one model and version."""

    parts: dict[str, PartRecord] = field(default_factory=dict)
    settings: TagSettings | None = None
    retag: RetagRecord = field(default_factory=RetagRecord)
    files: list[DataFile] = field(default_factory=list)
    sequence: int = 0


def columns_name(path: str, etag: str) -> str:
    """How the files of a part's columns and history hashes begin, in the folder of the columns."""
    return hashlib.sha256(f"{path}\n{etag}".encode("utf-8", "surrogatepass")).hexdigest()[:24]


def vectors_name(settings: TagSettings, path: str, etag: str) -> str:
    """Folder of a part's vector files: of its version, the model, and the borders of chunks."""
    identity = "\n".join([settings.model_hash, str(settings.chunk_rows), path, etag])
    return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def load_records(table: Table | None, partition: Mapping[str, str | None]) -> Records:
    """The records of a model and version in the snapshot at hand; empty ones where there is no table.

    IntegrityError for a record of another version of this program.
    """
    records = Records()
    if table is None:
        return records
    records.files = table.files(partition)
    pieces = [table.read(file) for file in records.files]
    latest: dict[tuple[str, str], tuple[int, str | None]] = {}
    for piece in pieces:
        rows = zip(*(piece[name].to_pylist() for name in ("kind", "key", "sequence", "value")), strict=True)
        for kind, key, sequence, value in rows:
            if sequence >= latest.get((kind, key), (-1, None))[0]:
                latest[kind, key] = sequence, value
            records.sequence = max(records.sequence, sequence)
    try:
        for (kind, key), (_, value) in latest.items():
            if value is None:
                continue
            if kind == "part":
                records.parts[key] = PartRecord.model_validate_json(value)
            elif kind == "settings":
                records.settings = TagSettings.model_validate_json(value)
            elif kind == "retag":
                records.retag = RetagRecord.model_validate_json(value)
    except ValidationError as error:
        raise IntegrityError(
            f"{table.uri}: a record that this version cannot read: {error.errors()[0]['msg']}"
        ) from None
    return records


def save_records(
    table: Table,
    folder: str,
    partition: Mapping[str, str | None],
    records: Records,
    name: str,
    *,
    parts: Iterable[PartRecord] = (),
    gone: Iterable[str] = (),
    settings: TagSettings | None = None,
    retag: RetagRecord | None = None,
    merge: bool = False,
) -> None:
    """Commit changed records, and take them into `records`. `folder` and `name` say where the new file goes. `merge`: write all
    of them, so that no older file is left.

    FencedError if the claim is lost; `records` is as it was then.
    """
    changed: list[tuple[str, str, str | None]] = [("part", part.path, part.model_dump_json()) for part in parts]
    changed += [("part", path, None) for path in gone]
    changed += [("settings", "", settings.model_dump_json())] if settings is not None else []
    changed += [("retag", "", retag.model_dump_json())] if retag is not None else []
    if not changed and not (merge and records.files):
        return
    merged = Records(dict(records.parts), settings or records.settings, retag or records.retag)
    for kind, key, value in changed:
        if kind == "part" and value is None:
            merged.parts.pop(key, None)
        elif kind == "part":
            merged.parts[key] = PartRecord.model_validate_json(value or "")
    removed: list[DataFile] = []
    if merge or len(records.files) >= MERGE_FILES:
        removed = records.files
        changed = [("part", part.path, part.model_dump_json()) for part in merged.parts.values()]
        changed += [("settings", "", merged.settings.model_dump_json())] if merged.settings is not None else []
        changed.append(("retag", "", merged.retag.model_dump_json()))
    sequence = records.sequence + 1
    file = table.write(f"{folder}/{name}", _rows(changed, sequence), partition)
    table.commit(Change([file], removed))
    table.erase(removed)
    records.parts, records.settings, records.retag = merged.parts, merged.settings, merged.retag
    records.files = [file] if removed else [*records.files, file]
    records.sequence = sequence


def _rows(changed: list[tuple[str, str, str | None]], sequence: int) -> pa.Table:
    kinds, keys, values = zip(*changed, strict=True)
    columns: dict[str, Sequence[str | int | None]] = {
        "kind": kinds,
        "key": keys,
        "sequence": [sequence] * len(changed),
        "value": values,
    }
    return pa.table(columns, schema=RECORDS)
