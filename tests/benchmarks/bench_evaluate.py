"""`evaluate` on a cluster of one worker and of two, as a user starts it: the driver is on a head without CPUs. Run by hand:

    .venv/bin/pytest -s -o python_files='bench_*.py' tests/benchmarks/bench_evaluate.py

Each worker is a raylet of one CPU on this machine, so that there must be a core for each, and one for the driver beside. What is
compared is the time from the first task to the last list; memory is the driver's. The model is `user_frequency`, which reads histories and
encodes nothing: what takes the time is judging.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashtag_core import storage
from hashtag_core.schema import POST
from tests.distributed.test_train_nodes import Raylets

from .bench_scale import run_job

POSTS = int(os.environ.get("BENCH_EVALUATED", "450000"))
PART_ROWS = 50_000
LEAST_GAIN = 1.6
"""Of two workers over one; less than 2 by the driver's own part and what two processes of one machine take from each other."""


@pytest.fixture
def raylets() -> Iterator[Raylets]:
    folder = Path("/tmp", f"be{os.getpid()}")
    folder.mkdir()
    found = Raylets(folder)
    yield found
    assert found.process.stdin is not None
    found.process.stdin.close()
    found.process.wait(60)
    shutil.rmtree(folder, ignore_errors=True)


def write_posts(folder: Path) -> None:
    """Captions that differ: a split takes each but once."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for first in range(0, POSTS * 11 // 10, PART_ROWS):
        rows = range(first, first + PART_ROWS)
        columns = {
            "post_id": [f"{row:09d}" for row in rows],
            "user_id": [f"u{user}" for user in rng.integers(0, 5000, PART_ROWS)],
            "caption": [f"a caption about matter {row}" for row in rows],
            "hashtags": [[f"tag{n:03d}"] for n in rng.integers(0, 40, PART_ROWS)],
        }
        columns |= {name: pa.nulls(PART_ROWS, POST.field(name).type) for name in POST.names if name not in columns}
        table = pa.table({name: columns[name] for name in POST.names}).cast(POST)
        pq.write_table(table, folder / f"{first:09d}.parquet")


@pytest.mark.slow
def test_two_workers_judge_faster_than_one(
    raylets: Raylets, make_model_folder: Callable[..., Path], tmp_path: Path, repository: Path
) -> None:
    archive, dataset, model = tmp_path / "archive", tmp_path / "dataset", tmp_path / "user_frequency"
    write_posts(archive)
    make_model_folder(model, family="user_frequency")
    raylets.tell("add 1")
    cluster = {"RAY_ADDRESS": raylets.address, "RAY_AUTH_MODE": "disabled"}
    shares = ["--set", "split.test=0.9", "--set", "split.validation=0.02"]
    run_job(["prepare", "--archive", str(archive), "--dataset", str(dataset), *shares], dataset, repository, **cluster)
    settings = ["--set", "evaluation.bootstrap_samples=0", "--set", "evaluation.gallery_posts=0"]
    seconds: dict[str, float] = {}
    for workers in ("warm-up", "1 worker", "2 workers"):
        if workers == "2 workers":
            raylets.tell("add 1")
        report = tmp_path / workers.replace(" ", "-")
        command = ["evaluate", "--dataset", str(dataset), "--model", str(model), "--report", str(report)]
        found = run_job([*command, *settings], report, repository, **cluster)
        (row,) = storage.read_json(str(report / "leaderboard.json"))["models"]
        seconds[workers] = row["seconds"]
        told = f"{row['seconds']:.1f} s of {found.seconds:.1f}, the driver held {found.peak_bytes / 2**20:.0f} MiB"
        print(f"evaluate over {row['metrics']['posts']:,} posts, {workers}: {told}", flush=True)
    gain = seconds["1 worker"] / seconds["2 workers"]
    print(f"2 workers over 1: {gain:.2f}, on {os.cpu_count()} cores", flush=True)
    if (os.cpu_count() or 1) > 2:  # else the driver has no core of its own, and each worker waits for it
        assert gain >= LEAST_GAIN
