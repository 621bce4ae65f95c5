"""Tasks on a real Ray: every task has its outcome, whatever became of it."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from hashtag_core.distributed.tasks import MACHINE_RETRIES, Pool, run_tasks
from hashtag_core.errors import ArchiveError, HashtagError, MachineError
from hashtag_core.faults import Fault

ACTOR = Pool(1, 0.5, retries=1)
PLAIN = Pool(1, 0.5, actors=False, retries=1)


@dataclass(frozen=True)
class Job:
    """A task: what is to happen, and a folder that counts how often it did."""

    name: str
    folder: str


class Work:
    """Does what a task's name says."""

    def __call__(self, task: Job) -> Iterator[tuple[str, int]]:
        yield from self._before(task)
        if "late" in task.name and (times(Path(task.folder), task.name) == 1 or "killer" in task.name):
            if "kill" in task.name:
                time.sleep(2)  # for what was given to be taken
                os._exit(7)
            raise OSError(28, "No space left on device")

    def _before(self, task: Job) -> list[tuple[str, int]]:
        before = times(Path(task.folder), task.name)
        Path(task.folder, f"{task.name}-{before}").touch()
        if task.name == "killer" or (task.name == "killed once" and not before):
            os._exit(7)
        if task.name == "content":
            raise ArchiveError("part 3, row 4: no post")
        if task.name == "machine" or (task.name == "machine once" and not before):
            raise OSError(28, "No space left on device")
        if task.name == "nothing":
            return []
        if task.name == "sleeps":
            time.sleep(60)
        return [(task.name, number) for number in range(2)]


def times(folder: Path, name: str) -> int:
    return len(list(folder.glob(f"{name}-*")))


@pytest.mark.parametrize("pool", [ACTOR, PLAIN], ids=["actors", "tasks"])
def test_every_task_has_its_outcome(ray_session: None, tmp_path: Path, pool: Pool) -> None:
    names = ["good", "content", "machine", "machine once", "nothing", "killed once", "better"]
    tasks = [Job(name, str(tmp_path)) for name in names]
    found: dict[str, list] = {}
    for outcome in run_tasks("testing", tasks, Work, pool, end_s=60):
        found.setdefault(outcome.task.name, []).append(outcome)
    for name in ("good", "machine once", "killed once", "better"):
        assert [outcome.result() for outcome in found.pop(name)] == [(name, 0), (name, 1)]
    (content,), (machine,) = found.pop("content"), found.pop("machine")
    assert (content.error, content.died) == ("part 3, row 4: no post", False)
    assert content.fault is not Fault.MACHINE
    assert times(tmp_path, "content") == 1
    with pytest.raises(HashtagError, match="row 4"):
        content.result()
    assert (machine.fault, machine.died) == (Fault.MACHINE, False)
    assert times(tmp_path, "machine") == MACHINE_RETRIES + 1
    with pytest.raises(MachineError, match="No space left"):
        machine.result()
    assert not found  # a task may give nothing


@pytest.mark.parametrize("pool", [ACTOR, PLAIN], ids=["actors", "tasks"])
@pytest.mark.parametrize("name", ["machine late", "killed late"])
def test_what_a_task_gave_before_it_failed_is_not_given_again(
    ray_session: None, tmp_path: Path, name: str, pool: Pool
) -> None:
    outcomes = run_tasks("testing", [Job(name, str(tmp_path))], Work, pool, end_s=60)
    assert [outcome.result() for outcome in outcomes] == [(name, 0), (name, 1)]
    assert times(tmp_path, name) == 2


def test_a_task_that_dies_behind_its_results_is_not_done(ray_session: None, tmp_path: Path) -> None:
    *given, died = run_tasks("testing", [Job("killer late", str(tmp_path))], Work, ACTOR, end_s=60)
    assert [outcome.result() for outcome in given] == [("killer late", 0), ("killer late", 1)]
    assert died.died


@pytest.mark.parametrize("pool", [ACTOR, PLAIN], ids=["actors", "tasks"])
def test_a_task_that_kills_its_process_ends(ray_session: None, tmp_path: Path, pool: Pool) -> None:
    (killer,) = run_tasks("testing", [Job("killer", str(tmp_path))], Work, pool, end_s=60)
    assert (killer.died, killer.fault) == (True, Fault.MACHINE)
    assert times(tmp_path, "killer") == 2


def test_a_stall_is_told_and_ends_the_run(ray_session: None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tasks = [Job("good", str(tmp_path)), Job("sleeps", str(tmp_path))]
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(HashtagError, match=r"Ray did nothing for 15 s.*testing, \d of 2"),
    ):
        list(run_tasks("testing", tasks, Work, ACTOR, end_s=15, warn_s=2))
    warned = [text for text in caplog.messages if "nothing came back from Ray" in text]
    assert (
        1 <= len(warned) <= 9
    )  # after 2, 4 and 8 seconds: while the actor starts, and before and after the first result
    assert "1 of 1 node(s) alive" in warned[-1]


def test_a_task_of_many_results_may_take_longer_than_the_limit(ray_session: None, tmp_path: Path) -> None:
    def make() -> Callable[[Job], Iterator[int]]:
        def slowly(task: Job) -> Iterator[int]:
            for number in range(5):
                time.sleep(5)
                yield number

        return slowly

    outcomes = run_tasks("testing", [Job("slow", str(tmp_path))], make, ACTOR, end_s=20)
    assert [outcome.result() for outcome in outcomes] == list(range(5))


def test_once_it_is_closed_no_further_task_is_begun(ray_session: None, tmp_path: Path) -> None:
    tasks = [Job(f"job {number:03d}", str(tmp_path)) for number in range(300)]
    outcomes = run_tasks("testing", tasks, Work, ACTOR, end_s=60)
    with closing(outcomes):
        assert next(outcomes).error is None
    time.sleep(1)
    begun = len(list(tmp_path.iterdir()))
    time.sleep(2)
    assert len(list(tmp_path.iterdir())) == begun < 300


def test_what_is_read_ahead_is_what_the_actor_gets(ray_session: None, tmp_path: Path) -> None:
    def ahead(task: Job) -> Job:
        if task.name == "broken":
            raise ArchiveError("cannot be opened")
        return Job(task.name.upper(), task.folder)

    tasks = [Job("good", str(tmp_path)), Job("broken", str(tmp_path))]
    outcomes = list(run_tasks("testing", tasks, Work, ACTOR, end_s=60, ahead=ahead))
    assert [outcome.value for outcome in outcomes if outcome.task.name == "good"] == [("GOOD", 0), ("GOOD", 1)]
    assert [outcome.error for outcome in outcomes if outcome.task.name == "broken"] == ["cannot be opened"]


def test_an_actor_that_cannot_be_made_is_told_by_its_tasks(ray_session: None, tmp_path: Path) -> None:
    def make() -> Work:
        raise ArchiveError("no model here")

    (outcome,) = run_tasks("testing", [Job("good", str(tmp_path))], make, ACTOR, end_s=60)
    assert (outcome.error, outcome.died) == ("no model here", False)


def test_no_task_needs_no_ray() -> None:
    assert list(run_tasks("testing", [], Work, ACTOR, end_s=1)) == []
