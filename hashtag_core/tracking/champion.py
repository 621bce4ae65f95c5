"""The champion: three aliases of a registered model, which are the only record of what is live.

    champion     what tagging takes
    previous     what was champion before, and where a rollback returns
    challenger   what was judged last and is not champion

They are moved by one process at a time (`champion_lock`), `champion` first, by one call that sets it to an existing version: at
every moment it names the old or the new one. A move that breaks off behind that call is finished by whoever moves next.

Beside them every move is told by a tag of the model (`champion_move.<time>`: from, to, who, why). That is a log to be
read. It is asked only where the aliases say nothing: what was champion before `previous`, for a second rollback, and where
somebody moved `champion` by hand and there is no `previous`.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from hashtag_core.errors import IntegrityError, NotFoundError, StorageError
from hashtag_core.tracking.champion_lock import Intent, MoveRecord, Turn, patiently, take_turn
from hashtag_core.tracking.runs import TAG_CHARACTERS, connect, current_user, mlflow_errors
from hashtag_core.tracking.versions import aliases_of, find_known, model_uri, version_numbers

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
_MOVE = "champion_move."


@dataclass(frozen=True)
class Move:
    """One move of the champion, as it was recorded."""

    kind: Literal["promote", "rollback"]
    to: str
    before: str | None
    at: str
    by: str
    why: Mapping[str, object]


def champion(name: str) -> str | None:
    """The version under the alias `champion`; None while there is none (or no such model yet)."""
    return _alias(name, CHAMPION)


def previous_champion(name: str) -> str | None:
    """The version under the alias `previous`; None while there is none (or no such model yet)."""
    return _alias(name, PREVIOUS)


def set_challenger(name: str, version: str) -> None:
    """Let the alias `challenger` tell which version is being judged."""
    client = connect(create=False, patient=True)
    with mlflow_errors(f"cannot make {model_uri(name, version)} the challenger"):
        patiently(lambda: client.set_registered_model_alias(name, CHALLENGER, version))


def move_champion(name: str, version: str, why: Mapping[str, object], expected: str | None = None) -> str | None:
    """Make `version` the champion and record the move; returns the version that was it before.

    `expected` is the champion that the decision was made against: StorageError if another process has moved the alias
    since. NotFoundError for a version that does not exist. What was champion becomes `previous`.
    """
    client = connect(create=False, patient=True)
    _check_expected(name, aliases_of(client, name), expected)  # who is too late need not wait for a turn to hear it
    with take_turn(client, name) as turn:
        _finish_dead(client, name, turn)
        aliases = aliases_of(client, name)
        before = _check_expected(name, aliases, expected)
        find_known(client, model_uri(name, version))
        if version != before:
            previous = aliases.get(PREVIOUS) if before is None else before
            _move(client, name, turn, Move("promote", version, before, _now(), current_user(), why), previous)
    return before


def rollback(name: str, why: Mapping[str, object] | None = None) -> tuple[str, str | None]:
    """Make the version under `previous` champion again; returns (champion now, the one that was taken off).

    `previous` then tells what was champion before that one, so that a second rollback goes one further back. It works too
    where the champion's version was deleted (which takes the alias away): then None was taken off. NotFoundError where
    there is nothing to return to.
    """
    client = connect(create=False)
    aliases_of(client, name)
    with take_turn(client, name) as turn:
        _finish_dead(client, name, turn)
        before = aliases_of(client, name).get(CHAMPION)
        target = rollback_target(name)
        move = Move("rollback", target, before, _now(), current_user(), why or {})
        _move(client, name, turn, move, _before(target, _line(client, name)))
    return target, before


def rollback_target(name: str) -> str:
    """The version that a rollback would return to; NotFoundError, saying why, where there is none."""
    client = connect(create=False)
    aliases = aliases_of(client, name)
    present, previous = aliases.get(CHAMPION), aliases.get(PREVIOUS)
    if previous is not None and previous != present and previous in version_numbers(client, name):
        return previous
    line = _line(client, name)
    target = _before(present, line)
    if target is not None:
        return target
    if present is None:
        raise NotFoundError(f"model {name!r} has no champion to roll back from, and none that was it before")
    raise NotFoundError(f"no champion before version {present} of model {name!r}: nothing to roll back to")


def champion_moves(name: str) -> list[Move]:
    """Every recorded move of the champion, oldest first."""
    client = connect(create=False)
    with mlflow_errors(f"no registered model {name!r}"):
        tags = client.get_registered_model(name).tags
    moves = []
    for key in sorted(key for key in tags if key.startswith(_MOVE)):
        try:
            moves.append(Move(at=key.removeprefix(_MOVE), **json.loads(tags[key])))
        except (ValueError, TypeError):
            raise IntegrityError(f"model {name!r}: tag {key} is no record of a move: {tags[key][:200]}") from None
    return moves


def _alias(name: str, alias: str) -> str | None:
    try:
        return aliases_of(connect(create=False), name).get(alias)
    except NotFoundError:
        return None


def _check_expected(name: str, aliases: Mapping[str, str], expected: str | None) -> str | None:
    before = aliases.get(CHAMPION)
    if before != expected:
        raise StorageError(
            f"the champion of {name!r} changed from {_shown(expected)} to {_shown(before)} meanwhile: nothing was moved, run again"
        )
    return before


def _line(client: "MlflowClient", name: str) -> list[str]:
    """Champions after one another by the log, the last one last; a rollback takes off what was behind its target, and
    versions that are deleted are left out."""
    line: list[str] = []
    for move in champion_moves(name):
        if move.kind == "rollback" and move.to in line:
            del line[_last(line, move.to) + 1 :]
        elif move.kind == "rollback" and line and line[-1] == move.before:
            line[-1] = move.to
        elif not line or line[-1] != move.to:
            line.append(move.to)
    existing = set(version_numbers(client, name))
    return [version for version in line if version in existing]


def _before(version: str | None, line: list[str]) -> str | None:
    """What was champion before `version`; the last of the line for one that is not in it (moved to by hand)."""
    if version in line:
        line = line[: _last(line, version)]
    return next((other for other in reversed(line) if other != version), None)


def _last(line: list[str], version: str | None) -> int:
    return len(line) - 1 - line[::-1].index(str(version))


def _move(client: "MlflowClient", name: str, turn: Turn, move: Move, previous: str | None) -> None:
    record: MoveRecord = {
        "kind": move.kind,
        "to": move.to,
        "before": move.before,
        "by": move.by,
        "why": dict(move.why),
    }
    if len(json.dumps(record)) > TAG_CHARACTERS - 200:
        record["why"] = {"left_out": "longer than a tag may be"}
    intent: Intent = {"at": move.at, "previous": previous, "record": record}
    with mlflow_errors(f"cannot move the champion of {name!r}"):
        turn.note(intent)
        turn.check()
        patiently(lambda: client.set_registered_model_alias(name, CHAMPION, move.to))
        _settle(client, name, intent)
        turn.done()
    logger.info("champion of %s: version %s (was %s)", name, move.to, _shown(move.before))


def _finish_dead(client: "MlflowClient", name: str, turn: Turn) -> None:
    """What is left to do of moves whose process died: nothing, unless it had moved `champion` already."""
    for intent in turn.unfinished:
        if aliases_of(client, name).get(CHAMPION) == intent["record"]["to"]:
            logger.warning("finishing a move of the champion of %s that broke off: %s", name, intent["record"])
            with mlflow_errors(f"cannot finish a move of the champion of {name!r}"):
                _settle(client, name, intent)


def _settle(client: "MlflowClient", name: str, intent: Intent) -> None:
    """All of a move but the alias `champion`; done twice it is the same."""
    aliases, record = aliases_of(client, name), intent["record"]
    if intent["previous"] in version_numbers(client, name):
        patiently(lambda: client.set_registered_model_alias(name, PREVIOUS, intent["previous"]))
    elif PREVIOUS in aliases:
        patiently(lambda: client.delete_registered_model_alias(name, PREVIOUS))
    if aliases.get(CHALLENGER) == record["to"]:
        patiently(lambda: client.delete_registered_model_alias(name, CHALLENGER))
    patiently(lambda: client.set_registered_model_tag(name, _MOVE + intent["at"], json.dumps(record)))


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _shown(version: str | None) -> str:
    return "none" if version is None else f"version {version}"
