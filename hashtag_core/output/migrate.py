"""Outputs of the layout before the table: refused by a run, and taken over once by a command of their own.

    per model and version: manifests, rejected rows, settings, and what the archive knows of the parts that it still has so
    -> data files of the table -> three commits (rejected rows, tagged rows, records) -> old files removed, manifests last

Nothing is tagged again. As long as there are manifests the version counts as old: a command that was killed is run again, and
takes up where the commits are. Between the commits and the removal a glob gives rows twice. The archive is read, its pictures
too, for the hashes by which a part is known that is renamed later. Memory: a part's ids, and a data file.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hashtag_core import storage
from hashtag_core.errors import ConfigError, HashtagError, NotFoundError
from hashtag_core.output.claimed_output import Output
from hashtag_core.output.fenced_table import Change, DataFile
from hashtag_core.output.forget_users.forget_list import ForgetList
from hashtag_core.output.layout import Layout, hive
from hashtag_core.output.lease import Lease, new_run_id
from hashtag_core.output.migrate_part import (
    ArchivePart,
    read_archive_part,
    record_of,
    rejected_rows,
    same_version,
    table_rows,
)
from hashtag_core.output.old_layout import (
    OldPart,
    finish_rewrites,
    is_by_day,
    is_old,
    old_parts,
    old_retag,
    old_settings,
    remove_old_state,
    vector_folders,
)
from hashtag_core.output.records import PartRecord, RetagRecord, TagSettings, columns_name, vectors_name
from hashtag_core.output.sweep import sweep
from hashtag_core.output.versions import listed, versions_of
from hashtag_core.schema import REJECTED_TABLE
from hashtag_core.storage import FileInfo

logger = logging.getLogger(__name__)


@dataclass
class Migrated:
    """What was taken over. `without_archive`: parts that the archive has no longer as they were tagged, so that neither the users
    nor the dates of their posts are known."""

    models: int = 0
    parts: int = 0
    tagged: int = 0
    rejected: int = 0
    without_archive: int = 0
    removed_files: int = 0


def refuse_old_output(layout: Layout) -> None:
    """ConfigError for an output of the layout of manifests, also for one that is taken over in part."""
    if is_old(layout):
        raise ConfigError(
            f"{layout.out}: was written by a version before the Delta table ({layout.state} holds its manifests): take it over "
            f"once with `jobs/tag.py migrate --out {layout.out}`; nothing is tagged again"
        )


def migrate(out: str, archive: str | None = None, *, dry_run: bool = False) -> Migrated:
    """Take an output of the old layout over into the table; with `dry_run` count what it holds. `archive`: where its parts are,
    else the archive that was tagged, if it is still there.

    NotFoundError where there is nothing; ConfigError for an archive that is named and is none, or an output without anything of the
    old layout; IntegrityError for manifests that do not match their files; LeaseHeldError while a run is at work.
    """
    layouts = [layout for layout in versions_of(out) if is_old(layout)]
    if not layouts:
        raise ConfigError(f"{out}: there is nothing to take over: no manifest of the old layout is in it")
    result = Migrated()
    by_day = _are_by_day(layouts)
    for layout in layouts:
        result.models += 1
        run_id = new_run_id()
        if dry_run:
            _count(result, old_parts(layout))
            continue
        with Lease(layout.lease, run_id):
            finish_rewrites(layout)
            _take_over(layout, archive, result, by_day=by_day, name=f"migrated-{run_id[-6:]}")
    if not dry_run:
        for info in storage.list_files(layouts[0].out, ".jsonl", hidden=True):
            if info.path.startswith("_rejected/"):  # of contents that had changed: no manifest names them any more
                storage.remove(info.uri)
    return result


def _take_over(layout: Layout, archive: str | None, result: Migrated, *, by_day: bool, name: str) -> None:
    parts, settings = old_parts(layout), old_settings(layout)
    _count(result, parts)
    output = Output.open(layout)
    output.claim(by_day=by_day)
    if output.records.settings is None and settings is not None:
        files = _archive_files(archive, settings)
        _commit(output, parts, files, settings, result, name)
    _keep_encoders(layout)
    result.removed_files += sum(len(sweep(table, layout.partition).garbage) for table in output.tables())
    remove_old_state(layout)


def _commit(
    output: Output,
    parts: Sequence[OldPart],
    files: dict[str, FileInfo],
    settings: TagSettings,
    result: Migrated,
    name: str,
) -> None:
    """All of a model and version at once. Rows that a killed command committed are replaced."""
    layout, retag = output.layout, old_retag(output.layout)
    tagged, rejected, _ = output.tables()
    forgotten, folders = ForgetList.ensure(layout.out), vector_folders(layout)
    add, lines, records = list[DataFile](), [REJECTED_TABLE.empty_table()], list[PartRecord]()
    for number, part in enumerate(parts, 1):
        info = files.get(part.part)
        known = info is not None and same_version(part.etag, info.etag)
        found = (
            read_archive_part(info, forgotten)
            if known and info is not None and part.rows
            else ArchivePart(info if known else None)
        )
        result.without_archive += not known
        record = record_of(part, found, number, _token(retag, part.part), 0)
        rows_here = [np.zeros(0, np.int64)]
        for rows in table_rows(layout, part, found, record.etag):
            rows_here.append(rows["part_row"].to_numpy())
            add += _write(output, rows, f"{name}-{number:06d}-{len(rows_here):04d}")
        rejected_lines = rejected_rows(layout, part, found, record.etag, np.concatenate(rows_here))
        lines.append(rejected_lines)
        records.append(record.model_copy(update={"rejected": pc.sum(rejected_lines["rows"]).as_py() or 0}))
        _keep_histories(layout, record)
        if known and (part.part, part.etag) in folders:
            _keep_vectors(layout, folders[part.part, part.etag], vectors_name(settings, part.part, record.etag))
    content = pa.concat_tables(lines).sort_by([("part", "ascending"), ("row", "ascending")])
    path = f"{layout.partition}/rejected-{name}.parquet"
    told_files = [rejected.write(path, content, layout.values)] if content.num_rows else []
    rejected.commit(Change(told_files, rejected.files(layout.values)))
    tagged.commit(Change(add, tagged.files(layout.values)))
    output.save(name, parts=records, settings=settings, retag=retag)


def _write(output: Output, rows: pa.Table, name: str) -> list[DataFile]:
    """Data files of some rows, by day where the table is."""
    tagged, layout = output.tables()[0], output.layout
    if not output.has_days:
        return [tagged.write(f"{layout.partition}/part-{name}.parquet", rows, layout.values)] if rows.num_rows else []
    days = pc.strftime(rows["created_at"], format="%Y-%m-%d")
    files = []
    for day in pc.unique(days).to_pylist():
        piece = rows.filter(pc.is_null(days) if day is None else pc.equal(days, day))
        path = f"{layout.partition}/day={hive(day)}/part-{name}.parquet"
        files.append(tagged.write(path, piece, {**layout.values, "day": day}))
    return files


def _keep_histories(layout: Layout, record: PartRecord) -> None:
    """An empty file of history hashes: the histories of the next run are those that the part was tagged with."""
    uri = storage.join(layout.columns, f"{columns_name(record.path, record.etag)}.history.npy")
    with storage.open_output(uri) as target:
        np.lib.format.write_array(target, np.zeros(0, np.int64), allow_pickle=False)


def _keep_vectors(layout: Layout, before: str, now: str) -> None:
    """The vectors of a part's posts under the name that a run looks for; others go with the next run."""
    for info in listed(storage.join(layout.vectors, before)):
        storage.move(info.uri, storage.join(layout.vectors, now, info.path))


