"""One pass over an archive for several models: each has its plan, claim, records and commits as if it were alone.

    a thread a model                 the main thread
    TagRun: tasks of a pass  ------> the passes that wait, brought together, on the cluster
            outcomes         <------ each to the model that it is of

A pass begins once every run that goes on waits for one. Of the runs one at a time has its turn, and gives it up only where it waits
for the cluster: so they are as little concurrent as in processes one after the other. What ends one run (too many rejected rows,
a lost claim) ends no other. Knows no ray.
"""

import copy
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from queue import SimpleQueue
from signal import SIGINT
from signal import Signals as SignalNames
from typing import TypeVar

from hashtag_core.config import TaggingSection
from hashtag_core.errors import HashtagError
from hashtag_core.tagging.encode_histories import Monitor
from hashtag_core.tagging.joint_tasks import JointOutcome, join_tasks
from hashtag_core.tagging.planned_work import TagPlan
from hashtag_core.tagging.run import TagRun
from hashtag_core.tagging.run_state import Cluster, Connect, TagSummary
from hashtag_core.tagging.stop_signal import Signals
from hashtag_core.tagging.task import ChunkOutcome, Task, Work

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class ModelRun:
    """What came of one model's run; `error` is why it did not come to its end."""

    plan: TagPlan
    summary: TagSummary
    error: BaseException | None = None


@dataclass
class _Connection:
    """A run asks for the cluster."""

    section: TaggingSection
    answer: SimpleQueue[Cluster | BaseException] = field(default_factory=SimpleQueue)


@dataclass
class _Pass:
    """A run asks for tasks to be run. `came`: its outcomes, then None or what ended the pass."""

    tasks: list[Task]
    work: Work
    came: SimpleQueue[ChunkOutcome | BaseException | None] = field(default_factory=SimpleQueue)
    over: threading.Event = field(default_factory=threading.Event)
    is_left: bool = False
    """Whether the run takes no more outcomes."""

    @property
    def turn(self) -> int:
        """Passes of the least one go together, before the others: histories, tags, chunks that failed."""
        return 0 if self.tasks[0].encode else 2 if self.tasks[0].alone else 1

    def end(self, error: BaseException | None) -> None:
        """No more outcomes come."""
        self.came.put(None if error is None else copy.copy(error))
        self.over.set()


