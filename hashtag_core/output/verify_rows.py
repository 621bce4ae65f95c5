"""What became of each row of a part, as `verify` finds it in the tables."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hashtag_core.output.records import PartRecord

ABSENT, TAGGED_ROW, LOST, LEFT_OUT, REFUSED = range(5)
"""Neither tagged nor rejected; tagged; rejected since another row has its post; as forgotten; for another reason."""


@dataclass
class PartRows:
    """`state` uint8 [n], what became of each row; `hashes` uint64 [n], of the ids of tagged rows."""

    state: np.ndarray
    hashes: np.ndarray

    @classmethod
    def of(cls, record: PartRecord) -> "PartRows":
        """Of a part of which nothing was found yet."""
        return cls(np.zeros(record.rows, np.uint8), np.zeros(record.rows, np.uint64))

    def take(self, rows: np.ndarray, kind: int, hashes: np.ndarray | None = None) -> Iterator[str]:
        """Note what became of some rows; what is wrong with that."""
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self.state)):
            yield f"row {int(rows.max())} is none of its {len(self.state)} rows"
            inside = (rows >= 0) & (rows < len(self.state))
            rows, hashes = rows[inside], None if hashes is None else hashes[inside]
        distinct = np.unique(rows)
        twice = len(rows) - len(distinct) + int((self.state[distinct] != ABSENT).sum())
        if twice:
            yield f"{twice} row(s) stand there twice"
        self.state[rows] = kind
        if hashes is not None:
            self.hashes[rows] = hashes
