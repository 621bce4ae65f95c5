"""Tasks of several models brought together: each model gets its own chunks and rows, and a chunk that two want alike is read once."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from hashtag_core.tagging.joint_tasks import JointTask, join_tasks
from hashtag_core.tagging.planned_work import Chunk
from hashtag_core.tagging.task import Task

CHUNKS = [Chunk(number, number // 4, 10 * (number % 4), 10 * number, 10) for number in range(8)]
"""Two row groups of four chunks of ten rows."""


def task(numbers: list[int], left_out: list[int] | None = None, **fields: object) -> Task:
    """Of one part; `left_out` as `PartWork.unwanted_in` tells it: rows between the chunks may be among them."""
    made = Task("a-key", "a.parquet", "/a.parquet", "1", [CHUNKS[number] for number in numbers], left_out or [])
    return replace(made, **fields)  # type: ignore[arg-type]


def shape(joint: JointTask) -> tuple[list[int], dict[int, list[int]]]:
    """Chunks that are read, and the chunks of each model."""
    return [c.number for c in joint.reading.chunks], {n: [c.number for c in own.chunks] for n, own in joint.members}


def test_models_that_want_the_same_share_every_task() -> None:
    first, second = task([0, 1], [3]), task([4, 5], expected={41: 7})
    others = [replace(one, part_key="b-key", begin=5) for one in (first, second)]
    found = join_tasks({0: [first, second], 1: others}, 2)
    assert [shape(one) for one in found] == [([0, 1], {0: [0, 1], 1: [0, 1]}), ([4, 5], {0: [4, 5], 1: [4, 5]})]
    assert [one.members for one in found] == [[(0, first), (1, others[0])], [(0, second), (1, others[1])]]
    assert (found[0].reading.left_out, found[1].reading.expected) == ([3], {41: 7})
    assert [(chunk.number, n) for chunk, n, _ in found[0].pairs()] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_model_that_was_further_joins_where_it_goes_on() -> None:
    """Killed after two chunks, with the third in hand of the other: rows between chunks are nobody's."""
    found = join_tasks({0: [task([0, 1, 3], list(range(20, 30)))], 1: [task([3])], 2: [task([2, 3], [25])]}, 4)
    assert [shape(one) for one in found] == [([0, 1, 2, 3], {0: [0, 1, 3], 1: [3], 2: [2, 3]})]
    assert found[0].reading.left_out == [25]
    assert {n: own.left_out for n, own in found[0].members} == {0: [], 1: [], 2: [25]}


def test_models_that_want_other_rows_have_tasks_of_their_own() -> None:
    found = join_tasks(
        {0: [task([0, 1])], 1: [task([0, 1], [5])], 2: [task([1, 2])], 3: [task([0], expected={4: 9})]}, 4
    )
    assert [shape(one) for one in found] == [
        ([0, 1, 2], {0: [0, 1], 2: [1, 2]}),
        ([0, 1], {1: [0, 1]}),
        ([0], {3: [0]}),
    ]


def test_other_versions_other_borders_and_what_is_done_alone_are_not_joined() -> None:
    other = task([0], version="2")
    moved = task([0], chunks=[replace(CHUNKS[0], rows=7)])
    alone = [task([1], alone=True), task([2], alone=True)]
    found = join_tasks({0: [task([0]), *alone], 1: [other], 2: [moved], 3: [task([2], alone=True)]}, 4)
    assert all(len(one.members) == 1 for one in found)
    assert [own for one in found for _, own in one.members if own.alone] == [*alone, task([2], alone=True)]
    assert len(found) == 6


@given(st.lists(st.dictionaries(st.integers(0, 7), st.sets(st.integers(0, 9), max_size=2)), min_size=1, max_size=4))
def test_each_model_gets_what_it_asked_for_and_no_chunk_is_read_for_nobody(wants: list[dict[int, set[int]]]) -> None:
    """`wants`: of each model, chunk -> rows of it that are left out."""

    def asked(want: dict[int, set[int]]) -> list[Task]:
        by_group = [[number for number in sorted(want) if CHUNKS[number].group == group] for group in (0, 1)]
        return [task(own, sorted(10 * n + row for n in own for row in want[n])) for own in by_group if own]

    found = join_tasks({n: asked(want) for n, want in enumerate(wants)}, 3)
    got: list[dict[int, set[int]]] = [{} for _ in wants]
    for joint in found:
        assert {chunk.number for chunk in joint.reading.chunks} == {chunk.number for chunk, _, _ in joint.pairs()}
        for chunk, n, own in joint.pairs():
            assert chunk.number not in got[n]
            rows = {row - chunk.first_row for row in own.left_out if row // 10 == chunk.number}
            assert rows == {row - chunk.first_row for row in joint.reading.left_out if row // 10 == chunk.number}
            got[n][chunk.number] = rows
    assert got == wants
