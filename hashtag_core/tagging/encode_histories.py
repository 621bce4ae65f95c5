"""The pass before tagging in which the posts that stand in histories are encoded: chunks in, vector files out."""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hashtag_core import storage
from hashtag_core.distributed.passes import Pass
from hashtag_core.distributed.tag_history import Sidecar, rows_read, vector_files, write_no_vectors
from hashtag_core.distributed.tag_plan import Chunk, Layout, TagPlan
from hashtag_core.distributed.tag_task import Task
from hashtag_core.errors import HashtagError

logger = logging.getLogger(__name__)

TASKS_PER_GROUP = 32
"""Tasks of one row group at most: each reads the group from its start."""

HOPELESS_CHUNKS = 32
"""So many chunks failed and none came through: it is the model or the storage, and the run stops."""


@dataclass(frozen=True)
class Encoding:
    """What is to be encoded: all that histories of the waiting rows read."""

    plan: TagPlan
    layout: Layout
    begins: dict[str, int]
    """Path of each part -> number of its first row among all rows of the plan."""
    waiting: list[tuple[int, int]]
    """First row, counted so, and rows of each chunk that is to be tagged."""

    def tasks(self, chunks_per_task: int) -> Iterator[Task]:
        """Chunks without a vector file in which posts of a history are. Of a chunk all posts that may ever stand in one are
        encoded, so that its file is the same whatever else is in the archive."""
        sidecar = Sidecar.open(self.layout.history(self.plan.id))
        read_N = rows_read(sidecar.rows, [(begin, begin + rows) for begin, rows in self.waiting])
        there = vector_files(self.layout.vectors)
        for part in self.plan.parts:
            content, begin = part.content or part.id, self.begins[part.path]
            lacking = [
                chunk
                for chunk in part.chunks(self.plan.settings.chunk_rows)
                if read_N[begin + chunk.first_row : begin + chunk.first_row + chunk.rows].any()
                and f"{content}/{chunk.number:05d}.parquet" not in there
            ]
            for run in task_runs(lacking, chunks_per_task):
                first, end = run[0].first_row, run[-1].first_row + run[-1].rows
                idle = first + np.flatnonzero(~sidecar.may_stand[begin + first : begin + end])
                yield Task(content, part.path, run, idle.tolist(), begin, encode=True)


def encode_histories(
    encoding: Encoding, chunks_per_task: int, run: Callable[[list[Task]], Iterator[dict[str, Any]]]
) -> None:
    """Encode what is missing with `run`, in two rounds: the chunks in runs, then those that failed, each alone. When the run
    is told to end, some are left.

    HashtagError for chunks that failed; the posts of one that kills its process count as having no vectors.
    """
    errors: list[str] = []
    for size in (chunks_per_task, 1):
        tasks = list(encoding.tasks(size))
        if not tasks:
            return
        errors.clear()
        stopped = False
        rows = sum(chunk.rows for task in tasks for chunk in task.chunks)
        with Pass(rows, "encoding histories") as progress:
            for outcome in run(tasks):
                progress.add(outcome["tagged"])
                errors += [outcome["error"]] if outcome["error"] else []
                stopped |= outcome["stopped"]
        if stopped:
            return
        if len(errors) >= HOPELESS_CHUNKS:
            break
    if errors:
        raise HashtagError(f"{len(errors)} chunk(s) could not be encoded for histories, run again: {errors[0]}")
    for task in encoding.tasks(1):
        (chunk,) = task.chunks
        logger.warning("%s, chunk %d kills its process: its posts give histories no vectors", task.path, chunk.number)
        write_no_vectors(storage.join(encoding.layout.vectors, task.part_id, f"{chunk.number:05d}.parquet"))


def task_runs(chunks: Sequence[Chunk], chunks_per_task: int) -> Iterator[list[Chunk]]:
    """Chunks of one part, in order, as tasks: each within a row group."""
    for _, of_group in itertools.groupby(chunks, key=lambda chunk: chunk.group):
        group = list(of_group)
        size = max(chunks_per_task, -(-len(group) // TASKS_PER_GROUP))
        for start in range(0, len(group), size):
            yield group[start : start + size]
