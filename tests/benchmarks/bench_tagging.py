"""The tagging job beside what a user writes in an afternoon, and beside its own limits. Run by hand, on a quiet machine:

    BENCH_POSTS=5000 .venv/bin/pytest -s -o python_files='bench_*.py' tests/benchmarks/bench_tagging.py

Every way of `tagging_ways.py`, and the job, is a process of its own from Parquet to Parquet, its start included; they take turns, so
that a noisy machine is noisy for all, and the median counts. Ways whose package is not installed are left out (Daft wants other
versions than the lock: BENCH_DAFT_PYTHON names an interpreter that has it and the runtime lock's packages beside it). Prints ratios
with their spread and keeps the figures in BENCH_JSON (default: docs/benchmarks/tagging.json).
"""

import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from .bench_encoders import WORDS
from .bench_scale import pss

POSTS = int(os.environ.get("BENCH_POSTS", "5000"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
TIMED = os.environ.get("BENCH_WAYS", "loop,huggingface,daft,ray_data,one_process,job").split(",")
DAFT_PYTHON = os.environ.get("BENCH_DAFT_PYTHON", sys.executable)
JUDGED_FROM = 4_000
"""Posts below which the start is most of the job's time, and no ratio is held to its bound."""
TAGS = 400
PACKAGES = ("ray", "torch", "onnxruntime", "transformers", "pyarrow", "datasets", "daft")
BOUNDS = {"loop": 6.0, "huggingface": 5.0, "daft": 5.0, "ray_data": 5.0, "one_process": 0.95}
"""What the job is to be of each, at the least, on two cores."""


def write_posts(folder: Path, make_jpeg: Callable[..., bytes], posts: int = POSTS) -> None:
    """Pictures of 256 px, each another, and captions of 4 to 40 words."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    schema = pa.schema({"post_id": pa.string(), "caption": pa.string(), "image": pa.binary()})
    with pq.ParquetWriter(folder / "posts.parquet", schema) as writer:
        for start in range(0, posts, 512):
            rows = range(start, min(posts, start + 512))
            columns = {
                "post_id": [f"{row:08d}" for row in rows],
                "caption": [" ".join(rng.choice(WORDS, rng.integers(4, 41))) for _ in rows],
                "image": [make_jpeg(row, 256, 192, quality=85) for row in rows],
            }
            writer.write_table(pa.table(columns, schema=schema))


def installed(way: str) -> bool:
    if way == "huggingface":
        return importlib.util.find_spec("datasets") is not None
    if way == "daft":
        return subprocess.run([DAFT_PYTHON, "-c", "import daft"], capture_output=True, check=False).returncode == 0
    return True


def run(way: str, archive: Path, out: Path, model: Path, repository: Path) -> tuple[float, int, dict[str, Any]]:
    """Seconds from start to end of the process, the peak of memory of it and its children, what it printed."""
    if way == "job":
        flags = ["--archive", archive, "--out", out, "--model", model, "--top-k", 10]
        command: list[Any] = [sys.executable, "jobs/tag.py", *flags]
    else:
        python = DAFT_PYTHON if way == "daft" else sys.executable
        command = [python, "tests/benchmarks/tagging_ways.py", way, archive, out, model]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{archive.parent}/mlflow.db"
    began, peak, ended = time.monotonic(), 0, threading.Event()
    with (archive.parent / f"{out.name}.log").open("wb") as log:
        process = subprocess.Popen(
            [str(part) for part in command], cwd=repository, env=environment, stdout=subprocess.PIPE, stderr=log
        )

        def watch() -> None:
            nonlocal peak
            while not ended.wait(0.5):
                peak = max(peak, pss(psutil.Process(process.pid)))

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        printed, _ = process.communicate()
        ended.set()
        thread.join()
    seconds = time.monotonic() - began
    assert process.returncode == 0, (archive.parent / f"{out.name}.log").read_text()[-3000:]
    return seconds, peak, json.loads(printed.splitlines()[-1])


def ranked(out: Path) -> dict[str, list[str]]:
    files = [str(path) for path in out.rglob("*.parquet") if not {"_state", "_rejected"} & set(path.parts)]
    table = ds.dataset(files, partitioning=None).to_table(["post_id", "hashtags"])
    tags = [value.split("\n") if isinstance(value, str) else value for value in table["hashtags"].to_pylist()]
    return dict(zip(table["post_id"].to_pylist(), tags, strict=True))


def agreement(one: dict[str, list[str]], other: dict[str, list[str]]) -> tuple[float, float]:
    """Mean share of the top 10 that is in both, share of posts with the same first."""
    assert one.keys() == other.keys()
    overlap = np.mean([len(set(tags) & set(other[post])) / len(tags) for post, tags in one.items()])
    return float(overlap), float(np.mean([tags[0] == other[post][0] for post, tags in one.items()]))


def machine() -> dict[str, Any]:
    cpu = next((x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), "")
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": cpu.partition(": ")[2],
        "cpus": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
        "packages": versions,
    }


@pytest.mark.slow
def test_tagging_speed(
    make_model_folder: Callable[..., Path], make_jpeg: Callable[..., bytes], tmp_path: Path, repository: Path
) -> None:
    archive, model = tmp_path / "archive", make_model_folder(tmp_path / "linear", family="linear", tags=TAGS)
    write_posts(archive, make_jpeg)
    ways = [way for way in TIMED if installed(way)]
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    peaks = dict.fromkeys(ways, 0)
    load = []
    for turn in range(ROUNDS):
        for way in ways:
            load.append(os.getloadavg()[0])
            took, peak, _ = run(way, archive, tmp_path / f"{way} {turn}", model, repository)
            seconds[way].append(took)
            peaks[way] = max(peaks[way], peak)
            print(f"{way}: {took:.1f} s, {POSTS / took:.1f} posts/s, {peak / 2**30:.2f} GiB", flush=True)
    limits = {way: run(way, archive, tmp_path / way, model, repository)[2] for way in ("decode", "forward")}

    reference = ranked(tmp_path / f"{ways[0]} 0")
    results: dict[str, Any] = {}
    for way in ways:
        ratios = [other / own for other, own in zip(seconds[way], seconds["job"], strict=True)]
        overlap, first = agreement(reference, ranked(tmp_path / f"{way} 0"))
        results[way] = {
            "seconds": [round(value, 2) for value in seconds[way]],
            "posts_per_second": round(POSTS / statistics.median(seconds[way]), 1),
            "job_is_times": round(statistics.median(ratios), 2),
            "job_is_times_range": [round(min(ratios), 2), round(max(ratios), 2)],
            "peak_bytes": peaks[way],
            "top_10_overlap": round(overlap, 4),
            "first_equal": round(first, 4),
        }
    found = {
        "posts": POSTS,
        "rounds": ROUNDS,
        "left_out": sorted(set(TIMED) - set(ways)),
        "load_at_start_of_runs": [round(min(load), 2), round(max(load), 2)],
        "machine": machine(),
        "ways": results,
        "limits": limits,
    }
    file = Path(os.environ.get("BENCH_JSON", repository / "docs" / "benchmarks" / "tagging.json"))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1) + "\n")

    print(f"\n{POSTS} posts, medians of {ROUNDS}, start included; forward by {limits['forward'].pop('backends')}")
    for way, row in results.items():
        low, high = row["job_is_times_range"]
        times = f"the job is {row['job_is_times']:.2f} x ({low:.2f} to {high:.2f})"
        print(
            f"{way:12}{row['posts_per_second']:>8.1f} posts/s  {times}  {row['peak_bytes'] / 2**30:.2f} GiB  "
            f"top-10 overlap {row['top_10_overlap']:.4f}, first equal {row['first_equal']:.4f}"
        )
    for way, row in limits.items():
        print(f"{way} alone: {row['posts_per_second']:.1f} posts/s")
    if POSTS >= JUDGED_FROM:
        assert results["job"]["top_10_overlap"] >= 0.995
        assert results["job"]["first_equal"] >= 0.99
        assert results["job"]["peak_bytes"] <= 3.5 * 2**30
        short = {way: results[way]["job_is_times"] for way in ways if results[way]["job_is_times"] < BOUNDS.get(way, 0)}
        assert short == {}, "slower than it is to be"
