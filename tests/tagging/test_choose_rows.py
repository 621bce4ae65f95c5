"""Which row of a post is tagged, decided by hand-made ids."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from hashtag_core.output.ids import Entries, IdIndex, Keys, keys_of
from hashtag_core.output.records import PartRecord
from hashtag_core.storage import FileInfo
from hashtag_core.tagging.choose_rows import decide, match
from hashtag_core.tagging.part_ids import Scan


def scan(path: str, posts: dict[str, int]) -> Scan:
    """A part with these posts: id -> when it was made."""
    file = FileInfo(f"/archive/{path}", path, 1, "e", datetime.now(UTC))
    n = len(posts)
    entries = Entries(keys_of(pa.array(list(posts))), np.array(list(posts.values()), np.int64), np.zeros(n, np.uint32))
    return Scan(file, [n], [], entries, np.arange(n), np.zeros((0, 2), np.int64))


def record(path: str, number: int, **more: list[str]) -> PartRecord:
    return PartRecord(path=path, etag="e", number=number, size=1, rows=1, **more)


def index_of(posts: dict[str, int], number: int) -> IdIndex:
    index = IdIndex()
    entries = scan("any", posts).entries
    index.add(Entries(entries.keys, entries.created_us, np.full(len(posts), number, np.uint32)), [number])
    return index


def test_the_latest_row_wins_and_of_equal_ones_the_part_that_comes_last() -> None:
    scans = [scan("a", {"x": 5, "y": 1, "z": 1}), scan("b", {"x": 4, "y": 2, "z": 1})]
    found = decide(scans, [1, 2], IdIndex(), {}, set(), set())
    assert [wins.tolist() for wins in found.wins] == [[True, False, False], [False, True, True]]
    assert [numbers.tolist() for numbers in found.winner_of] == [[1, 2, 2], [1, 2, 2]]


def test_a_part_that_is_done_keeps_what_is_later_and_owns_what_it_loses() -> None:
    records = {"old": record("old", 1)}
    found = decide([scan("new", {"x": 9, "y": 1})], [2], index_of({"x": 5, "y": 5}, 1), records, {"old"}, set())
    assert found.wins[0].tolist() == [True, False]
    assert found.owners[0] == {"old": True}
    assert found.returning == {}


def test_a_part_that_is_gone_counts_only_for_what_no_other_has() -> None:
    records = {"gone": record("gone", 1)}
    found = decide([scan("new", {"x": 1})], [2], index_of({"x": 9}, 1), records, set(), set())
    assert found.wins[0].tolist() == [True]
    assert found.owners[0] == {"gone": False}


def test_what_a_replaced_part_had_returns_to_who_has_it() -> None:
    index = index_of({"x": 9}, 1)
    entries = scan("any", {"x": 5}).entries
    index.add(Entries(entries.keys, entries.created_us, np.full(1, 2, np.uint32)), [2])
    records = {"changed": record("changed", 1), "other": record("other", 2)}
    found = decide([scan("changed", {"y": 1})], [3], index, records, {"other"}, {"changed"})
    assert {path: keys.to_hex() for path, keys in found.returning.items()} == {
        "other": keys_of(pa.array(["x"])).to_hex()
    }


def test_a_row_that_was_rejected_when_it_was_tagged_wins_no_more() -> None:
    barred = keys_of(pa.array(["x"])).to_hex()
    records = {"old": record("old", 1, barred=barred)}
    found = decide([scan("new", {"x": 1})], [2], index_of({"x": 9}, 1), records, {"old"}, set())
    assert found.wins[0].tolist() == [True]


def test_match_tells_equal_high_bits_apart() -> None:
    keys = Keys(np.array([1, 5, 5], np.uint64), np.array([0, 1, 2], np.uint32))
    asked = Keys(np.array([5, 5, 1, 7], np.uint64), np.array([2, 9, 0, 0], np.uint32))
    assert match(keys, asked).tolist() == [2, -1, 0, -1]
