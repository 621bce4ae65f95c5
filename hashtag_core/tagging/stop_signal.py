"""What ends a tagging run before its work is done: SIGTERM, Ctrl-C, a deadline.

The order reaches the actors as a file in the output's `_state/`, which each looks for before it begins a chunk: it needs no
Ray, outlives any actor, and is there on every node that can write chunks. Chunks in hand end, the others are not begun.
"""

import logging
import re
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from hashtag_core import storage
from hashtag_core.errors import ConfigError, HashtagError

logger = logging.getLogger(__name__)

RETRY_S = 5.0


class StoppedError(HashtagError):
    """The run was told to end; a rerun does what is left."""


class Signals:
    """`with Signals(hear) as signals: ...`; SIGTERM and Ctrl-C are told to `hear`. Only a block in the main thread hears any."""

    def __init__(self, hear: Callable[[int], None]) -> None:
        self._hear = hear
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
            self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Hear the signals, also after Ray, which takes SIGTERM for itself when it starts."""
        for number in self._handlers:
            signal.signal(number, lambda number, frame: self._hear(number))


class StopSignal:
    """`with StopSignal(uri) as stop: ...`; `reason` says what ended the run, None while nothing did.

    `uri`: the file that is written when the run is to end; one that a killed run left is removed. Signals are heard by
    a run in the main thread alone. A second Ctrl-C ends the process at once.
    """

    def __init__(self, uri: str, deadline: datetime | None = None) -> None:
        self.uri, self.deadline = uri, deadline
        self.reason: str | None = None
        self._told, self._ended = threading.Event(), threading.Event()
        self._signals = Signals(self._hear)
        self._thread = threading.Thread(target=self._watch, name="stop", daemon=True)

    def __enter__(self) -> Self:
        storage.remove(self.uri)
        self._signals.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signals.__exit__(kind, error, trace)
        self._ended.set()
        self._told.set()
        self._thread.join()
        try:
            storage.remove(self.uri)
        except HashtagError as fault:
            logger.warning("the next run will remove what stopped this one: %s", fault)

    def listen(self) -> None:
        """Hear the signals, also after Ray, which takes SIGTERM for itself when it starts."""
        self._signals.listen()

    def stop(self, reason: str) -> None:
        """Begin no more chunks."""
        if self.reason is None:
            self.reason = reason
        self._told.set()

    def _hear(self, number: int) -> None:
        if number == signal.SIGINT and self.reason is not None:
            raise KeyboardInterrupt
        self.stop(signal.Signals(number).name)

    def _watch(self) -> None:
        left = None if self.deadline is None else max(0.0, (self.deadline - datetime.now(UTC)).total_seconds())
        if not self._told.wait(left):
            self.stop("its deadline")
        while not self._ended.is_set():
            logger.warning("stopping for %s: no new chunk begins, those in hand end", self.reason)
            try:
                storage.write_json(self.uri, {"reason": self.reason})
                return
            except HashtagError as error:
                logger.warning("the actors could not be told, trying again: %s", error)
                self._ended.wait(RETRY_S)


def parse_deadline(text: str, now: datetime) -> datetime:
    """`MINUTES` from now, `HH:MM` (the next one by the local clock), or an ISO time (without a zone: local).

    `now` has a zone. ConfigError for anything else, and for a time that has passed.
    """
    if re.fullmatch(r"\d{1,5}(\.\d+)?", text):
        return now + timedelta(minutes=float(text))
    local = now.astimezone()
    if clock := re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text):
        today = datetime(local.year, local.month, local.day, int(clock[1]), int(clock[2]))  # noqa: DTZ001  local
        return (today if today.astimezone() > now else today + timedelta(days=1)).astimezone(UTC)
    try:
        found = datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise ConfigError(f"--deadline {text!r}: expected minutes, HH:MM, or a time as 2026-01-31T06:00") from None
    if found <= now:
        raise ConfigError(f"--deadline {text!r} has passed: it is {local.isoformat(timespec='minutes')}")
    return found
