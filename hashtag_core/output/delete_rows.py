"""Rows that go out of an output for good: those of parts that are gone, and those of forgotten posts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hashtag_core.output.claimed_output import Output
from hashtag_core.output.fenced_table import Change, DataFile, Table

Filter = Callable[[pa.Table], np.ndarray]
"""bool [n]: rows that go."""


@dataclass
class Removed:
    """What one pass over a table found or took out."""

    rows: int = 0
    by_part: dict[str, int] = field(default_factory=dict)


def remove_rows(table: Table, output: Output, name: str, goes: Filter, *, dry_run: bool = False) -> Removed:
    """Take rows of this model and version out of a table in one commit; with `dry_run` count them.

    Reads every data file whose rows may go. FencedError if the claim is lost.
    """
    found, add, remove = Removed(), list[DataFile](), list[DataFile]()
    for n, file in enumerate(table.files(output.layout.values)):
        rows = table.read(file)
        gone = goes(rows)
        if not gone.any():
            continue
        found.rows += int(gone.sum())
        for path, count in zip(
            *np.unique(np.array(rows["part"].to_pylist(), dtype=object)[gone], return_counts=True), strict=True
        ):
            found.by_part[path] = found.by_part.get(path, 0) + int(count)
        if dry_run:
            continue
        remove.append(file)
        kept = rows.filter(pa.array(~gone))
        if kept.num_rows:
            folder = file.path.rpartition("/")[0]
            add.append(table.write(f"{folder}/part-{name}-{n:05d}.parquet", kept, file.partition))
    if remove:
        table.commit(Change(add, remove))
        table.erase(remove)
    return found


def drop_parts(output: Output, run_id: str, paths: Sequence[str]) -> int:
    """Remove all rows of parts that are gone, rejected ones and records too; the tagged rows that went."""
    tagged, rejected, _ = output.tables()
    gone = pa.array(list(paths), pa.string())

    def of_parts(rows: pa.Table) -> np.ndarray:
        return np.asarray(pc.is_in(rows["part"], value_set=gone).to_numpy())

    remove_rows(rejected, output, f"{run_id}-gone", of_parts)
    found = remove_rows(tagged, output, f"{run_id}-gone", of_parts)
    output.save(f"{run_id}-gone", gone=paths)
    return found.rows
