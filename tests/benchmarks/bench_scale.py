"""Whether tagging a larger archive costs more than its posts: memory and time a post, at two sizes. Run by hand:

    .venv/bin/pytest -s -o python_files='bench_*.py' tests/benchmarks/bench_scale.py

Posts without a picture and `popularity`, so that what is measured is the job and not a model: plan, reading, Ray Data, chunk
files, publishing. Each run is the command that a user types, in a process of its own.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashtag_core.schema import POST

from .bench_encoders import WORDS

SMALL, LARGE = (int(size) for size in os.environ.get("BENCH_SCALE", "100000,1000000").split(","))
PART_ROWS = 50_000
NIGHTS, NIGHT_POSTS = 10, 2_000
SAMPLE_S = 0.2


def write_posts(folder: Path, count: int, part_rows: int = PART_ROWS) -> None:
    """Captions of 4 to 20 words, a user of 10,000, a date; parts of `part_rows`."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for first in range(0, count, part_rows):
        rows = range(first, min(count, first + part_rows))
        words = rng.choice(WORDS, (len(rows), 20))
        columns = {
            "post_id": [f"{row:09d}" for row in rows],
            "user_id": [f"user-{user}" for user in rng.integers(0, 10_000, len(rows))],
            "created_at": pa.array(
                [1_700_000_000_000_000 + 1_000_000 * row for row in rows], pa.timestamp("us", "UTC")
            ),
            "caption": [" ".join(line[:n]) for line, n in zip(words, rng.integers(4, 21, len(rows)), strict=True)],
        }
        columns |= {name: pa.nulls(len(rows), POST.field(name).type) for name in POST.names if name not in columns}
        table = pa.table({name: columns[name] for name in POST.names}).cast(POST)
        pq.write_table(table, folder / f"posts-{first:09d}.parquet", row_group_size=10_000)


@dataclass
class Measured:
    seconds: float
    peak_bytes: int
    """Largest sum of the proportional set sizes of the job's processes, Ray's included."""
    summary: dict[str, float]


def run(archive: Path, out: Path, model: Path, repository: Path) -> Measured:
    return run_job(["tag", "--archive", str(archive), "--out", str(out), "--model", str(model)], out, repository)


def run_job(arguments: list[str], out: Path, repository: Path, **variables: str) -> Measured:
    """A job as a user starts it, its log beside `out`; `variables` of the environment beside."""
    command = [sys.executable, f"jobs/{arguments[0]}.py", *arguments[1:]]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"MLFLOW_TRACKING_URI": f"sqlite:///{out.parent}/mlflow.db", **variables}
    began, peak = time.monotonic(), 0
    with (out.parent / f"{out.name}.log").open("wb") as log:
        job = subprocess.Popen(command, cwd=repository, env=environment, stdout=subprocess.PIPE, stderr=log)
        ended = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not ended.wait(SAMPLE_S):
                peak = max(peak, pss(psutil.Process(job.pid)))

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        printed, _ = job.communicate()
        ended.set()
        thread.join()
    assert job.returncode == 0, (out.parent / f"{out.name}.log").read_text()[-3000:]
    return Measured(time.monotonic() - began, peak, json.loads(printed.splitlines()[-1]))


def pss(process: psutil.Process) -> int:
    total = 0
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    for member in family:
        try:
            total += member.memory_full_info().pss
        except psutil.Error:
            continue
    return total


@pytest.mark.slow
def test_scale(make_model_folder: Callable[..., Path], tmp_path: Path, repository: Path) -> None:
    model = make_model_folder(tmp_path / "popularity", family="popularity")
    found = {}
    for size in (SMALL, LARGE):
        write_posts(tmp_path / f"archive {size}", size)
        found[size] = run(tmp_path / f"archive {size}", tmp_path / f"out {size}", model, repository)
        assert found[size].summary["tagged"] == size
        print(
            f"{size:>9,} posts: {found[size].seconds:7.1f} s, "
            f"{found[size].summary['posts_per_second']:7.1f} posts/s, "
            f"peak memory of all processes {found[size].peak_bytes / 2**20:7.0f} MiB",
            flush=True,
        )
    again = run(tmp_path / f"archive {LARGE}", tmp_path / f"out {LARGE}", model, repository)
    print(f"a rerun with nothing to do: {again.seconds:.1f} s, {again.peak_bytes / 2**20:.0f} MiB")
    memory = found[LARGE].peak_bytes / found[SMALL].peak_bytes
    # What a run costs before its first post is in the job's seconds, and is the same for both sizes.
    per_post = (found[LARGE].seconds - found[SMALL].seconds) / (LARGE - SMALL) / (found[SMALL].seconds / SMALL)
    print(f"memory {memory:.2f} x, time of a further post {per_post:.2f} x that of one of the first {SMALL:,}")
    assert again.summary["parts"] == 0
    if LARGE >= 1_000_000:
        assert memory <= 1.15
        assert per_post <= 1.10
        assert again.seconds <= 10


@pytest.mark.slow
def test_ten_nights(make_model_folder: Callable[..., Path], tmp_path: Path, repository: Path) -> None:
    """An archive to which one part in a hundred is added each night: what a night costs, and whether it grows."""
    model = make_model_folder(tmp_path / "popularity", family="popularity")
    archive, out = tmp_path / "archive", tmp_path / "out"
    write_posts(archive, NIGHT_POSTS * (100 + NIGHTS), NIGHT_POSTS)
    waiting = sorted(archive.iterdir())[100:]
    (tmp_path / "waiting").mkdir()
    for part in waiting:
        part.rename(tmp_path / "waiting" / part.name)
    nights = [run(archive, out, model, repository)]
    for part in waiting:
        (tmp_path / "waiting" / part.name).rename(archive / part.name)
        nights.append(run(archive, out, model, repository))
        assert nights[-1].summary["parts"] == 1
        print(f"night {len(nights)}: {nights[-1].seconds:.1f} s, {nights[-1].peak_bytes / 2**20:.0f} MiB", flush=True)
    print(f"the last night takes {nights[-1].seconds / nights[1].seconds:.2f} x the second")
    assert nights[-1].seconds <= 1.2 * nights[1].seconds
