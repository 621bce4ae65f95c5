"""What a commit takes out of data files that stay: rows whose posts are another row's from now on."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hashtag_core.output.fenced_table import DataFile
from hashtag_core.schema import REJECTED_TABLE

REPEATED = "repeated post_id"
"""How the reason of a row begins whose post is tagged from another row."""

LATER_ROW = f"{REPEATED}: tagged from {{path}}, row "
"""How it begins where that row is one of the same part, `path`."""


@dataclass
class MovedRows:
    """What a commit takes out of other files."""

    add: list[DataFile] = field(default_factory=list)
    remove: list[DataFile] = field(default_factory=list)
    lines: pa.Table = field(default_factory=REJECTED_TABLE.empty_table)
    """Rows that a part lost to another one and that are still in the archive."""
    taken: dict[str, int] = field(default_factory=dict)
    """Posts that went out, by part."""
    line_counts: Counter[str] = field(default_factory=Counter)
    """Those of them that `lines` tell of."""

    def take(
        self,
        rows: pa.Table,
        present: Mapping[str, bool],
        victims: Mapping[str, pa.Array | None],
        winners: Mapping[str, str],
    ) -> None:
        """Count rows that go out; those of parts that are still in the archive and only lost them are told as rejected."""
        lines = []
        for row in rows.select(["part", "part_row", "post_id", "part_version", "created_at", "user_key"]).to_pylist():
            self.taken[row["part"]] = self.taken.get(row["part"], 0) + 1
            winner = winners.get(row["post_id"])
            if (
                present.get(row["part"], False)
                and victims[row["part"]] is not None
                and winner not in (None, row["part"])
            ):
                lines.append({
                    "part": row["part"], "row": row["part_row"], "post_id": row["post_id"],
                    "reason": f"{REPEATED}: tagged from {winner}", "rows": 1, "part_version": row["part_version"],
                    "created_at": row["created_at"], "user_key": row["user_key"],
                })  # fmt: skip
        self.line_counts.update(line["part"] for line in lines)
        if lines:
            self.lines = pa.concat_tables([self.lines, pa.Table.from_pylist(lines, schema=REJECTED_TABLE)])


def going(rows: pa.Table, victims: Mapping[str, pa.Array | None]) -> np.ndarray:
    """bool [n]: rows that go out."""
    gone = np.zeros(rows.num_rows, dtype=bool)
    for path in pc.unique(rows["part"]).to_pylist():
        if path in victims:
            of_part = pc.equal(rows["part"], path).to_numpy()
            ids = victims[path]
            gone |= of_part if ids is None else of_part & pc.is_in(rows["post_id"], value_set=ids).to_numpy()
    return gone
