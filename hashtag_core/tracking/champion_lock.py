"""Turns: one process at a time moves the aliases of a registered model, on every store that MLflow has.

MLflow moves an alias by overwriting it: neither the REST API nor a store compares before it sets, so two who looked and
then set would both win. What every store does refuse is a second registered model of one name (the primary key of its
table), and the refused call is told. That is the mutex:

    read N, the number of the last finished turn (a tag of the model) -> create the registered model `NAME.turn-(N+1)`
    -> read N again: where it has moved on, the turn was somebody's who is done: give ours back and begin anew
    -> look, decide, note what is to be done on the turn, move -> write N+1 -> delete the turn

A number is taken once: to be created again it would have to be finished first, and then the second reading shows it.

A holder that is killed leaves its turn behind. Others know it for dead when its process is gone from the same machine, or
after `TURN_S`; they take the next number while the dead one still stands, so that of several only one succeeds, and
finish what the dead one had noted. A holder that was only asleep asks before it moves whether the turn is still its own
(`Turn.check`). Between that question and the move lies one call: a machine that sleeps longer than `TURN_S` just there is
what no store without a compare-and-set can rule out.
"""

import json
import os
import random
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NotRequired, TypedDict, TypeVar

import psutil

from hashtag_core.errors import StorageError
from hashtag_core.json_values import JsonObject
from hashtag_core.tracking.make_once import delete
from hashtag_core.tracking.runs import current_user, mlflow_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient

TURN_S = 60.0
"""After this time a turn whose holder cannot be looked at is taken for dead."""
WAIT_S = 90.0
POLL_S = 0.1
TRIES = 20

_PASSING = ("database is locked", "could not serialize", "foreign key constraint")

FINISHED = "champion_turn"
_HOLDER, _INTENT = "holder", "intent"
_OURS = "turn_of"

T = TypeVar("T")


class MoveRecord(TypedDict):
    """A move of the champion, as a tag of the model keeps it; `why` is of who decided it."""

    kind: str
    to: str
    before: str | None
    by: str
    why: JsonObject


class Intent(TypedDict):
    """A move that is going to be made: at what time, what becomes `previous`."""

    at: str
    previous: str | None
    record: MoveRecord


class Holder(TypedDict):
    """Who holds a turn: the machine, its boot, the process, and since when (seconds since 1970)."""

    host: str
    boot: str
    user: str
    pid: int
    since: float
    secret: str


class TurnTags(TypedDict):
    """What stands on a turn."""

    holder: Holder
    intent: NotRequired[Intent]


@dataclass
class Turn:
    """A turn that is held. `unfinished`: what holders who died had noted, oldest first."""

    client: "MlflowClient"
    name: str
    number: int
    secret: str
    unfinished: list[Intent] = field(default_factory=list)
    noted: bool = False

    def note(self, intent: Intent) -> None:
        """Write down what is going to be done, so that another can finish it."""
        text = json.dumps(intent)
        patiently(lambda: self.client.set_registered_model_tag(self._claim, _INTENT, text))
        self.noted = True

    def check(self) -> None:
        """StorageError if the turn was taken away meanwhile, since this process had slept for too long."""
        mine = _read(self.client, self._claim)
        if (
            mine is None
            or mine["holder"]["secret"] != self.secret
            or _read(self.client, _claim(self.name, self.number + 1))
        ):
            raise StorageError(
                f"model {self.name!r}: another process took over after {TURN_S:.0f} s: nothing was moved"
            )

    def done(self) -> None:
        """Say that what was noted is done."""
        self.noted = False

    @property
    def _claim(self) -> str:
        return _claim(self.name, self.number)


@contextmanager
def take_turn(client: "MlflowClient", name: str) -> Iterator[Turn]:
    """Wait for the turn to move aliases of the registered model `name`, and hold it.

    StorageError where another holds it for longer than `WAIT_S`. A holder that fails after `Turn.note` and before
    `Turn.done` leaves the turn to who comes next.
    """
    with mlflow_errors(f"cannot take the turn to move the champion of {name!r}"):
        turn = _acquire(client, name)
    try:
        yield turn
    finally:
        if not turn.noted:
            with mlflow_errors(f"cannot give back the turn to move the champion of {name!r}"):
                patiently(lambda: client.set_registered_model_tag(name, FINISHED, str(turn.number)))
                _sweep(client, name, turn.number)


def is_turn(tags: Mapping[str, str]) -> bool:
    """Whether a registered model with these tags is a turn and no model."""
    return _OURS in tags


