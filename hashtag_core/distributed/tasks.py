"""The one way to run tasks on Ray: typed tasks in, an outcome for each result back, in any order.

    tasks -> rows of a Ray dataset (one a task) -> actors, or plain tasks -> outcomes

Ray cannot cut inside a row and never repeats one that came through, so a task is the unit of work. What a task raises becomes an
outcome and costs no other task anything. Where it was the machine's fault (`hashtag_core.faults`), the task is tried again
first. A task whose process died has an outcome too: Ray has begun it anew `Pool.retries` times by then. When nothing comes
back, a warning says what the cluster looks like, and after a limit the run ends. Closing the iterator, or an interrupt, begins
no further task.
"""

import logging
import pickle
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypedDict, TypeVar, cast

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError

from hashtag_core.distributed.session import cluster_cpus, cluster_gpus
from hashtag_core.errors import HashtagError, MachineError
from hashtag_core.faults import Fault, classify

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

STALL_WARNING_S = 100.0
"""Without a result from any task: a warning. The next ones come after twice as long each."""

MACHINE_RETRIES = 2
"""For a task that raised an error which was the machine's fault."""

_TASK = pa.schema([("number", pa.int64()), ("task", pa.large_binary()), ("error", pa.string()), ("fault", pa.string())])
_OUTCOME = pa.schema(
    [("number", pa.int64()), ("value", pa.large_binary()), ("error", pa.string()), ("fault", pa.string())]
)


@dataclass(frozen=True)
class Pool:
    """What tasks run on: `size` actors (or, with `actors` False, at most as many tasks at once), each reserving `cpus` and `gpus`.

    `retries`: how often Ray begins a task anew whose process died; without a limit, one that kills its process never ends.
    """

    size: int
    cpus: float | None
    gpus: float | None = None
    actors: bool = True
    retries: int = 2
    least: int | None = None
    """Of actors where the cluster grows: from so many to `size`, as it has room for them and tasks wait. None: `size`, always."""


@dataclass(frozen=True)
class Outcome(Generic[T, R]):
    """One result of a task, or why it has none; a task that gave several results has an outcome for each."""

    task: T
    value: R | None = None
    error: str | None = None
    fault: Fault | None = None
    """Whose fault the error was."""
    died: bool = False
    """Whether the task's process died, each time that it was begun; what waits in a dying actor for its turn dies with it."""

    def result(self) -> R:
        """The value; MachineError or HashtagError where there is none."""
        if self.error is not None:
            raise (MachineError if self.fault is Fault.MACHINE else HashtagError)(self.error)
        return cast(R, self.value)


def run_tasks(
    what: str,
    tasks: Sequence[T],
    make: Callable[[], Callable[[Any], Iterable[R]]],
    pool: Pool,
    *,
    end_s: float,
    warn_s: float | None = None,
    ahead: Callable[[T], Any] | None = None,
) -> Generator[Outcome[T, R], None, None]:
    """Run the tasks; `what` names them in messages.

    `make` is called once in each actor (else in each plain task) and gives the function that a task is handed to; each of its
    results comes as it is done, so that a task of many may take longer than `end_s`. `ahead` is run on CPUs before the actors:
    these are then handed what it gives. HashtagError where nothing came back for `end_s` seconds, or Ray itself failed.
    """
    waiting, given = dict(enumerate(tasks)), Counter[int]()
    for attempt in range(MACHINE_RETRIES + 1):
        again: dict[int, T] = {}
        done, seen = set[int](), Counter[int]()
        rows = _rows(waiting, make, pool, ahead, end_s)
        try:
            for row in _watched(rows, STALL_WARNING_S if warn_s is None else warn_s, end_s):
                number, task = row["number"], waiting[row["number"]]
                fault = Fault(row["fault"]) if row["fault"] else None
                if row["value"] is None:  # its end, or its error
                    done.add(number)
                if fault is Fault.MACHINE and attempt < MACHINE_RETRIES:
                    logger.warning("%s: %s (tried again)", what, row["error"])
                    again[number] = task
                elif fault is not None:
                    yield Outcome(task, error=row["error"], fault=fault)
                elif row["value"] is not None:
                    seen[number] += 1
                    if seen[number] <= given[number]:
                        continue  # a task that was begun anew gives again what it gave before
                    given[number] += 1
                    yield Outcome(task, pickle.loads(row["value"]))  # noqa: S301  (of our own worker)
        except ExecutionTimeoutError as error:
            raise HashtagError(
                f"Ray did nothing for {end_s:g} s, run again to go on: {what}, {len(done)} of {len(waiting)} came back: {error}"
            ) from error
        except RayError as error:
            cause = getattr(error, "cause", None)
            raise HashtagError(f"{what}: {_told(cause if isinstance(cause, Exception) else error)}") from error
        finally:
            rows.close()  # the executor ends, and no further task is begun
        for number in waiting.keys() - done:
            message = f"its process died {pool.retries + 1} times (memory?)"
            yield Outcome(waiting[number], error=message, fault=Fault.MACHINE, died=True)
        waiting = again
        if not waiting:
            return


class _TaskRow(TypedDict):
    """A row of `_TASK`."""

    number: int
    task: bytes
    error: str | None
    fault: str | None


class _ResultRow(TypedDict, total=False):
    """A result of a task, or the error that ended it; empty at its end."""

    value: bytes | None
    error: str | None
    fault: str | None


class _OutcomeRow(TypedDict):
    """A row of `_OUTCOME`."""

    number: int
    value: bytes | None
    error: str | None
    fault: str | None


