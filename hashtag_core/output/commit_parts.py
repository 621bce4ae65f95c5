"""How tagged parts get into the table: their chunks become data files, and a commit puts the new rows in and the old ones out.

Of a part that is replaced whole, all rows that the table has of it go; of one that is patched, those whose posts are tagged
anew. A post that another part had until now (a part that was renamed, merged or split, or one that lost it to a later version)
leaves that part in the same commit, so that no snapshot has a post twice.

Several parts go in one commit. The order of the commits is: rejected rows, tagged rows, rejected rows of parts that are patched,
records. A run that is killed between two of them leaves a part without a record; the next run takes its chunks and commits it
again. A part that is patched has a record already, and that a row of it is to be tagged is known from the rejected rows:
hence its row is tagged before it is no longer told as rejected.
"""

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hashtag_core import storage
from hashtag_core.errors import HashtagError, IntegrityError
from hashtag_core.output.chunk_files import ChunkContent, read_chunk
from hashtag_core.output.claimed_output import Output
from hashtag_core.output.fenced_table import Change, DataFile
from hashtag_core.output.layout import hive
from hashtag_core.output.moved_rows import MovedRows, going
from hashtag_core.output.records import PartRecord
from hashtag_core.schema import REJECTED_TABLE, TABLE

logger = logging.getLogger(__name__)

FILE_ROWS = 262_144
"""Rows of a data file at most."""
REQUESTS, CHUNKS_AHEAD = 8, 256
"""Chunk files that are read at once, and that may wait to be written on."""
GROUP_PARTS, GROUP_ROWS, GROUP_S = 64, 200_000, 15.0
"""So many parts or rows, or so long since the first of them, and what is finished is committed."""


@dataclass(frozen=True)
class FinishedPart:
    """A part whose chunks are all there.

    `owners`: other parts that hold rows of its posts, and whether each is still in the archive (then the row it loses is told
    as rejected). `rows`: of a part that is patched, the rows that were tagged anew; None: the part is replaced whole.
    """

    record: PartRecord
    key: str
    chunks: Sequence[int]
    left_out: pa.Table
    owners: Mapping[str, bool] = field(default_factory=dict)
    rows: Sequence[int] | None = None


class Yields(NamedTuple):
    """Posts whose row was rejected when it was tagged, and which other row may have them: as in `PartRecord`."""

    barred: list[str]
    untried: dict[str, list[int]]
    hopeless: list[str]


@dataclass
class Staged:
    """A part whose data files are written and not committed yet."""

    part: FinishedPart
    files: list[DataFile]
    rejected: pa.Table
    decided: pa.Array
    """`post_id` of its rows and of its rejected ones, where the table may have them already."""
    tagged: int
    """Rows in its files."""
    kept: int
    """Those of them that were tagged before."""


