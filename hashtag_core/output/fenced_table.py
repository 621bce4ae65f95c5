"""Delta tables, and the fence that keeps a run that lost its claim from changing them.

A run claims a table by an empty commit that carries an application transaction (`app`, epoch); each later commit of the run
carries the same one. Delta lets no commit through whose application transaction another commit carried since its snapshot
was read, and a fresh snapshot tells the epoch. So when a second run claims, the first can neither commit on an old snapshot
(Delta refuses) nor on a new one (the epoch is not its own): a run that was paused, however long, changes nothing.

Files are written before the commit that names them; a file that no snapshot names is garbage: `sweep` removes it.

This is the only module that imports deltalake.
"""

import json
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict, TypeVar
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from hashtag_core import storage
from hashtag_core.errors import ConfigError, HashtagError, StorageError

logger = logging.getLogger(__name__)

ATTEMPTS = 8
PAUSE_S = 0.2
COMMIT_NAME = "hashtagCommit"
"""Key in a commit's metadata that tells one commit from all others: a reply that was lost is not taken for a refusal."""
COMMITS_SEARCHED = 50
HARMLESS_FEATURES = frozenset({"v2Checkpoint", "vacuumProtocolCheck", "timestampNtz"})
"""Features of readers that change nothing of what a data file says; others are deletion vectors, for instance."""
CONFIGURATION = {
    "delta.checkpointInterval": "20",
    "delta.enableExpiredLogCleanup": "true",
    "delta.deletedFileRetentionDuration": "interval 30 days",
}

T = TypeVar("T")


class FencedError(HashtagError):
    """Another run claimed the output since: this one commits nothing any more."""


@dataclass(frozen=True)
class DataFile:
    """A data file: its path below the table's root as it lies on disk, and what the log says of it."""

    path: str
    size: int
    rows: int
    partition: Mapping[str, str | None]
    first_part: str | None = None
    last_part: str | None = None
    """Least and greatest value of the column `part`; None where the log does not say."""

    def may_hold(self, part: str) -> bool:
        """Whether rows of that part may be in the file. A statistic that other writers cut short still counts."""
        if self.first_part is None or self.last_part is None:
            return True
        return self.first_part <= part and (part <= self.last_part or part.startswith(self.last_part))


@dataclass(frozen=True)
class Change:
    """Files to add and files to remove in one commit."""

    add: Sequence[DataFile] = ()
    remove: Sequence[DataFile] = ()


