"""The cost model of docs/scaling.md held against runs of archives that it was not fitted to. Run by hand, on a quiet machine:

    .venv/bin/pytest -s -o python_files='bench_*.py' tests/benchmarks/bench_cost_model.py

Fitted: two runs over captions alone (start, carrying), and decoding and the forward pass, each alone, on drawn posts. Told and then
measured: openclipart, tagged by `linear` with pictures, and tweets, tagged by `popularity`. Writes BENCH_JSON (default:
docs/benchmarks/cost_model.json).
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from . import bench_scale, bench_tagging, scaling

FITTED = (20_000, 300_000)
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
CHECKED = {"openclipart": ("pictures", "linear"), "tweets": ("text", "popularity")}
WITHIN = 0.2


def measure(archive: Path, out: Path, model: Path, repository: Path) -> tuple[float, int]:
    """Median seconds of the whole job, and its posts."""
    runs = [bench_scale.run(archive, out.with_name(f"{out.name} {n}"), model, repository) for n in range(ROUNDS)]
    return statistics.median(run.seconds for run in runs), int(runs[0].summary["posts"])


def rate(way: str, archive: Path, model: Path, repository: Path) -> float:
    """Posts a second of one half of the work, on all cores."""
    command = [sys.executable, "tests/benchmarks/tagging_ways.py", way, archive, "-", model]
    done = subprocess.run(list(map(str, command)), cwd=repository, capture_output=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["posts_per_second"])


@pytest.mark.slow
def test_it_tells_runs_of_other_archives(
    make_model_folder: Callable[..., Path],
    make_jpeg: Callable[..., bytes],
    shared_data: Callable[[str], Path],
    tmp_path: Path,
    repository: Path,
) -> None:
    archives = {name: shared_data(name) for name in CHECKED}
    models = {name: make_model_folder(tmp_path / name, family=name, tags=400) for name in ("popularity", "linear")}
    cpus = os.cpu_count() or 1
    runs: list[dict[str, Any]] = []
    for posts in FITTED:
        bench_scale.write_posts(tmp_path / f"{posts} posts", posts)
        seconds, _ = measure(tmp_path / f"{posts} posts", tmp_path / f"out {posts}", models["popularity"], repository)
        runs.append({"case": "text", "posts": posts, "seconds": round(seconds, 1), "cpus": cpus})
    bench_tagging.write_posts(tmp_path / "pictures", make_jpeg, 1_024)
    rates = {
        way: {"posts_per_second": rate(way, tmp_path / "pictures", models["linear"], repository), "cpus": cpus}
        for way in ("decode", "forward")
    }
    cost = scaling.fit({"runs": runs, "rates": rates})
    print(f"\nfitted to {runs} and {rates}: {cost}", flush=True)
    checks = []
    for name, (case, family) in CHECKED.items():
        seconds, posts = measure(archives[name], tmp_path / f"out {name}", models[family], repository)
        told = cost.seconds(case, posts, cpus)
        checks.append({"archive": name, "posts": posts, "told_s": round(told, 1), "measured_s": round(seconds, 1)})
        print(
            f"{name}: {posts} posts, told {told:.1f} s, measured {seconds:.1f} s, {told / seconds - 1:+.0%}", flush=True
        )
    found = {"machine": bench_tagging.machine(), "rounds": ROUNDS, "runs": runs, "rates": rates, "checks": checks}
    file = Path(os.environ.get("BENCH_JSON", repository / "docs" / "benchmarks" / "cost_model.json"))
    file.write_text(json.dumps(found, indent=1) + "\n")
    assert [check for check in checks if abs(check["told_s"] / check["measured_s"] - 1) > WITHIN] == []
