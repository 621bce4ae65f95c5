"""One run at a time on one output: a lease file with a heartbeat, on a local disk and on S3 alike.

A run that is killed leaves its lease behind. Who finds one takes it over at once if its process was on this machine and
is gone, else when it was not renewed for `ttl_s` by the finder's own clock, so clocks of two machines need not agree.
A lease alone cannot stop a run that hangs for longer and wakes up again: what the runs write must be the same.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict, cast

import psutil

from hashtag_core import storage
from hashtag_core.errors import AlreadyExistsError, HashtagError, NotFoundError

logger = logging.getLogger(__name__)

TTL_S = 60.0
"""Without a heartbeat for so long, a run is taken for dead."""


class LeaseHeldError(HashtagError):
    """Another run works on the same output."""


def new_run_id() -> str:
    """A name for a run: when it began, to the millisecond, and six random digits; in the order of time."""
    now = datetime.now(UTC)
    return f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03d}Z-{uuid.uuid4().hex[:6]}"


class Lease:
    """`with Lease(uri, run_id): ...` for as long as the block runs; `check` raises once another run took it over."""

    def __init__(self, uri: str, run_id: str, *, ttl_s: float = TTL_S) -> None:
        self.uri, self.run_id, self.ttl_s = uri, run_id, ttl_s
        self._mine = b""
        self._beats = 0
        self._stop = threading.Event()
        self._lost: str | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """LeaseHeldError if another run is alive; waits for at most `ttl_s` to find that out."""
        self._acquire()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._lost is None:
            try:
                storage.replace_bytes(self.uri, self._mine, None)
            except HashtagError as fault:
                logger.warning("the lease was not given back, it ends by itself in %g s: %s", self.ttl_s, fault)

    def check(self) -> None:
        """LeaseHeldError if another run took the lease, since this one was silent for too long."""
        if self._lost is not None:
            raise LeaseHeldError(self._lost)

    def _acquire(self) -> None:
        seen, since = b"", time.monotonic()
        while True:
            wanted = self._content()
            try:
                self._write(partial(storage.create_bytes, self.uri, wanted), wanted)
                return
            except AlreadyExistsError:
                pass
            try:
                found = storage.read_bytes(self.uri)
            except NotFoundError:
                continue  # given back meanwhile
            if seen and found != seen:
                raise LeaseHeldError(self._alive(found))
            if not seen:
                seen, since = found, time.monotonic()
            if _is_dead(found) or time.monotonic() - since >= self.ttl_s:
                logger.warning("taking over from a run that is gone: %s", _told(found))
                try:
                    self._write(partial(storage.replace_bytes, self.uri, found, wanted), wanted)
                    return
                except (AlreadyExistsError, NotFoundError):
                    continue
            if _process(found) == _here():
                raise LeaseHeldError(self._alive(found))
            logger.info("waiting up to %g s to see whether another run is alive: %s", self.ttl_s, _told(found))
            time.sleep(min(1.0, self.ttl_s / 10))

    def _write(self, write: Callable[[], None], content: bytes) -> None:
        """Write, and take a refusal for success where the content is ours: the reply to the first try was lost."""
        try:
            write()
        except AlreadyExistsError:
            if storage.read_bytes(self.uri) != content:
                raise
        self._mine = content

    def _beat(self) -> None:
        while not self._stop.wait(self.ttl_s / 6):
            content = self._content()
            try:
                self._write(partial(storage.replace_bytes, self.uri, self._mine, content), content)
            except (AlreadyExistsError, NotFoundError):
                self._lost = f"{self.uri}: another run took this output over, {self.run_id} was silent for too long"
                logger.error("%s", self._lost)
                return
            except HashtagError as error:
                logger.warning("the lease could not be renewed, trying again: %s", error)

    def _content(self) -> bytes:
        self._beats += 1
        value: LeaseRecord = {
            "run": self.run_id,
            "beat": self._beats,
            "renewed": datetime.now(UTC).isoformat(timespec="seconds"),
            "ttl_s": self.ttl_s,
            "host": socket.gethostname(),
            "machine": _here(),
            "pid": os.getpid(),
            "began_s": _began_s(os.getpid()),
        }
        return (json.dumps(value, indent=2) + "\n").encode()

    def _alive(self, found: bytes) -> str:
        return f"{self.uri}: another run is tagging into this output: {_told(found)}; wait for it, or stop it"


class LeaseRecord(TypedDict, total=False):
    """The lease's file: who holds it, and when it was renewed. Of a file that is none nothing is known."""

    run: str
    beat: int
    renewed: str
    ttl_s: float
    host: str
    machine: str
    pid: int
    began_s: float


def _read(content: bytes) -> LeaseRecord:
    try:
        value = json.loads(content)
    except (ValueError, TypeError):
        return {}
    return cast(LeaseRecord, value) if isinstance(value, dict) else {}


def _told(content: bytes) -> str:
    value = _read(content)
    return (
        f"run {value.get('run')}, host {value.get('host')}, process {value.get('pid')}, alive at {value.get('renewed')}"
    )


def _process(content: bytes) -> str | None:
    return _read(content).get("machine")


def _here() -> str:
    """This machine since it was started, and this process namespace: where a process number means the same."""
    parts = [socket.gethostname()]
    try:
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    except OSError:
        parts.append(str(psutil.boot_time()))
    return " ".join(parts)


def _is_dead(content: bytes) -> bool:
    """Whether it is certain that the run is gone: its process was here."""
    value = _read(content)
    if value.get("machine") != _here():
        return False
    try:
        return abs(_began_s(int(value["pid"])) - float(value["began_s"])) > 1
    except (psutil.NoSuchProcess, KeyError, ValueError, TypeError):
        return True


def _began_s(pid: int) -> float:
    """When a process began, in seconds since the machine did: setting the clock changes that of neither.

    NoSuchProcess also for one that was killed and that its parent did not ask for yet, as in a container without an init.
    """
    process = psutil.Process(pid)
    if process.status() == psutil.STATUS_ZOMBIE:
        raise psutil.NoSuchProcess(pid)
    return process.create_time() - psutil.boot_time()