@dataclass
class Table:
    """A Delta table below `uri`. Open it with `open_table` or `ensure_table`; `claim` before the first `commit`."""

    uri: str
    delta: DeltaTable
    app: str = ""
    epoch: int | None = None
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What the table was opened with; it may hold secrets."""
    partition_by: list[str] = field(init=False)
    _refusal: str = field(init=False, default="")
    """Why the last commit did not come through."""

    def __post_init__(self) -> None:
        self.partition_by = list(self.delta.metadata().partition_columns)

    @property
    def version(self) -> int:
        """Version of the snapshot in hand."""
        return int(self.delta.version())

    def refresh(self) -> None:
        """Take the newest snapshot, with credentials that have not ended. StorageError where the store does not answer."""
        options = storage.object_store_options(self.uri)
        if options == self.options:
            _asked(self.uri, "read of the table's log", self.delta.update_incremental)
        else:
            self.delta, self.options = _opened(self.uri, options), options

    def claim(self, app: str) -> None:
        """Make this the only run that commits for `app`. FencedError if another claims at the same moment."""
        self.app = app
        self.refresh()
        before = self.delta.transaction_version(app) or 0
        self.epoch = before + 1
        token = uuid.uuid4().hex
        for attempt in range(ATTEMPTS):
            if self._commit_once([], token):
                self.refresh()
                return
            if (self.delta.transaction_version(app) or 0) != before:
                raise FencedError(f"{self.uri}: another run began on this output at the same moment: run again")
            time.sleep(PAUSE_S * 2 ** min(attempt, 4))  # another model's commit, or a store that did not answer
        raise StorageError(
            f"{self.uri}: the output could not be claimed in {ATTEMPTS} attempts, at last for: {self._refusal}"
        )

    def holds(self) -> bool:
        """Whether the claim still holds, by the newest snapshot."""
        self.refresh()
        return self.epoch is not None and self.delta.transaction_version(self.app) == self.epoch

    def check(self) -> None:
        """FencedError if the claim does not hold."""
        if not self.holds():
            raise FencedError(f"{self.uri}: another run took this output over: this one changes nothing any more")

    def commit(self, change: Change) -> None:
        """Commit files that are there already: all of the change at once or nothing of it.

        A commit of another model that comes between is waited out; so is a reply that got lost. FencedError if another run
        claimed, StorageError where the store fails for good, and where another writer's commit since (such as an OPTIMIZE, which
        knows nothing of claims) took out a file that is to be removed: its rows are in another one by now.
        """
        actions = [_added(file) for file in change.add] + [_removed(file) for file in change.remove]
        if not actions:
            return
        token, read = uuid.uuid4().hex, self.version
        for attempt in range(ATTEMPTS):
            self.check()
            if change.remove and self.version != read:
                self._require(change.remove)
            if self._commit_once(actions, token):
                self.refresh()
                return
            time.sleep(PAUSE_S * 2 ** min(attempt, 4))
        raise StorageError(f"{self.uri}: the commit was refused {ATTEMPTS} times, at last for: {self._refusal}")

    def _require(self, files: Sequence[DataFile]) -> None:
        """StorageError where the snapshot does not name one of the files any more."""
        named = {file.path for file in self.files()}
        for file in files:
            if file.path not in named:
                raise StorageError(
                    f"{self.uri}: another writer took {file.path} out of the table since it was read: run again"
                )

    def files(self, partition: Mapping[str, str | None] | None = None) -> list[DataFile]:
        """Data files of the snapshot, of one partition or of all, sorted by path."""
        listed = pa.table(self.delta.get_add_actions(flatten=True))
        names = set(listed.column_names)
        columns: dict[str, list[Any]] = {name: listed[name].to_pylist() for name in names if _is_wanted(name)}
        nothing = [None] * listed.num_rows
        first, last = columns.get("min.part", nothing), columns.get("max.part", nothing)
        found = []
        for row in range(listed.num_rows):
            values = {key: columns.get(f"partition.{key}", nothing)[row] for key in self.partition_by}
            values = {key: None if value is None else str(value) for key, value in values.items()}
            if partition is not None and any(values[key] != value for key, value in partition.items()):
                continue
            path = unquote(columns["path"][row])
            rows = columns.get("num_records", nothing)[row]
            size = int(columns["size_bytes"][row])
            found.append(DataFile(path, size, -1 if rows is None else int(rows), values, first[row], last[row]))
        return sorted(found, key=lambda file: file.path)

    def read(self, file: DataFile, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a data file, without the partition columns, in Arrow's plain types whoever wrote it."""
        with storage.open_input(storage.join(self.uri, file.path)) as source:
            parquet = pq.ParquetFile(source, pre_buffer=True)
            rows = parquet.read(columns=None if columns is None else list(columns))
        return rows.cast(pa.schema([item.with_type(_plain(item.type)) for item in rows.schema]))

    def write(self, path: str, rows: pa.Table, partition: Mapping[str, str | None]) -> DataFile:
        """Write a data file, which nobody sees before a commit names it."""
        size = 0
        with storage.open_output(storage.join(self.uri, path)) as file:
            pq.write_table(rows, file, compression="zstd")
            size = file.tell()
        parts = rows["part"].to_pylist() if "part" in rows.column_names else []
        named = [part for part in parts if part is not None]
        first, last = (min(named), max(named)) if named else (None, None)
        return DataFile(path, size, rows.num_rows, dict(partition), first, last)

    def erase(self, files: Sequence[DataFile]) -> None:
        """Remove files from the store that a commit of this run took out, or that no commit names."""
        for file in files:
            storage.remove(storage.join(self.uri, file.path))

    def removed_files(self, hours: int = 0) -> list[str]:
        """Paths of files that a commit removed, longer ago than so many hours."""
        return _asked(
            self.uri,
            "read of the table's log",
            lambda: self.delta.vacuum(retention_hours=hours, enforce_retention_duration=False, dry_run=True),
        )

    def _commit_once(self, actions: list[AddAction | RemoveAction], token: str) -> bool:
        """Whether the commit is in the log. False: somebody else's came first."""
        if self.epoch is None:
            raise StorageError(f"{self.uri}: committed to without a claim")
        properties = CommitProperties(
            custom_metadata={COMMIT_NAME: token},
            app_transactions=[Transaction(self.app, self.epoch)],
            max_commit_retries=3,
        )
        try:
            self.delta.create_write_transaction(
                actions, "append", self.delta.schema(), self.partition_by, commit_properties=properties
            )
            return True
        except CommitFailedError as error:
            self._refusal = str(error)
            logger.debug("%s: %s", self.uri, error)
        except (DeltaError, OSError) as error:
            self._refusal = str(error)
            logger.warning("%s: a commit failed, looking whether it came through: %s", self.uri, error)
            self.refresh()
            if not self._is_in(token):
                time.sleep(PAUSE_S)
                return False
            return True
        self.refresh()
        return self._is_in(token)

    def _is_in(self, token: str) -> bool:
        history = _asked(self.uri, "read of the table's log", lambda: self.delta.history(COMMITS_SEARCHED))
        return any(entry.get(COMMIT_NAME) == token for entry in history)


