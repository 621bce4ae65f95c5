"""What planning asks of the tables: what is known of a post's content, which rows a part lost, and the entries of the index of ids."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hashtag_core.data.history import UNDATED
from hashtag_core.output.claimed_output import Output
from hashtag_core.output.fenced_table import Table
from hashtag_core.output.ids import Entries, IdIndex, Keys, keys_of
from hashtag_core.output.moved_rows import LATER_ROW, REPEATED

FEW_PARTS = 1_000
"""Parts that are compared with the statistics of a file; with more of them most files are read anyway."""


class Contents(NamedTuple):
    """Content and history hashes of posts, int64 [n] each; 0 where there is none."""

    keys: Keys
    content: np.ndarray
    history: np.ndarray


def contents_of(output: Output, paths: Iterable[str]) -> Contents:
    """What the table holds of the posts of some parts."""
    keys, content, history = [], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for rows in _rows_of(output, output.tagged, set(paths), ["post_id", "content", "history"]):
        keys.append(keys_of(rows["post_id"]))
        content.append(rows["content"].fill_null(0).to_numpy())
        history.append(rows["history"].fill_null(0).to_numpy())
    return Contents(Keys.concatenate(keys), np.concatenate(content), np.concatenate(history))


def lost_rows(output: Output, paths: Iterable[str]) -> dict[str, tuple[Keys, np.ndarray]]:
    """Of parts that are done: the posts that are tagged from another part, and int64 [n], their rows here.

    Of a post that a part has twice that is the later row: the other one lost to it, whoever has the post.
    """
    found: dict[str, list[tuple[Keys, np.ndarray]]] = {}
    for lines in _rows_of(output, output.rejected, set(paths), ["post_id", "row", "reason"]):
        rows = _repeated(lines)
        for path in pc.unique(rows["part"]).to_pylist():
            within = pc.starts_with(rows["reason"], LATER_ROW.format(path=path))
            of_part = rows.filter(pc.and_not(pc.equal(rows["part"], path), within))
            found.setdefault(path, []).append((keys_of(of_part["post_id"]), of_part["row"].to_numpy()))
    return {
        path: (Keys.concatenate([keys for keys, _ in pieces]), np.concatenate([rows for _, rows in pieces]))
        for path, pieces in found.items()
    }


def rows_of_part(output: Output, path: str) -> np.ndarray:
    """int64, ascending: the rows of a part that the table has."""
    found = [rows["part_row"].to_numpy() for rows in _rows_of(output, output.tagged, {path}, ["part_row"])]
    return np.sort(np.concatenate([np.zeros(0, np.int64), *found]))


def complete_index(output: Output, index: IdIndex) -> None:
    """Add the entries of parts that the index lacks: all of them where it was lost, those of a killed run else."""
    lacking = {path: part.number for path, part in output.records.parts.items() if part.number not in index.covered}
    if not lacking:
        return
    tagged = _rows_of(output, output.tagged, set(lacking), ["post_id", "created_at"])
    lost = (
        _repeated(rows) for rows in _rows_of(output, output.rejected, set(lacking), ["post_id", "created_at", "reason"])
    )
    pieces = [_entries(rows, lacking) for source in (tagged, lost) for rows in source if rows.num_rows]
    index.add(Entries.concatenate(pieces), lacking.values())


def _entries(rows: pa.Table, numbers: Mapping[str, int]) -> Entries:
    parts = rows["part"].combine_chunks().dictionary_encode()
    of_part = np.array([numbers[path] for path in parts.dictionary.to_pylist()], np.uint32)
    created = rows["created_at"].cast(pa.int64()).fill_null(UNDATED).to_numpy()
    return Entries(keys_of(rows["post_id"]), created, of_part[parts.indices.to_numpy()])


def _repeated(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.and_(pc.starts_with(rows["reason"], REPEATED), rows["post_id"].is_valid()))


def _rows_of(output: Output, table: Table | None, paths: set[str], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Some columns and `part` of the rows of those parts, a data file after the other."""
    if table is None or not paths:
        return
    wanted = pa.array(sorted(paths), pa.string())
    ordered = wanted.to_pylist()
    for file in table.files(output.layout.values):
        if file.first_part is not None and file.first_part == file.last_part:
            if file.first_part not in paths:
                continue
        elif len(paths) <= FEW_PARTS and not any(file.may_hold(path) for path in ordered):
            continue
        rows = table.read(file, ["part", *columns])
        kept = rows.filter(pc.is_in(rows["part"], value_set=wanted))
        if kept.num_rows:
            yield kept
