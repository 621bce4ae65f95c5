"""Tasks of several models over one archive, brought together: a chunk that more than one of them is to do is read once.

Each model has a plan of its own, and so rows of its own that it wants of a chunk. Those that want the same rows share a task; where
they differ (one was killed in the middle, one tags again what another keeps) each has its own. Needs neither torch nor ray.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from hashtag_core.tagging.encode_histories import task_runs
from hashtag_core.tagging.planned_work import Chunk
from hashtag_core.tagging.task import ChunkOutcome, Task

JointOutcome = tuple[int, ChunkOutcome]
"""Number of a model, and what came of a chunk of it."""


@dataclass(frozen=True)
class JointTask:
    """Consecutive chunks of one row group, and which of them each model is to do.

    `reading`: all of the chunks, and the rows of them that are opened; the key of the part is no model's. `members`: number of the
    model, and its own task, whose chunks are some of those.
    """

    reading: Task
    members: list[tuple[int, Task]]

    @property
    def path(self) -> str:
        """Path of the part below the archive."""
        return self.reading.path

    def pairs(self) -> Iterator[tuple[Chunk, int, Task]]:
        """Each chunk of each model, in the order in which they are done."""
        own = [(number, task, {chunk.number for chunk in task.chunks}) for number, task in self.members]
        for chunk in self.reading.chunks:
            yield from ((chunk, number, task) for number, task, chunks in own if chunk.number in chunks)


@dataclass(frozen=True)
class _Piece:
    """What one model wants of one chunk."""

    left_out: list[int]
    expected: dict[int, int]


Pieces = dict[Chunk, _Piece]


def join_tasks(tasks_of: Mapping[int, Sequence[Task]], chunks_per_task: int) -> list[JointTask]:
    """The tasks of each model, by its number, as joint ones, in the order in which the parts are first named.

    A task whose chunks are to be done alone stays alone, and one that no other model has a part in stays as it is.
    """
    found: list[JointTask] = []
    by_group: dict[tuple[str, str, int], dict[int, list[Task]]] = {}
    for number, tasks in tasks_of.items():
        for task in tasks:
            if task.alone or not task.chunks:
                found.append(JointTask(task, [(number, task)]))
            else:
                key = (task.path, task.version, task.chunks[0].group)
                by_group.setdefault(key, {}).setdefault(number, []).append(task)
    for of_group in by_group.values():
        for together in _agreeing({number: _pieces(tasks) for number, tasks in of_group.items()}):
            if len(together) == 1:
                (number,) = together
                found += [JointTask(task, [(number, task)]) for task in of_group[number]]
            else:
                firsts = {number: of_group[number][0] for number in together}
                found += _joined(firsts, together, chunks_per_task)
    return found


def _pieces(tasks: Sequence[Task]) -> Pieces:
    """What a model wants of each chunk of its tasks."""
    found: Pieces = {}
    for task in tasks:
        firsts = [chunk.first_row for chunk in task.chunks]
        pieces = [_Piece([], {}) for _ in task.chunks]

        for row in task.left_out:
            at = bisect_right(firsts, row) - 1
            if row < firsts[at] + task.chunks[at].rows:  # else it is between two chunks, and nobody's
                pieces[at].left_out.append(row)
        for row, content in task.expected.items():
            at = bisect_right(firsts, row) - 1
            if row < firsts[at] + task.chunks[at].rows:
                pieces[at].expected[row] = content
        found |= dict(zip(task.chunks, pieces, strict=True))
    return found


def _agreeing(pieces_of: Mapping[int, Pieces]) -> list[dict[int, Pieces]]:
    """The models in sets that want the same of every chunk that two of a set are to do."""
    sets: list[dict[int, Pieces]] = []
    for number, pieces in pieces_of.items():
        fitting = next((one for one in sets if all(_agree(pieces, other) for other in one.values())), None)
        if fitting is None:
            sets.append({number: pieces})
        else:
            fitting[number] = pieces
    return sets


def _agree(one: Pieces, other: Pieces) -> bool:
    """Whether two models want the same of each chunk that both are to do, and mean the same rows by its number."""
    borders = {chunk.number: chunk for chunk in other}
    return all(
        borders.get(chunk.number, chunk) == chunk and other.get(chunk, piece) == piece for chunk, piece in one.items()
    )


def _joined(firsts: Mapping[int, Task], together: Mapping[int, Pieces], chunks_per_task: int) -> Iterator[JointTask]:
    """Tasks of all chunks of a row group that one of the models is to do."""
    every: Pieces = {chunk: piece for pieces in together.values() for chunk, piece in pieces.items()}
    for run in task_runs(sorted(every, key=lambda chunk: chunk.number), chunks_per_task):
        members = []
        for number, pieces in together.items():
            own = [chunk for chunk in run if chunk in pieces]
            if own:
                members.append((number, _of_pieces(firsts[number], own, pieces)))
        yield JointTask(replace(_of_pieces(members[0][1], run, every), part_key=""), members)


def _of_pieces(task: Task, chunks: list[Chunk], pieces: Pieces) -> Task:
    """The task with those chunks."""
    left_out = [row for chunk in chunks for row in pieces[chunk].left_out]
    expected = {row: content for chunk in chunks for row, content in pieces[chunk].expected.items()}
    return replace(task, chunks=chunks, left_out=left_out, expected=expected)
