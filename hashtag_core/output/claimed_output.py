"""One output as a run of one model and version sees it: three tables, and its claim on them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from hashtag_core import storage
from hashtag_core.errors import IntegrityError
from hashtag_core.output.fenced_table import Change, Table, ensure_table, open_table
from hashtag_core.output.forget_users.forget_list import ForgetList
from hashtag_core.output.layout import Layout
from hashtag_core.output.records import PartRecord, Records, RetagRecord, TagSettings, load_records, save_records
from hashtag_core.output.sweep import Astray, find_astray, sweep
from hashtag_core.schema import RECORDS, REJECTED_TABLE, TABLE

logger = logging.getLogger(__name__)

PARTITION = [pa.field("model", pa.string()), pa.field("version", pa.string())]
DAY = pa.field("day", pa.string())


@dataclass
class Output:
    """The tables of one output, as one model and version sees them. `open` to read, `claim` before anything is written."""

    layout: Layout
    tagged: Table | None
    rejected: Table | None
    recorded: Table | None
    records: Records

    @classmethod
    def open(cls, layout: Layout) -> "Output":
        """The newest snapshot of each table; None and empty records where nothing was tagged yet."""
        tagged, rejected, recorded = (open_table(uri) for uri in (layout.out, layout.rejected, layout.records))
        return cls(layout, tagged, rejected, recorded, load_records(recorded, layout.values))

    @property
    def has_days(self) -> bool | None:
        """Whether data files lie in folders by day; None where there is no table yet."""
        return None if self.tagged is None else "day" in self.tagged.partition_by

    def require_whole(self) -> None:
        """IntegrityError where the log of a table is lost, or the list of who is forgotten, though there are rows: what is lost
        cannot be told from what never was."""
        named = {self.layout.out: self.tagged, self.layout.rejected: self.rejected, self.layout.records: self.recorded}
        held = next((uri for uri, table in named.items() if table is not None and table.files()), None)
        if held is None:
            return
        lost = [storage.join(uri, "_delta_log") for uri, table in named.items() if table is None]
        lost += [] if storage.exists(ForgetList.uri(self.layout.out)) else [ForgetList.uri(self.layout.out)]
        if lost:
            raise IntegrityError(
                f"{lost[0]} is gone, though the table {held} has rows: put it back, or tag into another --out"
            )

    @property
    def is_counted(self) -> bool:
        """Whether the log has as many tagged rows as the records tell."""
        files = self.tagged.files(self.layout.values) if self.tagged is not None else []
        return sum(file.rows for file in files) == sum(record.tagged for record in self.records.parts.values())

    def find_astray(self, keep_history_h: float = 0.0) -> Astray:
        """Where the files of this model and version are not those of the logs."""
        tables = [table for table in (self.tagged, self.rejected, self.recorded) if table is not None]
        found = [find_astray(table, self.layout.partition, keep_history_h) for table in tables]
        return Astray([info for one in found for info in one.garbage], [file for one in found for file in one.lost])

    def claim(self, *, by_day: bool = False) -> None:
        """Make the tables where there are none, and make this the only run that commits for this model and version."""
        out, app = self.layout, f"hashtag-recommender/{self.layout.model_name}/{self.layout.model_version}"
        day = [DAY] if by_day else []
        keys = ["model", "version"]
        self.tagged = self.tagged or ensure_table(
            out.out, pa.schema([*TABLE, *PARTITION, *day]), [*keys, *(item.name for item in day)], "Tagged posts"
        )
        self.rejected = self.rejected or ensure_table(
            out.rejected, pa.schema([*REJECTED_TABLE, *PARTITION]), keys, "Rows that are not tagged"
        )
        self.recorded = self.recorded or ensure_table(
            out.records, pa.schema([*RECORDS, *PARTITION]), keys, "State of the output"
        )
        for table in (self.tagged, self.rejected, self.recorded):
            table.claim(app)
        self.records = load_records(self.recorded, out.values)

    def tables(self) -> tuple[Table, Table, Table]:
        """Tagged, rejected, records of a claimed output."""
        if self.tagged is None or self.rejected is None or self.recorded is None:
            raise IntegrityError(f"{self.layout.out}: there is no table yet")
        return self.tagged, self.rejected, self.recorded

    def save(
        self,
        name: str,
        *,
        parts: Sequence[PartRecord] = (),
        gone: Sequence[str] = (),
        settings: TagSettings | None = None,
        retag: RetagRecord | None = None,
        merge: bool = False,
    ) -> None:
        """Commit changed records; with `merge` all of them, in place of every file that has any."""
        table = self.tables()[2]
        values = self.layout.values
        save_records(
            table, self.layout.partition, values, self.records, f"records-{name}.parquet",
            parts=parts, gone=gone, settings=settings, retag=retag, merge=merge,
        )  # fmt: skip

    def tidy(self, keep_history_h: float = 0.0) -> bool:
        """Of this model and version, remove files that no snapshot names, and take files that are not there out of the log; whether
        there were any: their rows are lost."""
        is_lost = False
        for table in self.tables():
            garbage, lost = sweep(table, self.layout.partition, keep_history_h)
            if garbage:
                logger.info("%s: %d file(s) that no commit names are removed", table.uri, len(garbage))
            if lost:
                logger.error("%s: %d data file(s) are gone, with their rows: %s", table.uri, len(lost), lost[0].path)
                table.commit(Change((), lost))
                is_lost = True
        self.records = load_records(self.tables()[2], self.layout.values)
        return is_lost