class JointRun:
    """The runs of several plans over one archive, into one output."""

    def __init__(self, plans: Sequence[TagPlan], connect: Connect, monitor: Monitor) -> None:
        self.connect, self.monitor = connect, monitor
        self.runs = [TagRun(plan, partial(self._connected, number), _unseen) for number, plan in enumerate(plans)]
        for run, plan in zip(self.runs, plans, strict=True):
            run.label = f"{plan.layout.model_name} {plan.layout.model_version}: "
        self.reason: str | None = None
        """What ended the runs, None while nothing did."""
        self._turn = threading.Lock()
        self._changed = threading.Condition()
        self._asked: dict[int, _Connection | _Pass] = {}
        self._ended: dict[int, BaseException | None] = {}
        self._broken: BaseException | None = None
        self._cluster: Cluster | None = None

    def execute(self, deadline: datetime | None = None) -> list[ModelRun]:
        """All of them, to the end of the last. An interrupt ends the passes at once, and is raised when the runs have ended."""
        threads = [
            threading.Thread(target=self._live, args=(number, deadline), name=f"model {number}", daemon=True)
            for number in range(len(self.runs))
        ]
        with Signals(self._hear) as self._signals, ExitStack() as self._stack:
            for thread in threads:
                thread.start()
            try:
                self._serve()
            except BaseException as error:
                self._break(error)
                raise
            finally:
                for thread in threads:
                    thread.join()
        return [ModelRun(run.plan, run.summary, self._ended[number]) for number, run in enumerate(self.runs)]

    def _hear(self, number: int) -> None:
        if number == SIGINT and self.reason is not None:
            raise KeyboardInterrupt
        self.reason = SignalNames(number).name
        for run in self.runs:
            run.stop.stop(self.reason)

    def _live(self, number: int, deadline: datetime | None) -> None:
        """In a thread: the run of one model."""
        fault: BaseException | None = None
        with self._turn:
            try:
                self.runs[number].execute(deadline)
            except BaseException as error:  # noqa: BLE001  (told by the caller)
                fault = error
        with self._changed:
            self._ended[number] = fault
            self._changed.notify_all()

    def _serve(self) -> None:
        """Give the runs what they ask for until all have ended."""
        while True:
            with self._changed:
                self._changed.wait_for(self._is_waited_for)
                connections = {n: asked for n, asked in self._asked.items() if isinstance(asked, _Connection)}
                passes = {n: asked for n, asked in sorted(self._asked.items()) if isinstance(asked, _Pass)}
                least = min((one.turn for one in passes.values()), default=0)
                chosen = {n: one for n, one in passes.items() if one.turn == least} if not connections else {}
                for number in [*connections, *chosen]:
                    del self._asked[number]
            if connections:
                self._open(list(connections.values()))
            elif chosen:
                self._run_pass(chosen)
            else:
                return

    def _is_waited_for(self) -> bool:
        """Whether there is something to do: a run asks for the cluster, or all that go on ask for a pass, or none goes on."""
        return any(isinstance(asked, _Connection) for asked in self._asked.values()) or (
            len(self._asked) + len(self._ended) == len(self.runs)
        )

    def _open(self, connections: Sequence[_Connection]) -> None:
        """Connect, once for all runs and for as long as the last of them goes on."""
        answer: Cluster | BaseException
        try:
            if self._cluster is None:
                self._cluster = self._stack.enter_context(self.connect(connections[0].section))
            answer = self._cluster
        except (HashtagError, SystemExit) as error:  # Ray takes SIGTERM for itself while it starts
            answer = error
        self._signals.listen()
        for one in connections:
            one.answer.put(copy.copy(answer))

    def _run_pass(self, chosen: dict[int, _Pass]) -> None:
        """Run the tasks of some runs together; what ends the pass ends it for all of them."""
        passes = list(chosen.values())
        total = sum(chunk.rows for one in passes for task in one.tasks for chunk in task.chunks)
        fault: BaseException | None = None
        try:
            with self.monitor(total, "encoding histories" if passes[0].turn == 0 else "tagging") as advance:
                for number, outcome in self._outcomes(passes):
                    passes[number].came.put(outcome)
                    advance(outcome["tagged"] + outcome["kept"] + sum(rows for rows, _ in outcome["rejected"].values()))
                    if all(one.is_left for one in passes):
                        break
        except Exception as error:  # noqa: BLE001  (each run tells it as its own)
            fault = error
        except BaseException as error:
            fault = error
            raise
        finally:
            for one in passes:
                one.end(fault)

    def _outcomes(self, passes: Sequence[_Pass]) -> Iterator[JointOutcome]:
        assert self._cluster is not None
        if len(passes) == 1:
            return ((0, outcome) for outcome in self._cluster.run(passes[0].tasks, passes[0].work))
        size = self.runs[0].plan.request.recipe.tagging.chunks_per_task
        tasks = join_tasks({n: one.tasks for n, one in enumerate(passes)}, 1 if passes[0].turn == 2 else size)
        return self._cluster.run_joint(tasks, [one.work for one in passes])

    def _break(self, error: BaseException) -> None:
        """Whatever is asked for from now on is not given."""
        with self._changed:
            self._broken = error
            asked, self._asked = list(self._asked.values()), {}
        for one in asked:
            one.end(error) if isinstance(one, _Pass) else one.answer.put(copy.copy(error))

    @contextmanager
    def _connected(self, number: int, section: TaggingSection) -> Iterator[Cluster]:
        """In a run's thread, in place of a connection of its own."""
        asked = _Connection(section)
        self._ask(number, asked)
        cluster = self._wait(asked.answer.get)
        if isinstance(cluster, BaseException):
            raise cluster
        yield replace(cluster, run=partial(self._run, number))

    def _run(self, number: int, tasks: Sequence[Task], work: Work) -> Iterator[ChunkOutcome]:
        """In a run's thread: its outcomes of the next pass. A run that takes no more of them still waits for the end of the pass,
        so that nothing writes for it once it has given its claim back."""
        asked = _Pass(list(tasks), work)
        self._ask(number, asked)
        try:
            while (came := self._wait(asked.came.get)) is not None:
                if isinstance(came, BaseException):
                    raise came
                yield came
        finally:
            asked.is_left = True
            if not asked.over.is_set():
                self._wait(asked.over.wait)

    def _ask(self, number: int, asked: _Connection | _Pass) -> None:
        with self._changed:
            if self._broken is not None:
                raise copy.copy(self._broken)
            self._asked[number] = asked
            self._changed.notify_all()

    def _wait(self, wait: Callable[[], T]) -> T:
        """Wait for the main thread; it is another run's turn meanwhile."""
        self._turn.release()
        try:
            return wait()
        finally:
            self._turn.acquire()


@contextmanager
def _unseen(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """How far a run is shows in the pass that it takes part in."""
    del total, what
    yield lambda rows: None
