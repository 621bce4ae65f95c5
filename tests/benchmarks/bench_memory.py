"""What `prepare` of many posts and `evaluate` over many judged posts hold in memory, each as a user starts it. Run by hand:

    .venv/bin/pytest -s -o python_files='bench_*.py' tests/benchmarks/bench_memory.py

The contract: 10,000,000 posts that have an id and a tag are prepared within 4 GiB, 1,000,000 are judged within 2 GiB. Memory is the
largest sum of the proportional set sizes of a job's processes, Ray's included.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashtag_core.schema import POST

from .bench_scale import run_job

PREPARED = int(os.environ.get("BENCH_PREPARED", "10000000"))
JUDGED = int(os.environ.get("BENCH_JUDGED", "1000000"))
PART_ROWS = 100_000
TAGS, USERS = 5_000, 50_000


def write_ids(folder: Path, count: int, *, has_users: bool) -> None:
    """Posts of an id, one to three tags of 5,000 (few of them frequent) and, where asked for, one of 50,000 users."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = np.array([f"tag{number:03d}" for number in range(TAGS)])
    for first in range(0, count, PART_ROWS):
        rows = range(first, min(count, first + PART_ROWS))
        drawn = names[(TAGS * rng.random((len(rows), 3)) ** 3).astype(int)]
        columns = {
            "post_id": [f"{row:09d}" for row in rows],
            "hashtags": [line[:n].tolist() for line, n in zip(drawn, rng.integers(1, 4, len(rows)), strict=True)],
        }
        if has_users:
            columns["user_id"] = [f"user-{user}" for user in rng.integers(0, USERS, len(rows))]
        columns |= {name: pa.nulls(len(rows), POST.field(name).type) for name in POST.names if name not in columns}
        pq.write_table(
            pa.table({name: columns[name] for name in POST.names}).cast(POST), folder / f"{first:09d}.parquet"
        )


@pytest.mark.slow
def test_prepare_of_many_ids(tmp_path: Path, repository: Path) -> None:
    archive, dataset = tmp_path / "archive", tmp_path / "dataset"
    write_ids(archive, PREPARED, has_users=False)
    found = run_job(["prepare", "--archive", str(archive), "--dataset", str(dataset)], dataset, repository)
    print(f"prepare of {PREPARED:,} ids: {found.seconds:.0f} s, {found.peak_bytes / 2**20:.0f} MiB", flush=True)
    assert found.peak_bytes <= 4 << 30


@pytest.mark.slow
def test_evaluate_of_many_posts(make_model_folder: Callable[..., Path], tmp_path: Path, repository: Path) -> None:
    archive, dataset, report = tmp_path / "archive", tmp_path / "dataset", tmp_path / "report"
    write_ids(archive, JUDGED * 21 // 20, has_users=True)
    shares = ["--set", "split.test=0.95", "--set", "split.validation=0.02"]
    run_job(["prepare", "--archive", str(archive), "--dataset", str(dataset), *shares], dataset, repository)
    model = make_model_folder(tmp_path / "popularity", family="popularity", tags=TAGS)
    command = ["evaluate", "--dataset", str(dataset), "--model", str(model), "--report", str(report)]
    found = run_job(command, report, repository)
    print(f"evaluate over some {JUDGED:,} posts: {found.seconds:.0f} s, {found.peak_bytes / 2**20:.0f} MiB", flush=True)
    assert found.peak_bytes <= 2 << 30