def patiently(call: Callable[[], T]) -> T:
    """The call, again where the database is locked by another writer (SQLite gives up after five seconds), or a turn that is
    being deleted was deleted and made anew by others after MLflow had read which tags go with it."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import DBAPIError

    for attempt in range(TRIES):
        try:
            return call()
        except (MlflowException, DBAPIError) as error:
            if attempt == TRIES - 1 or not any(passing in str(error).lower() for passing in _PASSING):
                raise
            time.sleep(random.uniform(POLL_S / 2, 2 * POLL_S))
    raise AssertionError


def _acquire(client: "MlflowClient", name: str) -> Turn:
    deadline = time.monotonic() + WAIT_S
    while True:
        finished = _finished(client, name)
        dead, number = [], finished + 1
        holder = _read(client, _claim(name, number))
        while holder is not None and _is_dead(holder["holder"]):
            dead.append(holder)
            number += 1
            holder = _read(client, _claim(name, number))
        secret = secrets.token_hex(8)
        if holder is None and _create(client, name, number, secret):
            if _finished(client, name) < number:
                noted = [before["intent"] for before in dead if "intent" in before]
                return Turn(client, name, number, secret, noted)
            _delete(client, _claim(name, number))
        elif time.monotonic() > deadline:
            holder_text = "" if holder is None else " ({user} on {host}, process {pid})".format_map(holder["holder"])
            raise StorageError(f"another process is moving the champion of {name!r}{holder_text}: run again later")
        time.sleep(random.uniform(POLL_S / 2, 2 * POLL_S))


def _claim(name: str, number: int) -> str:
    return f"{name}.turn-{number}"


def _finished(client: "MlflowClient", name: str) -> int:
    tags = patiently(lambda: client.get_registered_model(name)).tags
    text = tags.get(FINISHED, "0")
    if not text.isdecimal():
        raise StorageError(f"model {name!r}: its tag {FINISHED} is no number: {text!r}")
    return int(text)


def _read(client: "MlflowClient", claim: str) -> TurnTags | None:
    """What stands on a turn; None where there is none.

    MLflow reads a registered model and its tags one after the other: one that is being removed is seen without tags for a
    moment, and is asked for again.
    """
    from mlflow.exceptions import MlflowException

    for _ in range(TRIES):
        try:
            tags = patiently(lambda: client.get_registered_model(claim)).tags
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        if is_turn(tags):
            found: TurnTags = {"holder": json.loads(tags[_HOLDER])}
            if _INTENT in tags:
                found["intent"] = json.loads(tags[_INTENT])
            return found
        # A store that reads the model and its tags one after the other has seen one that was just being deleted.
        time.sleep(random.uniform(POLL_S / 2, 2 * POLL_S))
    raise StorageError(f"the registered model {claim!r} has the name of a turn and is none: rename it")


def _create(client: "MlflowClient", name: str, number: int, secret: str) -> bool:
    from mlflow.exceptions import MlflowException

    holder = {**_here(), "pid": os.getpid(), "since": time.time(), "secret": secret}
    tags = {_OURS: name, _HOLDER: json.dumps(holder)}
    description = f"No model: the champion of {name} is being moved. It goes by itself."
    try:
        patiently(lambda: client.create_registered_model(_claim(name, number), tags, description))
    except MlflowException as error:
        # It is there; or it was made, and who finished that turn meanwhile removed it before MLflow had read it back.
        if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"):
            raise
        # Or it is ours, and the answer to the first request was lost.
        there = _read(client, _claim(name, number))
        return there is not None and there["holder"]["secret"] == secret
    return True


def _delete(client: "MlflowClient", claim: str) -> None:
    patiently(lambda: delete(client.delete_registered_model, claim))


def _sweep(client: "MlflowClient", name: str, number: int) -> None:
    """Delete the turns up to `number`, which are finished: the last first, so that what a crash leaves is found here."""
    left = []
    while number > 0 and _read(client, _claim(name, number)) is not None:
        left.append(_claim(name, number))
        number -= 1
    for claim in reversed(left):
        _delete(client, claim)


def _here() -> dict[str, str]:
    """This machine as far as process ids hold: its boot, and the namespace of a container."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        boot = ""
    return {"host": socket.gethostname(), "boot": boot, "user": current_user()}


def _is_dead(holder: Holder) -> bool:
    here = _here()
    if here["boot"] and (here["host"], here["boot"]) == (holder["host"], holder["boot"]):
        try:
            if psutil.Process(holder["pid"]).create_time() > holder["since"]:
                return True
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:
            pass
    return bool(time.time() > holder["since"] + TURN_S)
