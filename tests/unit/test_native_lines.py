"""What a C++ library writes to descriptor 2 stays off the console, unless the process dies of it."""

import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest

NATIVE = "[2026-11-26 01:23:56,673 E 10333 10536] core_worker.cc:2465: an actor restart will fail"
BEGIN = f"""
import logging, os, sys
from hashtag_core.native_lines import native_lines_apart
logging.basicConfig(format="%(message)s")
def say(text): os.write(2, (text + "\\n").encode())
with native_lines_apart():
    say({NATIVE!r}); say("a plain line")
"""


def stderr_of(code: str, returncode: int = 0) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == returncode, done.stderr
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_native_lines_are_left_out_and_all_others_come_in_order() -> None:
    code = (
        BEGIN
        + '    say("[not native] core.cc"); logging.warning("of Python")\nlogging.warning("behind"); say("free again")\n'
    )
    told = stderr_of(code)
    assert sorted(told[:3]) == sorted(["a plain line", "[not native] core.cc", "of Python"])
    assert told[3:] == ["behind", "free again"]


@pytest.mark.parametrize("end", ["os._exit(7)", "os.abort()", "os.kill(os.getpid(), 9)"])
def test_a_process_that_dies_says_why(end: str) -> None:
    code = {"os._exit(7)": 7, "os.abort()": -6, "os.kill(os.getpid(), 9)": -9}[end]
    assert stderr_of(f"{BEGIN}    {end}", code) == ["a plain line", NATIVE]


def test_an_exception_passes_and_is_told() -> None:
    told = stderr_of(f'{BEGIN}    raise ValueError("told")', 1)
    assert "a plain line" in told
    assert told[-1] == "ValueError: told"
    assert NATIVE not in told


def test_a_line_without_its_end_is_not_waited_for() -> None:
    code = BEGIN + '    os.write(2, b"half"); import time; time.sleep(0.3); logging.warning(" whole")\n'
    assert stderr_of(code) == ["a plain line", "half whole"]


def test_a_last_line_without_its_end_is_shown() -> None:
    """It comes in one piece with the farewell; what was held back before it is not."""
    assert stderr_of(BEGIN + '    os.write(2, b"[half")\n') == ["a plain line", "[half"]


def test_a_handler_made_meanwhile_writes_into_no_file(tmp_path: Path) -> None:
    """What was stderr in the block goes there later too: no file that is opened next gets its number."""
    code = f"""{BEGIN}    late = logging.StreamHandler()
file = open({str(tmp_path / "next")!r}, "w")
late.stream.write("late"); late.stream.flush()
"""
    assert stderr_of(code) == ["a plain line", "late"]
    assert (tmp_path / "next").read_bytes() == b""


def test_a_reader_that_was_killed_hides_no_error() -> None:
    code = (
        BEGIN
        + """    import subprocess
    subprocess.run(["pkill", "-9", "-P", str(os.getpid()), "-f", "native_lines"], check=True); import time; time.sleep(0.3)
    raise KeyError("the reason")
"""
    )
    assert stderr_of(code, 1)[-1] == "KeyError: 'the reason'"


def test_a_terminal_stays_one() -> None:
    ours, theirs = pty.openpty()
    code = BEGIN + "    print(sys.stderr.isatty(), file=sys.stderr)\n"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=theirs)
    os.close(theirs)
    read: list[bytes] = []

    def drain() -> None:
        try:
            while data := os.read(ours, 1000):
                read.append(data)
        except OSError:  # how the end of a terminal is told
            pass

    thread = threading.Thread(target=drain)
    thread.start()
    assert process.wait(60) == 0
    thread.join()
    os.close(ours)
    assert sorted(b"".join(read).decode().split("\r\n")) == ["", "True", "a plain line"]
