"""Faults of the machine, caused for real: a stall, a full disk, an actor out of memory, a node that is lost."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from ray.cluster_utils import Cluster

from hashtag_core.config import Recipe
from hashtag_core.distributed import tag_actors
from hashtag_core.distributed.tag import tag
from hashtag_core.errors import HashtagError, StorageError
from hashtag_core.output.verify import verify_output
from hashtag_core.tagging.actor_pool import ActorPool
from hashtag_core.tagging.planned_work import TagPlan
from tests.tagging.outputs import plan_for, rows_by_glob, rows_by_table

IS_SOAK = "SOAK_KILLS" in os.environ

RECIPE = Recipe.model_validate({"tagging": {"chunk_rows": 8, "chunks_per_task": 2, "actors": 1}})


def job_for(archive: Path, out: Path, model: Path) -> TagPlan:
    return plan_for(archive, out, model, RECIPE)


def wait_for_chunks(out: Path, count: int = 1) -> None:
    deadline = time.monotonic() + 120
    while len(list((out / "_state").rglob("chunks/*/*.parquet"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def actors_of(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children(recursive=True) if "_Actor" in " ".join(child.cmdline())]


def test_a_stall_is_noticed_and_said(
    ray_session: None,
    popularity: Path,
    tmp_path: Path,
    make_posts: Callable,
    write_archive: Callable,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The one actor is stopped as by a machine that swaps, and goes on after the warning."""
    assert tag_actors.STALL_WARNING_S <= 120
    monkeypatch.setattr(tag_actors, "STALL_WARNING_S", 3)
    archive, out = write_archive(tmp_path / "archive", make_posts(240), parts=2), tmp_path / "out"

    def told() -> list[str]:
        return [text for text in (item.getMessage() for item in caplog.records) if "nothing came back" in text]

    def stop() -> None:
        wait_for_chunks(out)
        before = len(told())  # of the actor's start
        for actor in actors_of(psutil.Process()):
            actor.send_signal(signal.SIGSTOP)
            while len(told()) == before:
                time.sleep(0.1)
            actor.send_signal(signal.SIGCONT)

    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    with caplog.at_level(logging.WARNING):
        summary = tag(job_for(archive, out, popularity))
    thread.join(10)
    assert summary.tagged == 240
    assert "1 of 1 node(s) alive, 1.5 of 2 CPUs free; after 600 s without progress the run ends" in told()[-1]


@pytest.mark.slow
@pytest.mark.skipif(not IS_SOAK, reason="takes most of a minute: make soak")
def test_a_stall_that_lasts_ends_the_run_and_a_rerun_goes_on(
    ray_session: None,
    popularity: Path,
    tmp_path: Path,
    make_posts: Callable,
    write_archive: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    archive, out = write_archive(tmp_path / "archive", make_posts(240), parts=2), tmp_path / "out"
    stopped: list[psutil.Process] = []

    def stop() -> None:
        wait_for_chunks(out)
        stopped.extend(actors_of(psutil.Process()))
        for actor in stopped:
            actor.send_signal(signal.SIGSTOP)

    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    with monkeypatch.context() as patch:
        patch.setattr(tag_actors, "cluster_pool", lambda section: ActorPool(1, end_s=30))
        try:
            with pytest.raises(HashtagError, match="Ray did nothing for 30 s, run again to go on"):
                tag(job_for(archive, out, popularity))
        finally:
            thread.join(10)
            for actor in stopped:
                with suppress(psutil.Error):
                    actor.kill()
    (record,) = (json.loads(path.read_text()) for path in (out / "_state" / "runs").iterdir())
    assert record["status"] == "failed"
    assert record["tagged"] < 240
    tag(job_for(archive, out, popularity))
    assert verify_output(str(out), str(archive)).problems == []
    assert len(rows_by_glob(out)) == 240


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for 256 KiB; `mount -o remount,size=...` gives it more."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_fails_the_run_and_a_rerun_goes_on(
    inline: None, popularity: Path, small_disk: Path, tmp_path: Path, make_posts: Callable, write_archive: Callable
) -> None:
    archive, out = write_archive(tmp_path / "archive", make_posts(800), parts=2), small_disk / "out"
    with pytest.raises(StorageError, match="No space left on device"):
        tag(job_for(archive, out, popularity))
    held = len(list((out / "_state").rglob("chunks/*/*.parquet")))
    assert held > 5
    assert not list(out.rglob("*.tmp"))
    assert rows_by_glob(out) == rows_by_table(out) == []
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    summary = tag(job_for(archive, out, popularity))
    assert summary.parts + summary.skipped_parts == 2
    assert verify_output(str(out), str(archive)).problems == []
    assert len(rows_by_glob(out)) == 800


