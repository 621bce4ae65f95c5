"""How long a person waits for an answer: the first hashtags of a picture, and the help of every command. Run by hand, on a machine
that does nothing else:

    .venv/bin/pytest -s -o python_files='bench_*.py' tests/benchmarks/bench_recommend.py
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.cli import COMMANDS

TIMES = 5
ANSWER_S, HELP_S = 4.0, 1.0
"""What is asked for on two cores."""


def hashtags(folder: Path, repository: Path, *arguments: str) -> float:
    """Seconds that a command takes; stops where it fails."""
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        environment.pop(name, None)
    began = time.monotonic()
    command = [sys.executable, "-m", "jobs.cli", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return time.monotonic() - began


@pytest.fixture(scope="module")
def champion(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the sample's `linear` is champion, with a photo."""
    folder = tmp_path_factory.mktemp("champion")
    hashtags(folder, repository, "prepare", "--archive", str(repository / "jobs" / "sample"), "--dataset", "dataset")
    hashtags(folder, repository, "train", "--recipe", "linear", "--dataset", "dataset")
    model = "models:/hashtag-recommender/1"
    hashtags(folder, repository, "promote", "--dataset", "dataset", "--challenger", model, "--force", "benchmark")
    images = pq.read_table(repository / "jobs" / "sample" / "posts-0000.parquet", columns=["image"])["image"]
    (folder / "photo.jpg").write_bytes(next(image for image in images.to_pylist() if image))
    return folder


def test_an_answer(champion: Path, repository: Path) -> None:
    took = [hashtags(champion, repository, "recommend", "photo.jpg", "--caption", "a bird") for _ in range(TIMES)]
    print(f"\nrecommend photo.jpg: median {statistics.median(took):.1f} s, {min(took):.1f} to {max(took):.1f} s")
    assert statistics.median(took) <= ANSWER_S


def test_the_help_of_every_command(champion: Path, repository: Path) -> None:
    for name in COMMANDS:
        took = statistics.median(hashtags(champion, repository, name, "--help") for _ in range(TIMES))
        print(f"{name} --help: median {took:.2f} s")
        assert took <= HELP_S, name
