"""The tables of one model and version without forgotten posts: rows, rejected rows, records, and the files of older snapshots.

What was tagged is told as rejected from then on, with the reason `forgotten` and nothing else of the post, so that the counts of
a part still make its rows. The commits are: rejected rows, tagged rows, records; each can be repeated.
"""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hashtag_core.output.claimed_output import Output
from hashtag_core.output.fenced_table import Change, DataFile, Table
from hashtag_core.output.forget_users.forget_list import FORGOTTEN
from hashtag_core.output.forget_users.wanted import Wanted
from hashtag_core.output.ids import keys_of
from hashtag_core.output.reconcile import counted_records
from hashtag_core.output.records import PartRecord
from hashtag_core.output.sweep import sweep
from hashtag_core.schema import REJECTED_TABLE, TABLE

Goes = Callable[[pa.Table], np.ndarray]


def forget_tables(output: Output, wanted: Wanted, name: str, *, dry_run: bool) -> Counter[str]:
    """Take rows out, of the newest snapshot and of all others; how many of which kind."""
    if output.tagged is None:
        return Counter()
    tagged, goes = output.tagged, wanted.goes
    if not dry_run:
        _forget_keys(output, wanted, f"{name}-keys")
    lines, back = _lines_of(tagged, output, goes, wanted.shared)
    counts = Counter(tagged=lines.num_rows, rejected=_forget_rejected(output, goes, lines, name, dry_run=dry_run))
    if dry_run:
        return counts
    if lines.num_rows:
        _rewrite(tagged, output, goes, name)
    changed = _changed_records(output, back)
    if changed:
        output.save(name, parts=changed, merge=True)
    counts["erased_files"] = sum(len(sweep(table, output.layout.partition).garbage) for table in output.tables())
    return counts


def _forget_keys(output: Output, wanted: Wanted, name: str) -> None:
    """Records without the keys of posts that go: of those no other row is looked for. Whose a row is that was not tried yet is not
    known, so that it is not tried where the post's id is shared with another user."""
    keys = set(keys_of(pa.array(sorted(wanted.posts - wanted.shared), pa.string())).to_hex())
    untried = set(keys_of(pa.array(sorted(wanted.posts), pa.string())).to_hex())
    changed = [
        record.model_copy(
            update={
                "barred": sorted(set(record.barred) - keys),
                "untried": {key: rows for key, rows in record.untried.items() if key not in untried},
                "hopeless": sorted(set(record.hopeless) - keys),
            }
        )
        for record in output.records.parts.values()
        if keys & {*record.barred, *record.hopeless} or untried & set(record.untried)
    ]
    if changed:
        output.save(name, parts=changed, merge=True)


def _lines_of(tagged: Table, output: Output, goes: Goes, shared: set[str]) -> tuple[pa.Table, dict[str, set[str]]]:
    """For each tagged row that goes a line that tells it as forgotten; and by part the keys of posts that another user's row may
    have from now on."""
    lines, back = [REJECTED_TABLE.empty_table()], dict[str, set[str]]()
    for file in tagged.files(output.layout.values):
        rows = tagged.read(file, ["post_id", "user_key", "part", "part_row", "part_version"])
        rows = rows.filter(pa.array(goes(rows)))
        if not rows.num_rows:
            continue
        lines.append(_forgotten(rows["part"], rows["part_row"], rows["part_version"]))
        for row in rows.filter(pc.is_in(rows["post_id"], value_set=pa.array(sorted(shared), pa.string()))).to_pylist():
            back.setdefault(row["part"], set()).update(keys_of(pa.array([row["post_id"]])).to_hex())
    return pa.concat_tables(lines), back


def _forgotten(part: pa.ChunkedArray, row: pa.ChunkedArray, version: pa.ChunkedArray) -> pa.Table:
    n = len(part)
    nothing = {item.name: pa.nulls(n, item.type) for item in REJECTED_TABLE if item.nullable and item.name != "row"}
    values = {"part": part, "row": row, "part_version": version, "reason": [FORGOTTEN] * n, "rows": [1] * n}
    return pa.table({**nothing, **values}, schema=REJECTED_TABLE)


def _forget_rejected(output: Output, goes: Goes, lines: pa.Table, name: str, *, dry_run: bool) -> int:
    """Tell rows as forgotten in place of whatever was told of them, and those that were tagged; how many were told before."""
    rejected = output.tables()[1] if output.rejected is not None else None
    files = [] if rejected is None else rejected.files(output.layout.values)
    there = set(zip(lines["part"].to_pylist(), lines["row"].to_pylist(), strict=True))
    remove: list[DataFile] = []
    pieces, found = [lines], 0
    for file in files:
        rows = rejected.read(file, REJECTED_TABLE.names).cast(REJECTED_TABLE) if rejected is not None else None
        if rows is None:
            continue
        gone = goes(rows)
        places = zip(rows["part"].to_pylist(), rows["row"].to_pylist(), rows["reason"].to_pylist(), strict=True)
        again = np.array([reason == FORGOTTEN and (part, row) in there for part, row, reason in places], bool)
        found += int(gone.sum())
        if not (gone | again).any():
            continue
        theirs = rows.filter(pa.array(gone & ~again))
        remove.append(file)
        pieces += [
            rows.filter(pa.array(~(gone | again))),
            _forgotten(theirs["part"], theirs["row"], theirs["part_version"]),
        ]
    content = pa.concat_tables(pieces).sort_by([("part", "ascending"), ("row", "ascending")])
    if dry_run or rejected is None or not (remove or lines.num_rows):
        return found
    path = f"{output.layout.partition}/rejected-{name}.parquet"
    rejected.commit(Change([rejected.write(path, content, output.layout.values)], remove))
    return found


def _rewrite(tagged: Table, output: Output, goes: Goes, name: str) -> None:
    """Data files without the rows, in one commit; the old ones are erased with all others that no snapshot names."""
    add, remove = list[DataFile](), list[DataFile]()
    for n, file in enumerate(tagged.files(output.layout.values)):
        rows = tagged.read(file, TABLE.names)
        gone = goes(rows)
        if not gone.any():
            continue
        remove.append(file)
        kept = rows.filter(pa.array(~gone))
        if kept.num_rows:
            folder = file.path.rpartition("/")[0]
            add.append(tagged.write(f"{folder}/part-{name}-{n:05d}.parquet", kept, file.partition))
    tagged.commit(Change(add, remove))


def _changed_records(output: Output, back: dict[str, set[str]]) -> list[PartRecord]:
    """Records whose counts are no longer those of the tables, or whose posts another row may have from now on."""
    records = output.records.parts
    new = [
        record.model_copy(update={"barred": sorted({*record.barred, *back.get(record.path, ())})})
        for record in counted_records(output)[0]
        if record.path in records
    ]
    return [record for record in new if record != records[record.path]]
