"""Re-read an output and prove it whole: its files are those that the snapshot names, its rows are what the schema says, its
counts agree with its records, every post is in it once.

Without the archive, the output is held to its own log and records; with it, every post of the archive is looked for as well
(`verify_archive`). Memory: a data file, and 9 bytes a row, 16 while posts are compared; some 25 with the archive. Do it when
no run is at work.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from hashtag_core import storage
from hashtag_core.data.tagged_archive import Source
from hashtag_core.errors import HashtagError, NotFoundError
from hashtag_core.output.claimed_output import Output
from hashtag_core.output.fenced_table import DataFile, Table
from hashtag_core.output.forget_users.forget_list import FORGOTTEN
from hashtag_core.output.layout import Layout
from hashtag_core.output.moved_rows import REPEATED
from hashtag_core.output.verify_archive import check_archive
from hashtag_core.output.verify_rows import ABSENT, LEFT_OUT, LOST, REFUSED, TAGGED_ROW, PartRows
from hashtag_core.output.versions import versions_of
from hashtag_core.schema import RECORDS, REJECTED_TABLE, STATUSES, TABLE, TAGGED
from hashtag_core.storage import FileInfo

logger = logging.getLogger(__name__)

SHOWN_PROBLEMS = 100


@dataclass
class Verified:
    """What was read, and what is wrong with it; `problems` is empty if the output is whole."""

    models: int = 0
    parts: int = 0
    files: int = 0
    tagged: int = 0
    rejected: int = 0
    problems: list[str] = field(default_factory=list)


def verify_output(out: str, archive: str | None = None, *, keeps_history: bool = False) -> Verified:
    """Look for everything that can be wrong with an output, of all models and versions in it.

    `keeps_history`: data files that no snapshot names are kept for time travel, and are no fault. NotFoundError where
    nothing was tagged. What is wrong is not raised but told in `problems`, one line each.
    """
    layouts = versions_of(out)
    listed = {info.path: info for info in storage.list_files(layouts[0].out, hidden=True)}
    found, named = Verified(), set[str]()
    for layout in layouts:
        output = Output.open(layout)
        if output.tagged is None and output.recorded is None:
            raise NotFoundError(f"{out}: no tagged output: there is no table yet")
        _Version(output, listed, found, named).check(archive)
        found.models += 1
    for path in sorted(listed):
        if not path.endswith(".parquet") or path in named or path.startswith("_state/model="):
            continue
        is_data = not path.startswith("_") and "/." not in f"/{path}"
        if is_data and not keeps_history:
            found.problems.append(f"{path}: no snapshot names it, and a glob reads it: the next run removes it")
        elif not is_data:
            logger.info("%s: no snapshot names it: the next run removes it", path)
    return found


class _Version:
    """One model and version of an output."""

    def __init__(self, output: Output, listed: dict[str, FileInfo], found: Verified, named: set[str]) -> None:
        self.output, self.layout, self.listed = output, output.layout, listed
        self.found, self.named = found, named
        self.parts = {path: PartRows.of(record) for path, record in output.records.parts.items()}
        self.tagged: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        """Lines that tell of a part from some row on, or of all of it: nobody knows how many rows that is."""

    def check(self, archive: str | None) -> None:
        """All of it."""
        tables = (
            (self.output.tagged, TABLE, self._take_tagged),
            (self.output.rejected, REJECTED_TABLE, self._take_rejected),
            (self.output.recorded, RECORDS, lambda path, rows: None),
        )
        for table, schema, take in tables:
            for file, path in [] if table is None else self._files(table):
                rows = self._read(table, file, path, schema)
                if rows is not None and table is not None:
                    take(path, rows)
                    self._check_statistics(path, file, rows)
                    if table is self.output.tagged:
                        self._check_folder(path, file, rows)
        self._check_records()
        self._check_repeated()
        if archive is not None:
            settings = self.output.records.settings
            source = Source(archive) if settings is None else settings.source(archive)
            self.found.problems += check_archive(self.output, self.parts, source)

    def _problem(self, where: str, what: str) -> None:
        self.found.problems.append(f"{where}: {what}")

    def _files(self, table: Table) -> Iterator[tuple[DataFile, str]]:
        """Data files of the snapshot, and their paths below the output."""
        root = table.uri.removeprefix(self.layout.out).strip("/")
        for file in table.files(self.layout.values):
            path = f"{root}/{file.path}" if root else file.path
            self.named.add(path)
            self.found.files += table is self.output.tagged
            yield file, path

    def _read(self, table: Table | None, file: DataFile, path: str, schema: pa.Schema) -> pa.Table | None:
        """The rows of a data file; None, and a problem told, where it is not what the log says."""
        info = self.listed.get(path)
        if info is None or table is None:
            self._problem(path, "the snapshot names it, and it is not there")
            return None
        if info.size != file.size:
            self._problem(path, f"{info.size} bytes, the log says {file.size}")
        try:
            rows = table.read(file)
        except (HashtagError, pa.ArrowException, OSError) as error:
            self._problem(path, f"not readable: {str(error).splitlines()[0]}")
            return None
        if file.rows not in (-1, rows.num_rows):
            self._problem(path, f"{rows.num_rows} rows, the log says {file.rows}")
        if not rows.schema.equals(schema) and not _alike(rows.schema, schema):
            self._problem(path, f"its schema is another one: {', '.join(rows.schema.names)}")
            return None
        nulls = [item.name for item in schema if not item.nullable and rows[item.name].null_count]
        if nulls:
            self._problem(path, f"null in {nulls[0]}")
            return None
        return rows

    def _check_statistics(self, path: str, file: DataFile, rows: pa.Table) -> None:
        if file.first_part is not None and "part" in rows.column_names:
            for part in pc.unique(rows["part"]).to_pylist():
                if not file.may_hold(part):
                    self._problem(path, f"holds rows of {part}, which the log's statistics leave out")

    def _check_folder(self, path: str, file: DataFile, rows: pa.Table) -> None:
        """A reader of the folders gets the same values as one of the log."""
        if not path.startswith(f"{self.layout.partition}/"):
            self._problem(path, f"is not in {self.layout.partition}, the folder of its model and version")
        if "day" in file.partition:
            days = set(pc.unique(pc.strftime(rows["created_at"], format="%Y-%m-%d")).to_pylist()) - {
                file.partition["day"]
            }
            if days:
                self._problem(path, f"holds posts of {sorted(map(str, days))[0]}, the log says {file.partition['day']}")

    def _take_tagged(self, path: str, rows: pa.Table) -> None:
        for fault in row_faults(rows, self.layout):
            self._problem(path, fault)
        self.found.tagged += rows.num_rows
        for name, of_part in _by_part(rows):
            self.tagged[name] += of_part.num_rows
            if (part := self.parts.get(name)) is not None:
                hashes = hashed(of_part["post_id"])
                for fault in part.take(of_part["part_row"].to_numpy(), TAGGED_ROW, hashes):
                    self._problem(path, f"{name}: {fault}")
                self._check_part_version(path, name, of_part)

    def _take_rejected(self, path: str, rows: pa.Table) -> None:
        self.found.rejected += pc.sum(rows["rows"]).as_py() or 0
        for name, of_part in _by_part(rows):
            self.rejected[name] += pc.sum(of_part["rows"]).as_py()
            part = self.parts.get(name)
            for line in [] if part is None else of_part.select(["row", "rows", "reason"]).to_pylist():
                if line["row"] is None or part is None:
                    self.ends[name] += 1
                    continue
                where = np.arange(line["row"], line["row"] + line["rows"])
                for fault in part.take(where, _kind(line["reason"])):
                    self._problem(path, f"{name}: {fault}")

    def _check_part_version(self, path: str, name: str, rows: pa.Table) -> None:
        etag = self.output.records.parts[name].etag
        others = set(pc.unique(rows["part_version"]).to_pylist()) - {etag}
        if etag and others:
            self._problem(path, f"{name}: rows of its version {sorted(others)[0]}, its record says {etag}")

    def _check_records(self) -> None:
        records = self.output.records.parts
        self.found.parts += len(records)
        for name in sorted((self.tagged.keys() | self.rejected.keys()) - records.keys()):
            self._problem(name, "rows of it are in the table and there is no record of it: run again")
        for name, record in sorted(records.items()):
            tagged, rejected = self.tagged[name], self.rejected[name]
            if tagged != record.tagged:
                self._problem(name, f"{tagged} rows are tagged, its record says {record.tagged}")
            if not record.etag:
                continue  # some of its posts are another part's by now
            if rejected != record.rejected:
                self._problem(name, f"{rejected} rows are rejected, its record says {record.rejected}")
            if record.rows and tagged + rejected - self.ends[name] != record.rows:
                self._problem(name, f"{tagged} tagged and {rejected} rejected do not make its {record.rows} rows")
            elif missing := int((self.parts[name].state == ABSENT).sum()):
                row = int(np.flatnonzero(self.parts[name].state == ABSENT)[0])
                self._problem(name, f"{missing} row(s) are neither tagged nor rejected, the first is {row}")

    def _check_repeated(self) -> None:
        """Every post once. Hashes say which ids may be repeated, a second look which are."""
        names = sorted(self.parts)
        hashes = [part.hashes[part.state == TAGGED_ROW] for part in (self.parts[name] for name in names)]
        ordered = np.sort(np.concatenate([np.zeros(0, np.uint64), *hashes]))
        suspected = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        del ordered
        places: dict[str, list[str]] = {}
        table = self.output.tagged
        for file in table.files(self.layout.values) if table is not None and len(suspected) else []:
            try:
                rows = table.read(file, ["post_id"]) if table is not None else None
            except (HashtagError, pa.ArrowException, OSError):
                continue  # told already
            if rows is None:
                continue
            twice = rows["post_id"].filter(pa.array(np.isin(hashed(rows["post_id"]), suspected)))
            for post_id in twice.to_pylist():
                places.setdefault(post_id, []).append(file.path)
        for post_id, paths in places.items():
            if len(paths) > 1:
                self._problem(paths[-1], f"post {post_id!r} is tagged {len(paths)} times, also in {paths[0]}")


def row_faults(table: pa.Table, layout: Layout) -> Iterator[str]:
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
    if table.num_rows and not pc.all(pc.equal(pc.equal(table["status"], "ok"), pc.is_null(table["detail"]))).as_py():
        yield "a post that is ok has a detail, or one that is not has none"
    tags, scores = table["hashtags"].combine_chunks(), table["scores"].combine_chunks()
    if not pc.list_value_length(tags).equals(pc.list_value_length(scores)):
        yield "hashtags and scores of different lengths"
        return
    values = scores.flatten().to_numpy(zero_copy_only=False)
    if not np.all((values >= 0) & (values <= 1)):
        yield "a score that is not in [0, 1]"
    lengths = pc.list_value_length(scores).fill_null(0).to_numpy(zero_copy_only=False)
    of_post = np.repeat(np.arange(len(scores)), lengths)
    if np.any((np.diff(values) > 0) & (np.diff(of_post) == 0)):
        yield "scores that increase within a post"


def hashed(ids: pa.ChunkedArray) -> np.ndarray:
    """uint64 [n] of ids."""
    return np.asarray(pd.util.hash_array(ids.to_numpy().astype(object), categorize=False), dtype=np.uint64)


def _kind(reason: str) -> int:
    if reason.startswith(REPEATED):
        return LOST
    return LEFT_OUT if reason == FORGOTTEN else REFUSED


def _by_part(rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    for name in pc.unique(rows["part"]).to_pylist():
        yield name, rows.filter(pc.equal(rows["part"], name))


def _alike(one: pa.Schema, other: pa.Schema) -> bool:
    """Equal but for what other writers leave away: that a column has no nulls, metadata, the name of a list's values."""

    def types(schema: pa.Schema) -> list[tuple[str, str]]:
        kinds = [(item.name, item.type) for item in schema]
        return [(name, f"list<{kind.value_type}>" if pa.types.is_list(kind) else str(kind)) for name, kind in kinds]

    return types(one) == types(other)
