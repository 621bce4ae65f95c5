"""Lines that a library's C++ side writes to descriptor 2, kept from the console as long as all goes well.

Such a line (`[2026-11-26 01:23:56,673 E 10333 10536] core_worker.cc:2465: ...`) goes past Python: descriptor 2 itself has to lead
elsewhere. It leads into a pipe that a small process reads, this file as a program, which passes on all other lines. A process and no
thread, since what a dying process says last is read only by one that outlives it: where the pipe ends without a farewell, the last
lines that were held back are the reason, and are shown. What Python writes goes past the pipe, so that a terminal stays one. Ray's
own log files have every line.
"""

import logging
import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import UnsupportedOperation

NATIVE = re.compile(rb"(\x1b\[[\d;]*m)?\[[\d\- :,]+ [EWI] \d+ \d+\] .*\b\w+\.(cc|h):\d+: ")
FAREWELL = b"\0\n"
LAST_LINES = 20
READ_BYTES = 1 << 16
END_TIMEOUT_S = 2


@contextmanager
def native_lines_apart() -> Iterator[None]:
    """For the time of the block; nothing is done where this process's stderr is not descriptor 2 (a notebook)."""
    before = sys.stderr
    try:
        usual = before.fileno() == 2
    except (AttributeError, OSError, UnsupportedOperation, ValueError):
        usual = False
    if not usual:
        yield
        return
    before.flush()
    kept = os.dup(2)
    command = [sys.executable, "-I", "-S", __file__]
    reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=kept, start_new_session=True)
    if reader.stdin is None:
        raise AssertionError
    past = open(kept, "w", buffering=1, encoding=before.encoding, errors=before.errors, closefd=False)  # noqa: SIM115
    handlers = [item for item in logging.root.handlers if isinstance(item, logging.StreamHandler)]
    ours = [item for item in handlers if item.stream is before]
    _lead(ours, past)
    os.dup2(reader.stdin.fileno(), 2)
    reader.stdin.close()
    try:
        yield
    finally:
        with suppress(OSError):  # the reader may have been killed
            os.write(2, FAREWELL)
        os.dup2(kept, 2)
        _lead(ours, before)
        past.flush()  # and `kept` stays open: faulthandler and loggers made meanwhile hold its number
        try:  # what it has still to pass on comes before what is said next
            reader.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            reader.returncode = 0  # it ends with the last process that has the pipe


def _lead(handlers: "list[logging.StreamHandler]", stream: object) -> None:
    sys.stderr = stream
    for handler in handlers:
        handler.setStream(stream)


def relay() -> None:
    """Pass descriptor 0 on to descriptor 1, native lines left out."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    held: deque[bytes] = deque(maxlen=LAST_LINES)
    rest = b""
    while data := os.read(0, READ_BYTES):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.endswith(FAREWELL[:-1]):
                last = line.removesuffix(FAREWELL[:-1])
                _write(b"" if NATIVE.match(last) else last)
                return
            if NATIVE.match(line):
                held.append(line + b"\n")
            else:
                _write(line + b"\n")
        if rest and rest[:1] not in (b"[", b"\x1b", b"\0"):  # the begin of a line that is not native
            _write(rest)
            rest = b""
    _write(b"".join(held) + rest)


def _write(data: bytes) -> None:
    try:
        while data:
            data = data[os.write(1, data) :]
    except OSError:  # nobody reads it any more
        return


if __name__ == "__main__":
    relay()
