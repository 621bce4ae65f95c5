"""Which row of each post is tagged, decided among rows that are posts, without reading the archive again.

Among the parts that are in the archive the latest row by `created_at` wins (none: the earliest), then the part that comes last by
its path. A part that is gone counts only for posts that no other part has. What is looked at are the ids of the parts that
are new or changed, those that a changed part had before, and in the index whatever else has one of these ids.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hashtag_core.output.ids import Entries, IdIndex, Keys
from hashtag_core.output.records import PartRecord
from hashtag_core.tagging.part_ids import Scan


@dataclass
class Decision:
    """What the ids of new parts lead to."""

    wins: list[np.ndarray]
    """bool [n] for each scan: entries whose row is tagged."""
    winner_of: list[np.ndarray]
    """int64 [n] for each scan: the number of the part that has the post."""
    owners: list[dict[str, bool]]
    """For each scan: other parts that have, or had, posts that it wins; and whether each is still in the archive."""
    returning: dict[str, Keys] = field(default_factory=dict)
    """Parts that are done -> posts of theirs that no better row stands against any more."""
    returning_owners: dict[str, dict[str, bool]] = field(default_factory=dict)
    """For each of those, as `owners`."""


@dataclass(frozen=True)
class Candidates:
    """Entries that may have a post, sorted by key, then by rank: the last of each key wins."""

    entries: Entries
    scan: np.ndarray
    """Which scan an entry is of, -1 for one of the index."""
    position: np.ndarray
    """Its place among the entries of its scan."""
    is_last: np.ndarray
    group: np.ndarray
    """Number of its key."""


def decide(
    scans: Sequence[Scan],
    numbers: Sequence[int],
    index: IdIndex,
    records: Mapping[str, PartRecord],
    present: set[str],
    replaced: set[str],
    dropped: set[str] = frozenset(),  # type: ignore[assignment]
) -> Decision:
    """Decide for the ids of the scans, whose parts get `numbers`.

    `present`: paths of the parts that are done and in the archive as they were. `replaced`: those that are in the archive with
    another content. `dropped`: those that are gone and whose rows are to go too. All other records are of parts that are gone.
    """
    path_of = {record.number: path for path, record in records.items()}
    path_of |= {number: scan.file.path for number, scan in zip(numbers, scans, strict=True)}
    old = [records[path].number for path in [*replaced, *dropped]]
    freed = Keys.concatenate(
        [index.of_parts(old).keys, Keys.from_hex(key for item in records.values() for key in item.barred)]
    )
    fresh = [
        Entries(scan.entries.keys, scan.entries.created_us, np.full(len(scan.entries), number, np.uint32))
        for scan, number in zip(scans, numbers, strict=True)
    ]
    found = index.find(_distinct(Keys.concatenate([freed, *(entries.keys for entries in fresh)])))
    live = np.array(sorted(records[path].number for path in present), np.uint32)
    known = np.array(sorted(record.number for record in records.values()), np.uint32)
    standing = found.take(np.flatnonzero(np.isin(found.number, live)))
    standing = standing.take(np.flatnonzero(~_barred(standing, records)))
    candidates = _candidates(fresh, standing, path_of)
    decision = Decision(
        [np.zeros(len(entries), dtype=bool) for entries in fresh],
        [np.zeros(len(entries), np.int64) for entries in fresh],
        [{} for _ in fresh],
    )
    winner = candidates.entries.number[candidates.is_last][candidates.group]
    order = np.argsort(candidates.scan, kind="stable")
    ends = np.searchsorted(
        candidates.scan[order], np.arange(len(fresh) + 1)
    )  # entries of the index, scan -1, come first
    for scan in range(len(fresh)):
        mine = order[ends[scan] : ends[scan + 1]]
        decision.winner_of[scan][candidates.position[mine]] = winner[mine]
        decision.wins[scan][candidates.position[mine]] = candidates.is_last[mine]
    holders = found.take(np.flatnonzero(np.isin(found.number, known)))
    owned = _owners(candidates, holders, path_of, present)
    for scan, number in enumerate(numbers):
        decision.owners[scan] = {path: there for path, there in owned[number].items() if path != scans[scan].file.path}
    _find_returning(decision, candidates, freed, path_of, owned)
    return decision


def _candidates(fresh: Sequence[Entries], standing: Entries, path_of: Mapping[int, str]) -> Candidates:
    entries = Entries.concatenate([*fresh, standing])
    scan = np.concatenate([np.full(len(piece), n, np.int64) for n, piece in enumerate([*fresh, standing])])
    scan[len(entries) - len(standing) :] = -1
    position = np.concatenate([np.arange(len(piece)) for piece in [*fresh, standing]])
    by_path = np.array(sorted(path_of, key=lambda number: path_of[number]), np.int64)
    numbers = np.sort(by_path)
    ranks = np.argsort(by_path)
    rank = ranks[np.searchsorted(numbers, entries.number)] if len(numbers) else np.zeros(0, np.int64)
    order = np.lexsort((rank, entries.created_us, entries.keys.low, entries.keys.high))
    entries = entries.take(order)
    is_last = np.ones(len(entries), dtype=bool)
    is_last[:-1] = _differs(entries.keys)
    group = np.concatenate([[0], np.cumsum(is_last)[:-1]]).astype(np.int64) if len(entries) else np.zeros(0, np.int64)
    return Candidates(entries, scan[order], position[order], is_last, group)


def _owners(
    candidates: Candidates, holders: Entries, path_of: Mapping[int, str], present: set[str]
) -> defaultdict[int, dict[str, bool]]:
    """Number of a part -> paths of the parts that have an entry of a post that it wins."""
    winners = candidates.entries.take(np.flatnonzero(candidates.is_last))
    at = match(winners.keys, holders.keys)
    hit = at >= 0
    pairs = (
        np.unique(np.stack([winners.number[at[hit]], holders.number[hit]]), axis=1)
        if hit.any()
        else np.zeros((2, 0), int)
    )
    owned: defaultdict[int, dict[str, bool]] = defaultdict(dict)
    for winner, holder in pairs.T.tolist():
        path = path_of[holder]
        owned[winner][path] = path in present
    return owned


def _find_returning(
    decision: Decision,
    candidates: Candidates,
    freed: Keys,
    path_of: Mapping[int, str],
    owned: Mapping[int, dict[str, bool]],
) -> None:
    """Posts that a changed part had, or that were barred, and that a part which is done wins now."""
    standing = candidates.entries.take(np.flatnonzero(candidates.is_last & (candidates.scan < 0)))
    if not len(standing) or not len(freed):
        return
    free = standing.take(np.flatnonzero(match(_distinct(freed), standing.keys) >= 0))
    for number in np.unique(free.number).tolist():
        path = path_of[number]
        decision.returning[path] = free.keys.take(np.flatnonzero(free.number == number))
        decision.returning_owners[path] = {other: there for other, there in owned[number].items() if other != path}


def _barred(entries: Entries, records: Mapping[str, PartRecord]) -> np.ndarray:
    """bool [n]: entries of a post whose rows were all rejected when they were tagged."""
    barred = np.zeros(len(entries), dtype=bool)
    for record in records.values():
        if record.barred or record.hopeless:
            mine = entries.number == record.number
            barred |= mine & (match(_distinct(Keys.from_hex([*record.barred, *record.hopeless])), entries.keys) >= 0)
    return barred


def match(keys: Keys, asked: Keys) -> np.ndarray:
    """Place of each asked key among sorted distinct keys, -1 where it is none of them."""
    begin = np.searchsorted(keys.high, asked.high, side="left")
    counts = np.searchsorted(keys.high, asked.high, side="right") - begin
    matches = np.full(len(asked), -1, np.int64)
    for step in range(int(counts.max(initial=0))):  # keys with equal high bits: next to never more than one
        open_ = np.flatnonzero(counts > step)
        at = begin[open_] + step
        same = keys.low[at] == asked.low[open_]
        matches[open_[same]] = at[same]
    return matches


def _distinct(keys: Keys) -> Keys:
    """Sorted, each once."""
    ordered = keys.take(np.lexsort((keys.low, keys.high)))
    first = np.ones(len(ordered), dtype=bool)
    first[1:] = _differs(ordered)
    return ordered.take(np.flatnonzero(first))


def _differs(keys: Keys) -> np.ndarray:
    """bool [n - 1]: whether a key is another one than that before it."""
    different: np.ndarray = (keys.high[1:] != keys.high[:-1]) | (keys.low[1:] != keys.low[:-1])
    return different