OUT_OF_MEMORY = """
import os, time
import PIL.Image
_open = PIL.Image.open
def open(file, *arguments, **options):
    if b"takes all memory" in file.getvalue() and not os.path.exists(os.environ["TAKEN"]):
        with __builtins__["open"](os.environ["TAKEN"], "w"):
            taken = b"x" * int(os.environ["TAKES"])
        time.sleep(30)
    return _open(file, *arguments, **options)
PIL.Image.open = open
"""
"""A `sitecustomize`: one picture takes gigabytes the first time it is opened."""


@pytest.mark.slow
@pytest.mark.skipif(not IS_SOAK, reason="takes gigabytes: make soak")
def test_an_actor_out_of_memory_costs_nothing(
    popularity: Path, tmp_path: Path, make_posts: Callable, make_jpeg: Callable, write_part: Callable, repository: Path
) -> None:
    """Ray's monitor kills the process that takes too much; another actor does what is left."""
    posts = make_posts(64)
    posts[20]["image"] = make_jpeg(20) + b"takes all memory"
    write_part(tmp_path / "archive" / "a.parquet", posts)
    (tmp_path / "patched").mkdir()
    (tmp_path / "patched" / "sitecustomize.py").write_text(OUT_OF_MEMORY)
    memory, takes = psutil.virtual_memory(), 4 << 30
    if memory.available < 2 * takes:
        pytest.skip("needs 8 GiB of free memory")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
        "PYTHONPATH": str(tmp_path / "patched"),
        "TAKEN": str(tmp_path / "taken"),
        "TAKES": str(takes),
        "RAY_memory_usage_threshold": str((memory.total - memory.available + takes * 3 // 4) / memory.total),
    }
    command = [sys.executable, "jobs/tag.py", "--archive", str(tmp_path / "archive"), "--out", str(tmp_path / "out")]
    command += ["--model", str(popularity), "--chunk-rows", "8", "--set", "tagging.actors=1", "--verbose"]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "taken").exists()
    assert json.loads(done.stdout.splitlines()[-1])["tagged"] == 64
    assert re.search("memory pressure|actor was restarted|actor died", done.stderr), done.stderr
    assert verify_output(str(tmp_path / "out"), str(tmp_path / "archive")).problems == []


@pytest.mark.slow
@pytest.mark.skipif(not IS_SOAK, reason="starts a cluster of two nodes: make soak")
def test_a_lost_node_costs_nothing(
    popularity: Path, tmp_path: Path, make_posts: Callable, write_archive: Callable, repository: Path
) -> None:
    archive, out = write_archive(tmp_path / "archive", make_posts(2_000), parts=4), tmp_path / "out"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 200_000_000})
    try:
        lost = cluster.add_node(num_cpus=1, object_store_memory=200_000_000)
        cluster.wait_for_nodes()
        command = [sys.executable, "jobs/tag.py", "--archive", str(archive), "--out", str(out)]
        command += ["--model", str(popularity), "--chunk-rows", "8"]
        run = subprocess.Popen(
            command,
            cwd=repository,
            env=os.environ | {"RAY_ADDRESS": cluster.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for_chunks(out, 4)
        cluster.remove_node(lost, allow_graceful=False)
        printed, told = run.communicate(timeout=300)
    finally:
        cluster.shutdown()
    assert run.returncode == 0, told[-3000:]
    assert json.loads(printed.splitlines()[-1])["tagged"] == 2_000
    assert verify_output(str(out), str(archive)).problems == []


@pytest.mark.slow
@pytest.mark.skipif(not IS_SOAK, reason="waits for Ray's half minute: make soak")
def test_a_ray_that_does_not_start_in_time_is_started_again(repository: Path, tmp_path: Path) -> None:
    """Its first raylet is stopped before it can say that it is there."""
    code = "from hashtag_core.distributed.session import connect\nwith connect(num_cpus=1): print('there')"
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen([sys.executable, "-c", code], cwd=repository, stdout=subprocess.PIPE, stderr=log)
    found: list[psutil.Process] = []
    while not found:
        assert driver.poll() is None, (tmp_path / "log").read_text()
        found = [child for child in psutil.Process(driver.pid).children() if "raylet" in child.name()]
    found[0].send_signal(signal.SIGSTOP)
    printed, _ = driver.communicate(timeout=240)
    found[0].kill()
    told = (tmp_path / "log").read_text()
    assert driver.returncode == 0, told
    assert printed.decode().strip().endswith("there")
    assert "Ray did not start in time, trying again" in told