def _keep_encoders(layout: Layout) -> None:
    """How the encoders ran is what the next run must do too."""
    settings = old_settings(layout)
    try:
        encoders = storage.read_json(storage.join(layout.state, "encoders.json"))
    except NotFoundError:
        return
    if settings is not None:
        tokens = {"first", *old_retag(layout).tokens.values()}
        for token in tokens:
            name = f"encoders-{settings.backend}-{settings.precision}-{settings.batch_size}-{token}.json"
            storage.write_json(storage.join(layout.state, name), encoders)


def _token(retag: RetagRecord, path: str) -> str:
    """Of the order that a part was last tagged again by; none while the order is not done, and the part may not be."""
    return "" if path in retag.open else retag.tokens.get(path, "")


def _archive_files(archive: str | None, settings: TagSettings) -> dict[str, FileInfo]:
    """The parts of the archive that is named, else of the one that was tagged; none where that is gone."""
    try:
        return {info.path: info for info in settings.source(archive).parts()}
    except HashtagError as error:
        if archive is not None:
            raise
        logger.warning("users and dates of the posts are not known: %s", error)
        return {}


def _are_by_day(layouts: Sequence[Layout]) -> bool:
    """Whether all parts of all models are by day: the table is then too."""
    parts = [(layout, part) for layout in layouts for part in old_parts(layout) if part.files]
    return bool(parts) and all(is_by_day(layout, part) for layout, part in parts)


def _count(result: Migrated, parts: Sequence[OldPart]) -> None:
    result.parts += len(parts)
    result.tagged += sum(part.tagged for part in parts)
    result.rejected += sum(part.rejected for part in parts)
