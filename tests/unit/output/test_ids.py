"""The index of post ids: what is found in it, what is kept of it, what is dropped."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from hashtag_core.output.ids import MERGE_RUNS, Entries, IdIndex, Keys, keys_of, load_index


def entries(ids: list[str], number: int) -> Entries:
    n = len(ids)
    return Entries(keys_of(pa.array(ids)), np.arange(n, dtype=np.int64), np.full(n, number, np.uint32))


def numbers_of(index: IdIndex, post_id: str) -> list[int]:
    return sorted(index.find(keys_of(pa.array([post_id]))).number.tolist())


def test_keys_go_through_hexadecimal() -> None:
    keys = Keys(np.array([0, 2**64 - 1], np.uint64), np.array([1, 2**32 - 1], np.uint32))
    assert keys.to_hex() == ["000000000000000000000001", "f" * 24]
    back = Keys.from_hex(keys.to_hex())
    assert (back.high.tolist(), back.low.tolist()) == (keys.high.tolist(), keys.low.tolist())
    assert len(Keys.concatenate([])) == 0


def test_an_id_is_found_in_every_part_that_has_it() -> None:
    index = IdIndex()
    index.add(entries(["a", "b"], 1), [1])
    index.add(entries(["b", "c"], 2), [2])
    index.add(Entries.none(), [3])
    assert [numbers_of(index, name) for name in "abcd"] == [[1], [1, 2], [2], []]
    assert (len(index), index.covered) == (4, {1, 2, 3})
    assert sorted(index.of_parts([2]).keys.to_hex()) == sorted(keys_of(pa.array(["b", "c"])).to_hex())


def test_equal_high_bits_are_told_apart_by_the_low_ones() -> None:
    run = Entries(
        Keys(np.full(3, 5, np.uint64), np.array([1, 2, 3], np.uint32)),
        np.zeros(3, np.int64),
        np.arange(3, dtype=np.uint32),
    )
    index = IdIndex()
    index.add(run, [0, 1, 2])
    asked = Keys(np.array([5, 5], np.uint64), np.array([3, 4], np.uint32))
    assert index.find(asked).number.tolist() == [2]


def test_it_is_the_same_once_it_is_saved(tmp_path: Path) -> None:
    index = IdIndex()
    index.add(entries(["a", "b"], 1), [1])
    index.save(str(tmp_path), [1])
    again = load_index(str(tmp_path))
    assert (numbers_of(again, "a"), numbers_of(again, "x"), again.covered) == ([1], [], {1})
    again.add(entries(["a"], 2), [2])
    again.save(str(tmp_path), [1, 2])
    assert numbers_of(load_index(str(tmp_path)), "a") == [1, 2]


def test_a_merge_drops_what_is_dead(tmp_path: Path) -> None:
    index = IdIndex()
    for number in range(MERGE_RUNS + 1):
        index.add(entries(["a"], number), [number])
    index.save(str(tmp_path), [2, 3])
    found = load_index(str(tmp_path))
    assert (len(found.runs), numbers_of(found, "a"), found.covered) == (1, [2, 3], {2, 3})
    assert len(list(tmp_path.glob("*.run"))) == 1


def test_a_file_that_is_cut_is_as_good_as_none(tmp_path: Path) -> None:
    index = IdIndex()
    index.add(entries(["a", "b"], 1), [1])
    index.save(str(tmp_path), [1])
    file = next(tmp_path.glob("*.run"))
    file.write_bytes(file.read_bytes()[:-1])
    assert len(load_index(str(tmp_path))) == 0
    assert len(load_index(str(tmp_path / "none"))) == 0


def test_a_number_is_given_once_and_not_while_a_dead_part_has_entries(tmp_path: Path) -> None:
    index = IdIndex()
    assert index.next_number([]) == 1
    for number in (1, 2, 7):
        index.add(entries([f"{number}"], number), [number])
    index.save(str(tmp_path), [1, 2])
    assert load_index(str(tmp_path)).next_number([1, 2]) == 8
    assert index.next_number([1, 9]) == 10
