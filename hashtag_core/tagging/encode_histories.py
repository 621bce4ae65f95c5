"""The pass before tagging in which the posts that stand in histories are encoded: chunks in, vector files out."""

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from hashtag_core.errors import HashtagError
from hashtag_core.output.records import PartRecord, vectors_name
from hashtag_core.tagging.histories import Sidecar, rows_read, vector_files
from hashtag_core.tagging.planned_work import Chunk, TagPlan, part_chunks
from hashtag_core.tagging.task import ChunkOutcome, Task

logger = logging.getLogger(__name__)

Monitor = Callable[[int, str], AbstractContextManager[Callable[[int], None]]]
"""Shows how far a pass over so many posts is: what it gives is called with the posts that came through."""

TASKS_PER_GROUP = 32
"""Tasks of one row group at most: each reads the group from its start."""

HOPELESS_CHUNKS = 32
"""So many chunks failed and none came through: it is the model or the storage, and the run stops."""


@dataclass(frozen=True)
class Encoding:
    """What is to be encoded: all that histories of the waiting rows read."""

    plan: TagPlan
    sidecar: Sidecar
    waiting: list[tuple[int, int]]
    """First row, counted through all parts, and rows of each chunk that is to be tagged."""

    def tasks(self, chunks_per_task: int) -> Iterator[Task]:
        """Chunks without a vector file in which posts of a history are. Of a chunk all posts that may ever stand in one are
        encoded, so that its file is the same whatever else is in the archive."""
        read_N = rows_read(self.sidecar.rows, [(begin, begin + rows) for begin, rows in self.waiting])
        there = vector_files(self.plan.layout.vectors)
        records = records_of(self.plan)
        for file in self.plan.files:
            record = records.get(file.path)
            if record is None:
                continue
            key, begin = vector_key(self.plan, record), self.plan.begins[file.path]
            lacking = [
                chunk
                for chunk in part_chunks(record.groups, self.plan.settings.chunk_rows)
                if read_N[begin + chunk.first_row : begin + chunk.first_row + chunk.rows].any()
                and f"{key}/{chunk.number:05d}.parquet" not in there
            ]
            for run in task_runs(lacking, chunks_per_task):
                first, end = run[0].first_row, run[-1].first_row + run[-1].rows
                idle = first + np.flatnonzero(~self.sidecar.may_stand[begin + first : begin + end])
                yield Task(key, file.path, file.uri, record.etag, run, idle.tolist(), begin=begin, encode=True)


def records_of(plan: TagPlan) -> Mapping[str, PartRecord]:
    """The record of each part of the archive, of one that is new or changed as it is to be."""
    return plan.output.records.parts | {work.path: work.record for work in plan.works}


def vector_key(plan: TagPlan, record: PartRecord) -> str:
    """Names the vector files of a part: by its version, the model, and the borders of chunks."""
    return vectors_name(plan.settings, record.path, record.etag)


def encode_histories(
    encoding: Encoding, chunks_per_task: int, run: Callable[[list[Task]], Iterator[ChunkOutcome]], monitor: Monitor
) -> None:
    """Encode what is missing with `run`, in two rounds: the chunks in runs, then those that failed, each alone, where a post that
    kills its process is found and left out. When the run is told to end, some are left.

    HashtagError for chunks that are still missing then: without their vectors posts would get other tags.
    """
    errors: list[str] = []
    for size in (chunks_per_task, 1):
        tasks = list(encoding.tasks(size))
        if not tasks:
            return
        errors.clear()
        stopped = False
        rows = sum(chunk.rows for task in tasks for chunk in task.chunks)
        with monitor(rows, "encoding histories") as advance:
            for outcome in run(tasks):
                advance(outcome["tagged"])
                errors += [outcome["error"]] if outcome["error"] else []
                stopped |= outcome["stopped"]
        if stopped:
            return
        if len(errors) >= HOPELESS_CHUNKS:
            break
    left = sum(len(task.chunks) for task in encoding.tasks(1))
    if left:
        why = errors[0] if errors else "the process that encoded them died"
        raise HashtagError(f"{left} chunk(s) could not be encoded for histories, run again: {why}")


def task_runs(chunks: Sequence[Chunk], chunks_per_task: int) -> Iterator[list[Chunk]]:
    """Chunks of one part, in order, as tasks: each within a row group."""
    for _, of_group in itertools.groupby(chunks, key=lambda chunk: chunk.group):
        group = list(of_group)
        size = max(chunks_per_task, -(-len(group) // TASKS_PER_GROUP))
        for start in range(0, len(group), size):
            yield group[start : start + size]
