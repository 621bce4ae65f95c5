"""One process at a time moves the champion."""

import os
import time
from collections.abc import Callable

import pytest

from hashtag_core.errors import StorageError
from hashtag_core.tracking import champion_lock
from hashtag_core.tracking.registry import (
    champion,
    move_champion,
)
from hashtag_core.tracking.runs import connect

NAME = "hashtags"


def test_a_turn_that_is_held_is_waited_for_and_then_told(
    name_versions: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    name_versions(2)
    move_champion(NAME, "1", {})
    with champion_lock.take_turn(connect(), NAME):
        monkeypatch.setattr(champion_lock, "WAIT_S", 0.3)
        with pytest.raises(StorageError, match=rf"another process is moving .*process {os.getpid()}"):
            move_champion(NAME, "2", {}, expected="1")
    move_champion(NAME, "2", {}, expected="1")


def test_who_slept_through_its_turn_moves_nothing(
    name_versions: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    name_versions(2)
    move_champion(NAME, "1", {})
    monkeypatch.setattr(champion_lock, "TURN_S", 0.0)
    with champion_lock.take_turn(connect(), NAME) as asleep:
        time.sleep(0.01)
        move_champion(NAME, "2", {}, expected="1")
        with pytest.raises(StorageError, match="another process took over"):
            asleep.check()
    assert champion(NAME) == "2"