def _rows(
    waiting: dict[int, T],
    make: Callable[[], Callable[[Any], Iterable[Any]]],
    pool: Pool,
    ahead: Callable[[T], Any] | None,
    end_s: float,
) -> Generator[_OutcomeRow, None, None]:
    """One pass over the tasks: rows of `_OUTCOME`, and none for a task whose process died."""
    if not waiting:
        return
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    context.execution_no_progress_timeout_s = end_s
    # A block for each result: Ray takes note of blocks alone, and else fills one with many.
    context.target_max_block_size = 1
    items = [
        {"number": number, "task": pickle.dumps(task), "error": None, "fault": None} for number, task in waiting.items()
    ]
    with DataContext.current(context), warnings.catch_warnings():
        # Ray Data has no other place yet for the number of times that a task whose process died is begun anew.
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        # A block a task, described here: of tables Ray would ask its workers for a description, task by task.
        rows = ray.data.from_items(items, override_num_blocks=len(items))
        if ahead is not None:
            rows = rows.map_batches(
                _Ahead(ahead), batch_size=1, batch_format="pyarrow", num_cpus=1, max_retries=pool.retries
            )
        size = max(1, min(pool.size, len(waiting)))
        if pool.actors:
            rows = rows.map_batches(
                _Actor,
                fn_constructor_kwargs={"make": make},
                batch_size=1,
                batch_format="pyarrow",
                num_cpus=pool.cpus,
                num_gpus=pool.gpus,
                compute=ActorPoolStrategy(
                    min_size=min(size, pool.least or size), max_size=size, max_tasks_in_flight_per_actor=2
                ),
                max_restarts=-1,
                max_task_retries=pool.retries,
            )
        else:
            rows = rows.map_batches(
                _PlainTask(make),
                batch_size=1,
                batch_format="pyarrow",
                num_cpus=pool.cpus,
                compute=TaskPoolStrategy(size=size),
                max_retries=pool.retries,
            )
    yield from rows.iter_rows()


class _Actor:
    """Keeps what `make` gave from task to task. It is called with the first task, whose outcome says it if that fails."""

    def __init__(self, make: Callable[[], Callable[[Any], Iterable[Any]]]) -> None:
        self._make = cache(make)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        return _outcomes(batch, self._make)


class _PlainTask:
    def __init__(self, make: Callable[[], Callable[[Any], Iterable[Any]]]) -> None:
        self._make = make

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        return _outcomes(batch, self._make)


class _Ahead:
    """Puts what `ahead` gives in the place of the task; its error goes on in the row, past the actor."""

    def __init__(self, ahead: Callable[[Any], Any]) -> None:
        self._ahead = ahead

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for item in batch.to_pylist():
            made = next(_rows_of_task(item, lambda: lambda task: [self._ahead(task)]))
            row = {"number": item["number"], "task": made.pop("value", None), **made}
            yield pa.Table.from_pylist([row], schema=_TASK)


def _outcomes(batch: pa.Table, make: Callable[[], Callable[[Any], Iterable[Any]]]) -> Iterator[pa.Table]:
    """Rows of `_OUTCOME`, one at a time: the results of a task, then its end or the error that ended it. An exception here would cost
    the task its outcome."""
    for item in batch.to_pylist():
        for row in _rows_of_task(item, make):
            yield pa.Table.from_pylist([{"number": item["number"], **row}], schema=_OUTCOME)


def _rows_of_task(item: _TaskRow, make: Callable[[], Callable[[Any], Iterable[Any]]]) -> Iterator[_ResultRow]:
    if item["error"]:
        yield {"error": item["error"], "fault": item["fault"]}
        return
    try:
        for result in make()(pickle.loads(item["task"])):  # noqa: S301  (of our own driver)
            yield {"value": pickle.dumps(result)}
        yield {}
    except Exception as error:  # noqa: BLE001
        yield {"error": _told(error), "fault": str(classify(error))}


def _told(error: BaseException) -> str:
    return str(error) if isinstance(error, HashtagError) else f"{type(error).__name__}: {error}".strip()


def _watched(results: Iterable[T], warn_s: float, end_s: float) -> Iterator[T]:
    """The results as they come; warnings while the next one is waited for. What the caller does with a result is not waiting.

    `end_s` stands in the warning: Ray itself ends the run.
    """
    waits_since: list[float | None] = [time.monotonic()]
    ended = threading.Event()
    arguments = (waits_since, ended, warn_s, end_s)
    threading.Thread(target=_warn_of_stall, args=arguments, name="stall", daemon=True).start()
    try:
        for result in results:
            waits_since[0] = None
            yield result
            waits_since[0] = time.monotonic()
    finally:
        ended.set()


def _warn_of_stall(waits_since: list[float | None], ended: threading.Event, warn_s: float, end_s: float) -> None:
    stall: float | None = None
    next_s = warn_s
    while not ended.wait(min(1.0, warn_s / 4)):
        since, now = waits_since[0], time.monotonic()
        if since != stall:
            stall, next_s = since, warn_s
        if since is not None and now - since >= next_s:
            next_s *= 2
            logger.warning(
                "nothing came back from Ray for %.0f s; %s; after %.0f s without progress the run ends",
                now - since,
                _cluster(),
                end_s,
            )


def _cluster() -> str:
    free = ray.available_resources()
    alive = [node["Alive"] for node in ray.nodes()]
    cpus = f"{sum(alive)} of {len(alive)} node(s) alive, {free.get('CPU', 0):g} of {cluster_cpus():g} CPUs free"
    gpus = cluster_gpus()
    return f"{cpus}, {free.get('GPU', 0):g} of {gpus:g} GPUs free" if gpus else cpus
