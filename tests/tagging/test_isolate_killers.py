"""Which posts kill a process: the suspect is found guilty if it alone kills a second one."""

from typing import Any

import pytest

from hashtag_core.data.parquet_rows import Rejected
from hashtag_core.tagging import isolate_killers
from hashtag_core.tagging.isolate_killers import REASON, find_killers
from hashtag_core.tagging.planned_work import Chunk
from hashtag_core.tagging.task import Task

CHUNK = Chunk(number=1, group=0, offset=4, first_row=4, rows=6)
TASK = Task("key", "p.parquet", "/p.parquet", "v", [CHUNK], [5])


def killed_by(guilty: set[int], alone: set[int], monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Children that die at the first of `guilty` that they read, and, alone with a post, at those of `alone`."""
    tried: list[list[int]] = []

    def probe(work: Any, task: Task) -> tuple[int, str] | None:
        rows = [row for row in range(4, 10) if row not in task.left_out]
        tried.append(rows)
        deadly = alone if len(rows) == 1 else guilty
        return next(((row, f"post {row}") for row in rows if row in deadly), None)

    monkeypatch.setattr(isolate_killers, "_probe", probe)
    return tried


def test_both_killers_of_a_chunk_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = killed_by({6, 8}, {6, 8}, monkeypatch)
    assert find_killers(None, TASK, CHUNK) == [  # type: ignore[arg-type]
        Rejected("p.parquet", 6, "post 6", REASON),
        Rejected("p.parquet", 8, "post 8", REASON),
    ]
    assert tried == [[4, 6, 7, 8, 9], [6], [7, 8, 9], [8], [9]]


def test_a_suspect_that_lives_alone_is_acquitted(monkeypatch: pytest.MonkeyPatch) -> None:
    killed_by({7}, set(), monkeypatch)
    assert find_killers(None, TASK, CHUNK) == []  # type: ignore[arg-type]