def open_table(uri: str) -> Table | None:
    """The table, None where there is none. StorageError where the store does not answer."""
    try:
        options = storage.object_store_options(uri)
        return Table(uri, _opened(uri, options), options=options)
    except TableNotFoundError:
        return None


def ensure_table(uri: str, schema: pa.Schema, partition_by: Sequence[str], description: str) -> Table:
    """The table, made where there is none; of two runs that make it at once one wins, and both have it.

    ConfigError where the store cannot keep two writers apart.
    """
    storage.conditional_writes(uri).require(uri)
    found = open_table(uri)
    for attempt in range(ATTEMPTS):
        if found is not None:
            return found
        try:
            DeltaTable.create(
                storage.object_store_url(uri),
                schema,
                mode="error",
                partition_by=list(partition_by),
                description=description,
                configuration=CONFIGURATION,
                storage_options=storage.object_store_options(uri),
            )
        except (DeltaError, OSError) as error:
            if attempt == ATTEMPTS - 1:
                raise StorageError(f"{uri}: the table could not be made: {error}") from error
            logger.debug("%s: looking whether the table was made: %s", uri, error)
            time.sleep(PAUSE_S * 2 ** min(attempt, 4))
        found = open_table(uri)
    if found is None:
        raise StorageError(f"{uri}: the table that was just made is not there")
    return found


def _opened(uri: str, options: dict[str, str]) -> DeltaTable:
    """The table; ConfigError where another tool turned a feature on by which a data file alone does not tell its rows."""
    delta = _asked(
        uri, "read of the table's log", lambda: DeltaTable(storage.object_store_url(uri), storage_options=options)
    )
    protocol = delta.protocol()
    features = {*(protocol.reader_features or ()), *(["columnMapping"] if protocol.min_reader_version == 2 else ())}
    if unknown := sorted(features - HARMLESS_FEATURES):
        raise ConfigError(
            f"{uri}: another tool turned on {', '.join(unknown)} for this Delta table, with which rows would be lost or doubled "
            "here: drop the feature there (ALTER TABLE ... DROP FEATURE), or tag into another --out"
        )
    return delta


def _is_wanted(name: str) -> bool:
    return name in {"path", "size_bytes", "num_records", "min.part", "max.part"} or name.startswith("partition.")


class DeltaStatistics(TypedDict):
    """Statistics of a data file, as Delta's protocol has them: of the column `part` alone."""

    numRecords: int
    minValues: NotRequired[dict[str, str]]
    maxValues: NotRequired[dict[str, str]]
    nullCount: NotRequired[dict[str, int]]


def _added(file: DataFile) -> AddAction:
    stats: DeltaStatistics = {"numRecords": file.rows}
    if file.first_part is not None and file.last_part is not None:
        stats["minValues"], stats["maxValues"] = {"part": file.first_part}, {"part": file.last_part}
        stats["nullCount"] = {"part": 0}
    return AddAction(file.path, file.size, dict(file.partition), _now_ms(), True, json.dumps(stats))


def _removed(file: DataFile) -> RemoveAction:
    return RemoveAction(file.path, True, _now_ms(), file.size, dict(file.partition))


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type in which this program writes such values: delta-rs gives files that it rewrites views of strings and lists."""
    if pa.types.is_string_view(kind) or pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_list_view(kind) or pa.types.is_large_list(kind) or pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)))
    return kind


def _now_ms() -> int:
    return int(time.time() * 1000)


def _asked(uri: str, operation: str, ask: Callable[[], T]) -> T:
    """Ask again where the store does not answer, with growing pauses, not for ever."""
    for attempt in range(ATTEMPTS):
        try:
            return ask()
        except TableNotFoundError:
            raise
        except (DeltaError, OSError) as error:
            if attempt == ATTEMPTS - 1:
                raise StorageError(f"{uri}: {operation} failed: {error}") from error
            logger.debug("%s: %s failed, asking again: %s", uri, operation, error)
            time.sleep(PAUSE_S * 2 ** min(attempt, 4))
    raise AssertionError
