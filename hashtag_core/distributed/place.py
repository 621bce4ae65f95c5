"""Where work with a model is done: on the workers, or in this process where its machine is all there is.

A head node has no CPU for work and little memory: its driver plans, and puts together what comes back. On a single machine the
driver is a worker like any other, and little work is not worth the start of other processes.

    pool_for(tasks, gpus)        the actors that tasks are given to, and the threads of each
    workers(tasks, few)          the same for tasks that this process may do itself
    results_of(tasks, make)      a result of each task, as it is done
    build_folder(build, folder)  a folder of files that is written where the work is, and copied here in pieces
"""

import os
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import ray

from hashtag_core.data.model_files import has_model, hash_files
from hashtag_core.distributed.session import cluster_cpus, cluster_gpus, connect
from hashtag_core.distributed.tasks import Pool, run_tasks
from hashtag_core.distributed.train_resources import grows
from hashtag_core.errors import HashtagError, MachineError
from hashtag_core.faults import Fault, classify
from hashtag_core.tagging.actor_pool import share_out

T = TypeVar("T")
R = TypeVar("R")

END_S = 24 * 3600.0
"""Without a result: a fit may take that long. Until then there are warnings."""
WARN_S = 600.0

PIECE_BYTES = 32 << 20
"""Of a file on its way to the driver, which holds one or two of them."""


def is_alone() -> bool:
    """Whether this process's machine is all there is to work on."""
    return not grows() if ray.is_initialized() else not os.environ.get("RAY_ADDRESS")


def pool_for(tasks: int, gpus: int) -> tuple[Pool, int]:
    """The actors for so many tasks, on so many GPUs or (0) on CPUs, as `share_out` has it; and the CPU threads of each."""
    cpus, growing = cluster_cpus(), grows()
    shared = share_out(cpus, gpus or None, growing, None if growing else min(tasks, gpus or int(cpus)))
    return Pool(shared.size(tasks), shared.cpus, shared.gpus, least=shared.least), shared.threads


@contextmanager
def workers(tasks: int, few: bool) -> Iterator[tuple[Pool | None, int | None]]:
    """What tasks are to run on for the time of the block, and the threads of each, on the cluster, which is joined (or begun) for
    that. None and None, this process, for `few` where it is alone."""
    if few and is_alone():
        yield None, None
        return
    with connect():
        if few and is_alone():
            yield None, None
            return
        yield pool_for(tasks, int(cluster_gpus()))


def results_of(
    what: str, tasks: Sequence[T], make: Callable[[], Callable[[T], Iterable[R]]], pool: Pool | None
) -> Generator[tuple[T, R], None, None]:
    """What the tasks give, in any order; `make` as of `tasks.run_tasks`. `pool` None: here, one after another.

    The errors are those of the tasks, of their own class, unless it was the machine's fault (MachineError, after retries).
    """
    if pool is None:
        work = make()
        for task in tasks:
            for result in work(task):
                yield task, result
        return
    outcomes = run_tasks(what, tasks, partial(_telling, make), pool, end_s=END_S, warn_s=WARN_S)
    with closing(outcomes):
        for outcome in outcomes:
            value = outcome.result()
            if isinstance(value, HashtagError):
                raise value
            yield outcome.task, value


def _telling(make: Callable[[], Callable[[T], Iterable[R]]]) -> Callable[[T], Iterator[R | HashtagError]]:
    """In a worker: an error that another try would meet again is a result, so that its class reaches the driver."""
    made = cache(make)

    def work(task: T) -> Iterator[R | HashtagError]:
        try:
            yield from made()(task)
        except HashtagError as error:
            if classify(error) is Fault.MACHINE:
                raise
            yield error

    return work


def build_folder(what: str, build: Callable[[Path], R], folder: Path, pool: Pool | None) -> R:
    """Call `build` with an empty folder; what it writes is in `folder` when this returns, with its result.

    `pool` None: it is called here. Else in a worker, in pieces of whose files the folder is copied.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if pool is None:
        return build(folder)
    for _, given in results_of(what, [what], partial(_Builder, build), pool):
        if isinstance(given, _Piece):
            target = folder / given.name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("r+b" if given.start else "wb") as file:
                file.seek(given.start)
                file.write(given.data)
            continue
        if hash_files(folder) != given.files:
            raise MachineError(
                f"{what}: a worker died while its files were copied, and the next one's differ: run again"
            )
        return given.result
    raise MachineError(f"{what}: no worker came to its end")


@dataclass(frozen=True)
class _Piece:
    name: str
    start: int
    data: bytes


@dataclass(frozen=True)
class _Built(Generic[R]):
    result: R
    files: dict[str, str]
    """SHA-256 of each."""


class _Builder(Generic[R]):
    """In a worker."""

    def __init__(self, build: Callable[[Path], R]) -> None:
        self._build = build

    def __call__(self, task: str) -> Iterator[_Piece | _Built[R]]:
        with tempfile.TemporaryDirectory(prefix="hashtag-build-") as name:
            folder = Path(name)
            result = self._build(folder)
            files = hash_files(folder)
            for path in files:
                with (folder / path).open("rb") as file:
                    for start in range(0, max(1, (folder / path).stat().st_size), PIECE_BYTES):
                        yield _Piece(path, start, file.read(PIECE_BYTES))
            yield _Built(result, files)


def sent_model(folder: str | Path) -> list[Any]:
    """The model folder in the object store, once, where there are nodes that do not share this one's disk: at most one reference."""
    if len([node for node in ray.nodes() if node["Alive"]]) < 2 and not grows():
        return []
    root = Path(folder)
    return [ray.put({str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()})]


def received_model(sent: list[Any], folder: str, version: str) -> dict[str, bytes] | None:
    """In a worker: the files of `sent_model`, got only on a node that lacks the folder."""
    return ray.get(sent[0]) if sent and not has_model(folder, version) else None
