"""One run at a time, on a local disk and on S3 over HTTP."""

import json
import multiprocessing
import os
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest

from hashtag_core import storage
from hashtag_core.errors import AlreadyExistsError, NotFoundError
from hashtag_core.output.lease import Lease, LeaseHeldError


@pytest.fixture(params=["local", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    root = str(tmp_path) if request.param == "local" else request.getfixturevalue("s3_bucket")
    return storage.join(root, "state", "lease.json")


def leave_behind(uri: str, **changed: object) -> None:
    """The lease of a run that was killed."""
    with Lease(uri, "killed"):
        content = {**storage.read_json(uri), **changed}
    storage.write_json(uri, content)


def test_it_is_given_back(uri: str) -> None:
    for run in ("first", "second"):
        with Lease(uri, run) as lease:
            assert storage.read_json(uri)["run"] == run
            lease.check()
        assert not storage.exists(uri)


def test_a_second_run_stops_and_names_the_first(uri: str) -> None:
    with Lease(uri, "first"):
        with pytest.raises(LeaseHeldError, match=r"run first, host .* process \d+"), Lease(uri, "second"):
            pytest.fail("two runs at once")
        assert storage.read_json(uri)["run"] == "first"


def test_a_dead_process_of_this_machine_is_replaced_at_once(uri: str) -> None:
    gone = multiprocessing.get_context("spawn").Process(target=int)
    gone.start()
    gone.join()
    leave_behind(uri, pid=gone.pid)
    began = time.monotonic()
    with Lease(uri, "second"):
        assert storage.read_json(uri)["run"] == "second"
    assert time.monotonic() - began < 5


def test_a_killed_process_that_nobody_asked_for_is_gone_too(uri: str) -> None:
    killed = subprocess.Popen(["true"])
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)
    leave_behind(uri, pid=killed.pid, began_s=psutil.Process(killed.pid).create_time() - psutil.boot_time())
    with Lease(uri, "second"):
        assert storage.read_json(uri)["run"] == "second"
    killed.wait()


def test_a_run_lives_on_when_the_clock_is_set(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Lease(uri, "first"):
        booted = psutil.boot_time() + 60  # what /proc/stat says once the clock was put forward by a minute
        monkeypatch.setattr("psutil._pslinux.boot_time", lambda: booted)
        with pytest.raises(LeaseHeldError, match="run first"), Lease(uri, "second"):
            pytest.fail("two runs at once")


def test_elsewhere_silence_is_awaited_and_a_heartbeat_stops_the_second(uri: str) -> None:
    leave_behind(uri, machine="another")
    began = time.monotonic()
    with Lease(uri, "second", ttl_s=1.0):
        assert time.monotonic() - began >= 1.0
    leave_behind(uri, machine="another")

    stopped = threading.Event()

    def renew() -> None:
        beat = 100
        while not stopped.wait(0.4):
            beat += 1
            storage.write_json(uri, {**storage.read_json(uri), "beat": beat})

    thread = threading.Thread(target=renew)
    thread.start()
    with pytest.raises(LeaseHeldError, match="run killed"), Lease(uri, "second", ttl_s=20.0):
        pytest.fail("two runs at once")
    stopped.set()
    thread.join()
    assert time.monotonic() - began < 18


def test_a_heartbeat_keeps_it_and_a_takeover_is_noticed(uri: str) -> None:
    with Lease(uri, "first", ttl_s=0.6) as lease:
        beat = storage.read_json(uri)["beat"]
        time.sleep(1)
        assert storage.read_json(uri)["beat"] > beat
        storage.write_json(uri, {"run": "second"})
        time.sleep(0.5)
        with pytest.raises(LeaseHeldError, match="silent for too long"):
            lease.check()
    assert storage.read_json(uri) == {"run": "second"}, "a lease that is another's is not given back"


def test_of_many_that_find_a_dead_one_one_takes_it(uri: str) -> None:
    leave_behind(uri, pid=2**22 + 1)
    inside, most, refused = 0, 0, 0
    lock = threading.Lock()

    def run(number: int) -> None:
        nonlocal inside, most, refused
        try:
            with Lease(uri, f"run {number}"):
                with lock:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.3)
                with lock:
                    inside -= 1
        except LeaseHeldError:
            with lock:
                refused += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert refused >= 1
    assert not storage.exists(uri)


def test_replacing_what_another_wrote_is_refused(uri: str) -> None:
    with pytest.raises(NotFoundError):
        storage.replace_bytes(uri, b"a", b"b") if storage.is_remote(uri) else storage.read_bytes(uri)
    storage.write_bytes(uri, b"a")
    storage.replace_bytes(uri, b"a", b"b")
    with pytest.raises(AlreadyExistsError):
        storage.replace_bytes(uri, b"a", b"c")
    assert storage.read_bytes(uri) == b"b"
    storage.replace_bytes(uri, b"b", None)
    assert not storage.exists(uri)


def test_garbage_is_no_lease_of_the_living(uri: str) -> None:
    storage.write_bytes(uri, b"{")
    with Lease(uri, "second", ttl_s=0.3):
        assert json.loads(storage.read_bytes(uri))["run"] == "second"
