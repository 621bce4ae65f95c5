"""Aliases in a real MLflow: who is champion, what a rollback returns to, what becomes of two who move it at once."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hashtag_core.errors import IntegrityError, NotFoundError, StorageError
from hashtag_core.tracking.registry import (
    champion,
    champion_moves,
    find_version,
    move_champion,
    rollback,
    rollback_target,
    set_challenger,
)
from hashtag_core.tracking.runs import connect

NAME = "hashtags"


def aliases(name: str = NAME) -> dict[str, str]:
    return {alias: str(version) for alias, version in connect().get_registered_model(name).aliases.items()}


def test_promotions_and_rollbacks_walk_one_line(name_versions: Callable[..., None]) -> None:
    name_versions(4)
    assert champion(NAME) is None
    with pytest.raises(NotFoundError, match="no champion to roll back"):
        rollback(NAME)
    assert move_champion(NAME, "1", {"reason": "first"}) is None
    with pytest.raises(NotFoundError, match="no champion before version 1"):
        rollback(NAME)
    assert move_champion(NAME, "2", {"f1_at_5": 0.5}, expected="1") == "1"
    assert move_champion(NAME, "4", {}, expected="2") == "2"
    assert aliases() == {"champion": "4", "previous": "2"}
    assert rollback(NAME, {"reason": "worse at night"}) == ("2", "4")
    assert aliases() == {"champion": "2", "previous": "1"}
    assert rollback(NAME) == ("1", "2")
    assert aliases() == {"champion": "1"}
    with pytest.raises(NotFoundError, match="no alias 'previous'"):
        find_version(f"models:/{NAME}@previous")
    with pytest.raises(NotFoundError, match="nothing to roll back to"):
        rollback(NAME)
    move_champion(NAME, "3", {}, expected="1")
    assert aliases() == {"champion": "3", "previous": "1"}
    moves = champion_moves(NAME)
    assert [(move.kind, move.before, move.to) for move in moves] == [
        ("promote", None, "1"),
        ("promote", "1", "2"),
        ("promote", "2", "4"),
        ("rollback", "4", "2"),
        ("rollback", "2", "1"),
        ("promote", "1", "3"),
    ]
    assert moves[1].why == {"f1_at_5": 0.5}
    assert all(move.by and move.at for move in moves)


def test_a_champion_moved_meanwhile_is_left_alone(name_versions: Callable[..., None]) -> None:
    name_versions(2)
    move_champion(NAME, "1", {})
    with pytest.raises(StorageError, match="from none to version 1 meanwhile"):
        move_champion(NAME, "2", {}, expected=None)
    assert champion(NAME) == "1"
    move_champion(NAME, "1", {}, expected="1")
    assert len(champion_moves(NAME)) == 1


def test_a_champion_that_does_not_exist(name_versions: Callable[..., None]) -> None:
    name_versions(1)
    with pytest.raises(NotFoundError, match="no version 7"):
        move_champion(NAME, "7", {})
    assert champion_moves(NAME) == []
    with pytest.raises(NotFoundError, match=r"no registered model 'hashtagz' .did you mean 'hashtags'"):
        move_champion("hashtagz", "1", {})
    with pytest.raises(NotFoundError, match="no registered model"):
        rollback("hashtagz")


def test_previous_is_what_a_rollback_returns_to_after_moves_by_hand(name_versions: Callable[..., None]) -> None:
    name_versions(4)
    client = connect()
    move_champion(NAME, "1", {})
    client.set_registered_model_alias(NAME, "champion", "2")
    assert rollback_target(NAME) == "1"  # no `previous` yet: what the last move made champion
    move_champion(NAME, "3", {}, expected="2")
    assert aliases() == {"champion": "3", "previous": "2"}
    assert rollback(NAME) == ("2", "3")
    # right after a move by hand, `previous` is still what can be seen of it
    move_champion(NAME, "4", {}, expected="2")
    client.set_registered_model_alias(NAME, "champion", "1")
    assert aliases()["previous"] == "2"
    assert rollback(NAME) == ("2", "1")
    # back by hand is back: there is nothing to return to in the direction of what was left
    move_champion(NAME, "3", {}, expected="2")
    client.set_registered_model_alias(NAME, "champion", "2")
    client.delete_registered_model_alias(NAME, "previous")
    assert rollback_target(NAME) == "1"


def test_a_deleted_champion_leaves_its_place_to_the_previous_one(name_versions: Callable[..., None]) -> None:
    name_versions(4)
    client = connect()
    for version, before in (("1", None), ("2", "1"), ("3", "2")):
        move_champion(NAME, version, {}, expected=before)
    client.delete_model_version(NAME, "3")
    assert aliases() == {"previous": "2"}
    assert rollback(NAME) == ("2", None)
    assert aliases() == {"champion": "2", "previous": "1"}
    # the version in between is deleted: the one before it is left
    move_champion(NAME, "4", {}, expected="2")
    client.delete_model_version(NAME, "2")
    assert aliases() == {"champion": "4"}
    assert rollback(NAME) == ("1", "4")


def test_a_promotion_after_the_champion_was_deleted_keeps_previous(name_versions: Callable[..., None]) -> None:
    name_versions(3)
    move_champion(NAME, "1", {})
    move_champion(NAME, "2", {}, expected="1")
    connect().delete_model_version(NAME, "2")
    move_champion(NAME, "3", {}, expected=None)
    assert aliases() == {"champion": "3", "previous": "1"}


def test_a_deleted_model_is_said_to_be_none(name_versions: Callable[..., None]) -> None:
    name_versions(1)
    move_champion(NAME, "1", {})
    connect().delete_registered_model(NAME)
    assert champion(NAME) is None
    for act in (rollback, rollback_target, lambda name: move_champion(name, "1", {})):
        with pytest.raises(NotFoundError, match="no registered model 'hashtags'; nothing is registered yet"):
            act(NAME)


@pytest.mark.parametrize("name", ["o'brien", "a@b", "50 % off", 'tags "new" o\'clock', "ünï 标签"])
def test_names_of_every_kind(name_versions: Callable[..., None], name: str) -> None:
    name_versions(2, name)
    move_champion(name, "1", {})
    move_champion(name, "2", {}, expected="1")
    assert find_version(f"models:/{name}@champion")[:2] == (name, "2")
    assert find_version(f"models:/{name}/1")[:2] == (name, "1")
    with pytest.raises(NotFoundError, match="has no version 3; it has 1 to 2"):
        find_version(f"models:/{name}/3")
    assert rollback(name) == ("1", "2")


def test_the_challenger_is_challenger_until_it_is_champion(name_versions: Callable[..., None]) -> None:
    name_versions(2)
    set_challenger(NAME, "1")
    move_champion(NAME, "1", {})
    assert aliases() == {"champion": "1"}
    set_challenger(NAME, "2")
    assert aliases() == {"champion": "1", "challenger": "2"}


def test_a_long_reason_is_left_out_not_cut(name_versions: Callable[..., None]) -> None:
    name_versions(1)
    move_champion(NAME, "1", {"gates": ["x" * 6000]})
    assert champion_moves(NAME)[0].why == {"left_out": "longer than a tag may be"}


def test_a_log_that_somebody_wrote_into(name_versions: Callable[..., None]) -> None:
    name_versions(1)
    connect().set_registered_model_tag(NAME, "champion_move.now", "{")
    with pytest.raises(IntegrityError, match=r"champion_move.now is no record of a move"):
        champion_moves(NAME)


def many(repository: Path, store: str, *command: object) -> list[dict]:
    program = Path(__file__).with_name("many_promotions.py")
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store, "PYTHONPATH": str(repository)}
    done = subprocess.run(
        [sys.executable, program, *map(str, command)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check_race(told: list[dict]) -> None:
    won = [line["done"] for line in told if "done" in line]
    lost = [line["error"] for line in told if "error" in line]
    assert len(won) == 1, told
    assert len(lost) == 19
    assert {error for error in lost if f"changed from version 1 to version {won[0]} meanwhile" not in error} == set()
    assert aliases() == {"champion": won[0], "previous": "1"}
    assert len(champion_moves(NAME)) == 2
    assert [model.name for model in connect().search_registered_models()] == [NAME]


@pytest.mark.slow
def test_of_twenty_promotions_at_once_one_wins_on_sqlite(
    name_versions: Callable[..., None], mlflow_store: Path, repository: Path
) -> None:
    name_versions(21)
    move_champion(NAME, "1", {})
    check_race(many(repository, f"sqlite:///{mlflow_store}", "race", 20))


@pytest.mark.slow
def test_of_twenty_promotions_at_once_one_wins_on_postgresql(
    postgres: str, name_versions: Callable[..., None], monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres)
    name_versions(21)
    move_champion(NAME, "1", {})
    check_race(many(repository, postgres, "race", 20))


@pytest.mark.slow
def test_a_move_that_is_killed_anywhere_leaves_the_old_champion_or_the_new_one(
    name_versions: Callable[..., None], mlflow_store: Path, repository: Path
) -> None:
    name_versions(3)
    move_champion(NAME, "1", {})
    writes = 8
    told = many(repository, f"sqlite:///{mlflow_store}", "kill", writes)
    *steps, models = told
    found = []
    for line in steps:
        if line in ({"done": "1"}, {"done": "lived"}):
            continue
        (first, *then) = line["done"]
        found.append(first[0])
        if first[0] == "3":  # whatever `previous` said when it died, the way back is the whole one
            assert then == [["2", "3"], ["2", "1"], ["1", "2"], ["1", None]]
        else:
            assert (first, then) == (["2", "1"], [["1", "2"], ["1", None]])
    assert found == ["2"] * 3 + ["3"] * (writes - 3)
    assert {"done": "lived"} not in told[: 2 * (writes - 1)]
    assert models["done"] == [NAME]
