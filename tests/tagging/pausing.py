"""A run that is paused at one of its writes, as SIGSTOP or a machine that sleeps would do, and woken later; or killed there."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hashtag_core import storage
from hashtag_core.output.fenced_table import Table
from hashtag_core.output.lease import Lease

WRITES = ("open_output", "write_bytes", "create_bytes", "replace_bytes", "move", "remove", "remove_tree")
"""Functions of `storage` that change something; a Delta commit is a write too."""


class KilledError(BaseException):
    """The process ended here."""


class Writes:
    """Counts the writes of one thread and calls `at` before each."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.thread: int | None = None
        self.count = 0
        self.at: Callable[[int], None] = lambda number: None
        for name in WRITES:
            patch.setattr(storage, name, self._counted(getattr(storage, name)))
        patch.setattr(Table, "_commit_once", self._counted(Table._commit_once))
        patch.setattr(Lease, "_beat", lambda lease: None)  # a paused process has no heartbeat

    def _counted(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() == self.thread:
                self.count += 1
                self.at(self.count)
            return write(*args, **kwargs)

        return counted

    @contextmanager
    def of_this_thread(self, at: Callable[[int], None]) -> Iterator[None]:
        """Count from here."""
        self.thread, self.count, self.at = threading.get_ident(), 0, at
        try:
            yield
        finally:
            self.thread = None


def killed_before(writes: Writes, number: int, run: Callable[[], Any]) -> bool:
    """Run, and end as if the process were killed before write number `number`; whether it came to that."""

    def kill(at: int) -> None:
        if at >= number:
            raise KilledError

    try:
        with writes.of_this_thread(kill):
            run()
    except KilledError:
        return True
    return False


class PausedRun:
    """A run in a thread, paused before its write number `number`."""

    def __init__(self, writes: Writes, run: Callable[[], Any], number: int) -> None:
        self._writes, self._run, self._number = writes, run, number
        self._paused, self._woken = threading.Event(), threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> bool:
        """Until it is paused; False where it ended before."""
        self._thread.start()
        while self._thread.is_alive() and not self._paused.wait(0.01):
            pass
        return self._paused.is_set()

    def wake(self) -> None:
        """Let it go on to its end."""
        self._woken.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _work(self) -> None:
        with self._writes.of_this_thread(self._at):
            try:
                self._run()
            except BaseException as error:
                self.error = error

    def _at(self, number: int) -> None:
        if number == self._number:
            self._paused.set()
            assert self._woken.wait(60)