class Publisher:
    """Commits finished parts in groups; `take` each as it is finished, `flush` at the end.

    `run_id` names its files: each publisher needs one of its own. `takers`: part path -> paths of the parts that take posts from it. Such a part is committed only once the rows that
    its takers keep were read, since its own commit removes them. `on_commit` hears of every part that is in the table. What
    `yields` says of a part is in its record from the same commit on.
    """

    def __init__(
        self,
        output: Output,
        run_id: str,
        takers: Mapping[str, set[str]],
        on_commit: Callable[[Staged, int], None],
        on_rows: Callable[[pa.Table], None],
        yields: Callable[["Staged"], Yields],
        keep_history_h: float = 0.0,
    ) -> None:
        self.output, self.run_id, self.on_commit, self.on_rows = output, run_id, on_commit, on_rows
        self.yields = yields
        self.keep_history_h = keep_history_h
        self._takers = defaultdict(set, {path: set(paths) for path, paths in takers.items()})
        self._waiting: list[Staged] = []
        self._since = time.monotonic()
        self._commits = 0
        self._by_part: dict[str, list[DataFile]] | None = None

    def take(self, part: FinishedPart) -> None:
        """Write the data files of a part; commit what waits when it is enough. HashtagError if it cannot be written."""
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting.append(self._stage(part))
        for owner in part.owners:
            self._takers[owner].discard(part.record.path)
        rows = sum(staged.tagged for staged in self._waiting)
        if len(self._waiting) >= GROUP_PARTS or rows >= GROUP_ROWS or time.monotonic() - self._since > GROUP_S:
            self.flush()

    def flush(self) -> list[str]:
        """Commit what waits; the paths of parts that cannot be, since parts that take posts from them are not finished.

        FencedError if another run claimed the output; the files of the parts are removed then.
        """
        ready = [staged for staged in self._waiting if not self._takers.get(staged.part.record.path)]
        self._waiting = [staged for staged in self._waiting if self._takers.get(staged.part.record.path)]
        if ready:
            try:
                self._commit(ready)
            except HashtagError:
                self._undo([file for staged in ready for file in staged.files])
                raise
        self._since = time.monotonic()
        return [staged.part.record.path for staged in self._waiting]

    def drop(self) -> None:
        """Give up what still waits: its files are removed, its chunks stay for the next run."""
        waiting, self._waiting = self._waiting, []
        self._undo([file for staged in waiting for file in staged.files])

    def _commit(self, waiting: list[Staged]) -> None:
        tagged, rejected, _ = self.output.tables()
        self._commits += 1
        name = f"{self.run_id}-{self._commits:05d}"
        moved = self._strip(waiting, name)
        whole = [staged for staged in waiting if staged.part.rows is None]
        patched = [staged for staged in waiting if staged.part.rows is not None]
        losers = self._losers(waiting, moved)
        gone = [path for path, item in losers.items() if item is None]
        change, _ = self._rejected_change(whole, moved.lines, name, gone)
        rejected.commit(change)
        tagged.commit(Change([file for staged in waiting for file in staged.files] + moved.add, moved.remove))
        replaced, taken_back = list(change.remove), Counter[str]()
        if patched:
            change, taken_back = self._rejected_change(patched, REJECTED_TABLE.empty_table(), f"{name}-patched")
            rejected.commit(change)
            replaced += change.remove
        self._by_part = None
        records = [self._record(staged, moved, taken_back[staged.part.record.path]) for staged in waiting]
        self.output.save(name, parts=[*records, *(item for item in losers.values() if item is not None)], gone=gone)
        if not self.keep_history_h:
            tagged.erase(moved.remove)
        rejected.erase(replaced)
        for staged in waiting:
            storage.remove_tree(storage.join(self.output.layout.chunks, staged.part.key))
            self.on_commit(staged, _rows_of(staged.rejected))

    def _undo(self, written: list[DataFile]) -> None:
        """Remove what was written and is in no snapshot; the next run's sweep does it where that cannot be told now."""
        tagged = self.output.tables()[0]
        try:
            tagged.refresh()
            named = {file.path for file in tagged.files(self.output.layout.values)}
            tagged.erase([file for file in written if file.path not in named])
        except HashtagError as error:
            logger.warning("%s: files that no commit names are left to the next run: %s", tagged.uri, error)

    def _stage(self, part: FinishedPart) -> Staged:
        """Write the part's data files, a piece of its rows after the other."""
        files: list[DataFile] = []
        rejected, decided, n, kept = [part.left_out], [pa.array([], pa.string())], 0, 0
        for contents in self._pieces(part):
            carried = self._carried(part, [item for content in contents for item in content.carried])
            rows = pa.concat_tables([*(content.rows for content in contents), carried]).sort_by("part_row")
            lines = pa.concat_tables([content.rejected for content in contents])
            if part.owners or part.rows is not None:
                decided += [rows["post_id"].combine_chunks(), lines["post_id"].combine_chunks()]
            rejected.append(lines)
            n, kept = n + rows.num_rows, kept + carried.num_rows
            self.on_rows(rows)
            files += self._write(part, rows, len(files))
        ids = pa.concat_arrays(decided).drop_null()
        return Staged(part, files, pa.concat_tables(rejected), ids, n, kept)

    def _pieces(self, part: FinishedPart) -> Iterator[list[ChunkContent]]:
        """Its chunks, so many at once as make up a data file."""
        layout, pieces = self.output.layout, list[ChunkContent]()
        with ThreadPoolExecutor(REQUESTS) as pool:
            for start in range(0, len(part.chunks), CHUNKS_AHEAD):
                numbers = part.chunks[start : start + CHUNKS_AHEAD]
                for content in pool.map(lambda number: read_chunk(layout.chunk(part.key, number)), numbers):
                    pieces.append(content)
                    if sum(item.rows.num_rows + len(item.carried) for item in pieces) >= FILE_ROWS:
                        yield pieces
                        pieces = []
        if pieces:
            yield pieces

    def _carried(self, part: FinishedPart, carried: Sequence[tuple[int, str]]) -> pa.Table:
        """The rows that the table has of those posts, now as rows of this part."""
        if not carried:
            return TABLE.empty_table()
        numbers = {post_id: row for row, post_id in carried}
        found: dict[str, pa.Table] = {}
        for path in [*part.owners, part.record.path]:
            for file in self._files_of(path):
                rows = self._read(file)
                rows = rows.filter(pc.is_in(rows["post_id"], value_set=pa.array(list(numbers), pa.string())))
                for at, post_id in enumerate(rows["post_id"].to_pylist()):
                    found.setdefault(post_id, rows.slice(at, 1))
            if len(found) == len(numbers):
                break
        if lacking := numbers.keys() - found.keys():
            storage.remove_tree(storage.join(self.output.layout.chunks, part.key))
            raise IntegrityError(
                f"{part.record.path}: {len(lacking)} post(s) whose tags were to be kept are in the table no more: run again"
            )
        kept = pa.concat_tables(found.values())
        columns = {name: kept[name] for name in TABLE.names} | {
            "part": pa.array([part.record.path] * kept.num_rows, pa.string()),
            "part_version": pa.array([part.record.etag] * kept.num_rows, pa.string()),
            "part_row": pa.array([numbers[post_id] for post_id in kept["post_id"].to_pylist()], pa.int64()),
        }
        return pa.table(columns, schema=TABLE)

    def _write(self, part: FinishedPart, rows: pa.Table, begin: int) -> list[DataFile]:
        """Data files of some rows, by day where the table is."""
        tagged, layout = self.output.tables()[0], self.output.layout
        files: list[DataFile] = []
        for folder, day, piece in _by_day(rows, by_day=bool(self.output.has_days)):
            name = f"part-{part.key}-{self.run_id[-8:]}-{begin + len(files):05d}.parquet"
            if piece.num_rows:
                values = {**layout.values, **day}
                files.append(tagged.write(f"{layout.partition}{folder}/{name}", piece, values))
        return files

    def _files_of(self, path: str) -> list[DataFile]:
        """Data files that may hold rows of a part."""
        if self._by_part is None:
            self._by_part = defaultdict(list)
            for file in self.output.tables()[0].files(self.output.layout.values):
                one = file.first_part is not None and file.first_part == file.last_part
                self._by_part[file.first_part or "" if one else ""].append(file)
        shared = [file for file in self._by_part.get("", []) if file.may_hold(path)]
        return [*self._by_part.get(path, []), *shared]

    def _read(self, file: DataFile) -> pa.Table:
        return self.output.tables()[0].read(file, TABLE.names).cast(TABLE)

    def _strip(self, waiting: list[Staged], name: str) -> MovedRows:
        """Take the rows that are to go out of the files that have them."""
        nothing = pa.array([], pa.string())
        victims: dict[str, pa.Array | None] = {}  # None: all of that part
        winners: dict[str, str] = {}
        for staged in waiting:
            part, path = staged.part, staged.part.record.path
            victims[path] = None if part.rows is None else pa.concat_arrays([nothing, staged.decided])
            if part.owners:
                winners |= dict.fromkeys(staged.decided.to_pylist(), path)
        for staged in waiting:
            for owner in staged.part.owners:
                before = victims.get(owner, nothing)
                victims[owner] = None if before is None else pa.concat_arrays([before, staged.decided])
        present = {owner: there for staged in waiting for owner, there in staged.part.owners.items()}
        result = MovedRows()
        files = {file.path: file for path in victims for file in self._files_of(path)}
        for n, file in enumerate(files.values()):
            if file.first_part == file.last_part and file.first_part in victims and victims[file.first_part] is None:
                result.remove.append(file)
                continue
            rows = self._read(file)
            gone = going(rows, victims)
            if not gone.any():
                continue
            result.remove.append(file)
            kept = rows.filter(pa.array(~gone))
            if kept.num_rows:
                folder = file.path.rpartition("/")[0]
                target = f"{folder}/part-{name}-{n:05d}.parquet"
                result.add.append(self.output.tables()[0].write(target, kept, file.partition))
            result.take(rows.filter(pa.array(gone)), present, victims, winners)
        return result

    def _rejected_change(
        self, waiting: list[Staged], lines: pa.Table, name: str, gone: Sequence[str] = ()
    ) -> tuple[Change, Counter[str]]:
        """Their rejected rows and other lines in; what was told of their rows before, and of parts of which nothing is left, out.
        With it how many rows go out by part."""
        lines = pa.concat_tables([*(staged.rejected for staged in waiting), lines])
        table = self.output.tables()[1]
        files = table.files(self.output.layout.values)
        known = self.output.records.parts
        whole = {staged.part.record.path for staged in waiting if staged.part.rows is None}
        whole = {path for path in [*whole, *gone] if path in known}
        patched = {staged.part.record.path: set(staged.part.rows) for staged in waiting if staged.part.rows is not None}
        removed, kept, out = [], [], Counter[str]()
        for file in files:
            if not any(file.may_hold(path) for path in [*whole, *patched]):
                continue
            rows = table.read(file, REJECTED_TABLE.names).cast(REJECTED_TABLE)
            goes = np.array(
                [
                    part in whole or row in patched.get(part, ())
                    for part, row in zip(rows["part"].to_pylist(), rows["row"].to_pylist(), strict=True)
                ],
                dtype=bool,
            )
            if goes.any():
                removed.append(file)
                kept.append(rows.filter(pa.array(~goes)))
                for line in rows.filter(pa.array(goes)).select(["part", "rows"]).to_pylist():
                    out[line["part"]] += line["rows"]
        content = pa.concat_tables([lines, *kept]).sort_by([("part", "ascending"), ("row", "ascending")])
        if not content.num_rows:
            return Change((), removed), out
        path = f"{self.output.layout.partition}/rejected-{name}.parquet"
        return Change([table.write(path, content, self.output.layout.values)], removed), out

    def _record(self, staged: Staged, moved: MovedRows, taken_back: int) -> PartRecord:
        """Of a part that is committed; `taken_back`: of its rejected rows that were, so many are not told of any more."""
        record, rejected = staged.part.record, _rows_of(staged.rejected)
        counts = {"tagged": staged.tagged, "rejected": rejected}
        if staged.part.rows is not None:
            tagged = record.tagged - moved.taken.get(record.path, 0) + staged.tagged
            rejected += record.rejected - taken_back + moved.line_counts[record.path]
            counts = {"tagged": tagged, "rejected": rejected}
        return record.model_copy(update={**self.yields(staged)._asdict(), **counts})

    def _losers(self, waiting: list[Staged], moved: MovedRows) -> dict[str, PartRecord | None]:
        """The records of other parts that lose rows; None where nothing is left of a part."""
        committed = {staged.part.record.path for staged in waiting}
        present = {owner: there for staged in waiting for owner, there in staged.part.owners.items()}
        losers: dict[str, PartRecord | None] = {}
        for path, n in moved.taken.items():
            was = self.output.records.parts.get(path)
            if path in committed or was is None:
                continue
            left = was.tagged - n
            if present.get(path, True):
                losers[path] = was.model_copy(update={"tagged": left, "rejected": was.rejected + n})
            else:
                losers[path] = was.model_copy(update={"tagged": left, "etag": ""}) if left > 0 else None
        return losers


def _rows_of(lines: pa.Table) -> int:
    """Rows that lines of the table of rejected rows stand for."""
    return int(pc.sum(lines["rows"]).as_py() or 0)


def _by_day(rows: pa.Table, *, by_day: bool) -> Iterator[tuple[str, dict[str, str | None], pa.Table]]:
    """Folder, partition value and rows: all as they are, or those of each UTC day of `created_at`, null last."""
    if not by_day:
        yield "", {}, rows
        return
    days = pc.strftime(rows["created_at"], format="%Y-%m-%d")
    for day in sorted(pc.unique(days).to_pylist(), key=lambda day: (day is None, day or "")):
        yield f"/day={hive(day)}", {"day": day}, rows.filter(pc.is_null(days) if day is None else pc.equal(days, day))
