"""Run by `test_champion.py` in a process of its own: forks before MLflow has opened anything.

many_promotions.py race 20    20 processes want to make version 2, 3, ... champion after version 1
many_promotions.py kill 9     the process that moves is killed before its first, second, ... ninth write
"""

import json
import os
import signal
import sys
from collections.abc import Callable

import mlflow.store.db.utils  # what takes long to import
import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
from mlflow import MlflowClient

from hashtag_core.errors import HashtagError, NotFoundError
from hashtag_core.tracking.registry import champion, move_champion, previous_champion, rollback
from hashtag_core.tracking.runs import connect

NAME = "hashtags"
WRITES = (
    *("create_registered_model", "set_registered_model_tag", "set_registered_model_alias"),
    *("delete_registered_model_alias", "delete_registered_model"),
)


def forked(work: Callable[[], object]) -> int:
    """The pid of a child that does the work and prints what it returned, or the error."""
    pid = os.fork()
    if pid:
        return pid
    try:
        told = {"done": work()}
    except HashtagError as error:
        told = {"error": str(error)}
    os.write(1, (json.dumps(told) + "\n").encode())
    os._exit(0)


def race(processes: int) -> None:
    """Everyone is held by a pipe until all are there."""
    waiting, start = os.pipe()

    def work(version: str) -> object:
        os.close(start)
        os.read(waiting, 1)
        move_champion(NAME, version, {}, expected="1")
        return version

    pids = [forked(lambda version=str(n + 2): work(version)) for n in range(processes)]
    os.close(start)
    for pid in pids:
        os.waitpid(pid, 0)


def die_at(write: int) -> None:
    """This process kills itself before its nth write to the registry."""
    count = 0

    def dying(method: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal count
            count += 1
            if count == write:
                os.kill(os.getpid(), signal.SIGKILL)
            return method(*args, **kwargs)

        return call

    for name in WRITES:
        setattr(MlflowClient, name, dying(getattr(MlflowClient, name)))


def state() -> tuple[str | None, str | None]:
    return champion(NAME), previous_champion(NAME)


def kill(writes: int) -> None:
    """For each write: champion 1 -> 2, the move to 3 dies there, then back as far as it goes."""

    def die(write: int) -> object:
        die_at(write)
        move_champion(NAME, "3", {}, expected="2")
        return "lived"

    def back() -> object:
        told: list[object] = [state()]
        try:
            while True:
                told += [rollback(NAME), state()]
        except NotFoundError:
            return told

    for write in range(1, writes + 1):
        for work in (lambda: move_champion(NAME, "2", {}, expected="1"), lambda n=write: die(n), back):
            os.waitpid(forked(work), 0)
    os.waitpid(forked(lambda: [model.name for model in connect().search_registered_models()]), 0)


if __name__ == "__main__":
    {"race": race, "kill": kill}[sys.argv[1]](int(sys.argv[2]))
