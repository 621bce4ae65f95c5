"""Replacing a local file by several at once, one of them paused wherever it may be."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hashtag_core import storage
from hashtag_core.errors import AlreadyExistsError
from hashtag_core.storage import local

ADD = """
import sys
from hashtag_core import storage
from hashtag_core.errors import AlreadyExistsError
for _ in range(int(sys.argv[2])):
    while True:
        held = storage.read_bytes(sys.argv[1])
        try:
            storage.replace_bytes(sys.argv[1], held, str(int(held) + 1).encode())
            break
        except AlreadyExistsError:
            pass
"""


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_no_addition_is_lost(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    command = [sys.executable, "-c", ADD, str(tmp_path / "count"), "25"]
    adding = [subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.getcwd()}) for _ in range(4)]
    assert [process.wait(120) for process in adding] == [0] * 4
    assert (tmp_path / "count").read_text() == "100"
    assert left(tmp_path) == ["count"]


class Paused:
    """A thread that is held up before (or after) it calls a function, until it is woken."""

    def __init__(
        self, patch: pytest.MonkeyPatch, owner: Any, name: str, *, before: bool, run: Callable[[], Any]
    ) -> None:
        self.reached, self.woken = threading.Event(), threading.Event()
        self.error: BaseException | None = None
        self._run = run
        self._thread = threading.Thread(target=self._work, daemon=True)
        real = getattr(owner, name)

        def held_up(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is not self._thread or self.reached.is_set():
                return real(*args, **kwargs)
            if before:
                self._wait()
                return real(*args, **kwargs)
            result = real(*args, **kwargs)
            self._wait()
            return result

        patch.setattr(owner, name, held_up)

    def start(self) -> None:
        self._thread.start()
        assert self.reached.wait(10)

    def wake(self) -> BaseException | None:
        self.woken.set()
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.error

    def _wait(self) -> None:
        self.reached.set()
        assert self.woken.wait(60)

    def _work(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self.error = error


STEPS = [
    (local, "_write_through", False),  # staged, and not yet in turn
    (local, "_is_locked", False),  # with the lock
    (local, "read_bytes", True),
    (local, "read_bytes", False),  # it saw what it expects
    (local.os, "replace", True),
]


@pytest.mark.parametrize("data", [b"mine", None], ids=["replaced", "removed"])
@pytest.mark.parametrize("step", range(len(STEPS)))
def test_who_sleeps_holds_up_nobody_and_overwrites_nothing(
    step: int, data: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name, before = STEPS[step]
    if data is None and name == "replace":
        pytest.skip("a removal renames nothing")
    monkeypatch.setattr(local, "LOCK_WAIT_S", 0.2)
    uri = str(tmp_path / "lease")
    Path(uri).write_bytes(b"first")
    sleeper = Paused(monkeypatch, owner, name, before=before, run=lambda: storage.replace_bytes(uri, b"first", data))
    sleeper.start()
    storage.replace_bytes(uri, b"first", b"second")
    assert isinstance(sleeper.wake(), AlreadyExistsError)
    assert Path(uri).read_bytes() == b"second"
    assert left(tmp_path) == ["lease"]


def test_content_that_comes_back_is_what_is_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared is the content: a sleeper whose own is there again may go on."""
    monkeypatch.setattr(local, "LOCK_WAIT_S", 0.2)
    uri = str(tmp_path / "lease")
    Path(uri).write_bytes(b"first")
    sleeper = Paused(
        monkeypatch, local, "read_bytes", before=False, run=lambda: storage.replace_bytes(uri, b"first", b"x")
    )
    sleeper.start()
    storage.replace_bytes(uri, b"first", b"second")
    storage.replace_bytes(uri, b"second", b"first")
    assert sleeper.wake() is None
    assert Path(uri).read_bytes() == b"x"


def test_another_file_of_the_folder_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / f".{'a' * 32}.tmp"
    other.write_bytes(b"of another write")
    (tmp_path / "lease").write_bytes(b"1")
    storage.replace_bytes(str(tmp_path / "lease"), b"1", b"2")
    assert left(tmp_path) == [other.name, "lease"]
