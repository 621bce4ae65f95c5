"""Two drivers in processes of their own, one of them stopped (SIGSTOP) before one of its writes, and woken (SIGCONT) after the
other finished. `make test` stops at one write, `make soak` at each."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.tagging.test_two_runs import first_night, second_night, told

SOAK = "SOAK_KILLS" in os.environ
LIMIT_S = 400
"""A driver takes ten seconds; beside the tests on Ray, and behind them, it may take minutes."""
NUMBERS = range(1, 200) if SOAK else (21,)


def driver(machine: str, repository: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.tagging.driver_of_its_own", *map(str, arguments)]
    environment = {**os.environ, "MACHINE": machine, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=repository, env=environment, stderr=subprocess.PIPE, text=True)


def is_stopped(process: subprocess.Popen[str]) -> bool:
    """Wait until it stops itself; False where it ended before."""
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        return True
    process.returncode = os.waitstatus_to_exitcode(status)
    return False


def test_a_driver_that_slept_changes_nothing(tmp_path: Path, popularity: Path, repository: Path) -> None:
    archive, first, undisturbed = tmp_path / "archive", tmp_path / "first", tmp_path / "undisturbed"
    first_night(archive)
    assert driver("one", repository, archive, first, popularity, 0).wait() == 0
    second_night(archive)
    shutil.copytree(first, undisturbed)
    assert driver("one", repository, archive, undisturbed, popularity, 0).wait() == 0
    expected = told(undisturbed)
    fenced, stopped = 0, 0
    for number in NUMBERS:
        out = tmp_path / f"out-{number}"
        shutil.copytree(first, out)
        sleeper = driver("one", repository, archive, out, popularity, number)
        if not is_stopped(sleeper):
            assert sleeper.returncode == 0
            assert SOAK, f"write {number} never came"
            break
        stopped += 1
        try:
            other = driver("two", repository, archive, out, popularity, 0)
            error = other.communicate(timeout=LIMIT_S)[1]
            assert other.returncode == 0, (number, error)
            assert told(out) == expected, number
        finally:
            sleeper.send_signal(signal.SIGCONT)
        error = sleeper.communicate(timeout=LIMIT_S)[1]
        assert told(out) == expected, number
        assert sleeper.returncode in (0, 1), (number, error)
        fenced += sleeper.returncode == 1
        last = driver("three", repository, archive, out, popularity, 0)
        assert last.wait(LIMIT_S) == 0
        assert told(out) == expected, number
        shutil.rmtree(out)
    assert stopped >= (20 if SOAK else len(list(NUMBERS)))
    assert fenced >= (10 if SOAK else 1), (fenced, stopped)
    print(f"stopped at {stopped} writes, {fenced} of them ended by the fence")
