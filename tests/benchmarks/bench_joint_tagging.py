"""Three models in one run of the tagging job beside one model, and beside three runs. Run by hand, on a quiet machine:

    BENCH_POSTS=5000 .venv/bin/pytest -s -o python_files='bench_*.py' tests/benchmarks/bench_joint_tagging.py

`linear` reads the pooled vectors of both default encoders, `amnn` the picture's vector and the states of the caption's tokens (its search for
tags costs a third of the encoders), `regression_kriging` the vectors. Each run is a process of its own, its start included; they take turns. Prints the ratios with their
spread and keeps the figures in BENCH_JSON (default: docs/benchmarks/joint_tagging.json).
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hashtag_core.config import Recipe
from hashtag_core.data.vocabulary import Vocabulary
from hashtag_core.encoders import load_encoders
from hashtag_core.models import InputSpec, create_model, family, parse_options
from hashtag_core.models.folder import save_model_folder

from .bench_tagging import JUDGED_FROM, POSTS, ROUNDS, TAGS, machine, ranked, write_posts

FAMILIES: dict[str, dict[str, Any]] = {
    "linear": {},
    "amnn": {"text_input": "encoder"},
    "regression_kriging": {"inputs": ["image", "caption"], "parts": []},
}
MOST_TIMES = 1.3
"""What three models may take of the time of `linear` alone, on two cores."""


def make_model(folder: Path, name: str) -> Path:
    """Random weights on the default encoders."""
    recipe, options = Recipe(), parse_options(name, FAMILIES[name])
    encoders = load_encoders(recipe.encoders, family(name).needs(options))
    torch.manual_seed(0)
    model = create_model(
        name, InputSpec(TAGS, image_dim=encoders.image_dim, text_dim=encoders.text_dim, regions=36), options
    )
    for value in model.buffers():
        if value.numel() > 2 and value.is_floating_point():
            value.copy_(torch.rand(value.shape) - 0.5 if value.ndim > 1 else torch.rand(value.shape) * 0.1)
    info = {
        "name": name,
        "recipe": recipe.model_dump(mode="json"),
        "encoders": encoders.identity,
        "captions": recipe.captions.model_dump(mode="json"),
    }
    vocabulary = Vocabulary([f"tag{n:03d}" for n in range(TAGS)], np.arange(TAGS, 0, -1), posts=TAGS)
    save_model_folder(folder, model, options, vocabulary, None, info)
    return folder


def run(archive: Path, out: Path, models: Sequence[Path], repository: Path) -> tuple[float, dict[str, Any]]:
    """Seconds from start to end of the process, and its summary."""
    flags: list[Any] = ["--archive", archive, "--out", out, "--top-k", 10]
    flags += [part for model in models for part in ("--model", model)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{archive.parent}/mlflow.db"
    command = [sys.executable, "jobs/tag.py", *(str(flag) for flag in flags)]
    began = time.monotonic()
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return time.monotonic() - began, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_three_models_and_one(make_jpeg: Callable[..., bytes], tmp_path: Path, repository: Path) -> None:
    archive = tmp_path / "archive"
    write_posts(archive, make_jpeg)
    models = {name: make_model(tmp_path / name, name) for name in FAMILIES}
    seconds: dict[str, list[float]] = {name: [] for name in ("three", *FAMILIES)}
    for turn in range(ROUNDS):
        for way, all_seconds in seconds.items():
            picked = list(models.values()) if way == "three" else [models[way]]
            took, summary = run(archive, tmp_path / f"{way} {turn}", picked, repository)
            assert summary["tagged"] == POSTS * len(picked)
            all_seconds.append(took)
            print(f"{way}: {took:.1f} s", flush=True)
    for name in FAMILIES:
        assert ranked(tmp_path / "three 0" / f"model={name}") == ranked(tmp_path / f"{name} 0"), name
    times = {
        name: [three / one for three, one in zip(seconds["three"], seconds[name], strict=True)] for name in FAMILIES
    }
    in_turn = [three / sum(each) for three, *each in zip(*seconds.values(), strict=True)]
    found = {
        "posts": POSTS,
        "rounds": ROUNDS,
        "machine": machine(),
        "seconds": {way: [round(value, 2) for value in values] for way, values in seconds.items()},
        "three_is_times": {name: round(statistics.median(values), 3) for name, values in times.items()},
        "three_is_times_of_three_runs": round(statistics.median(in_turn), 3),
    }
    file = Path(os.environ.get("BENCH_JSON", repository / "docs" / "benchmarks" / "joint_tagging.json"))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1) + "\n")
    print(f"\n{POSTS} posts, medians of {ROUNDS}, start included")
    for name, values in times.items():
        print(f"three models are {statistics.median(values):.2f} x {name} ({min(values):.2f} to {max(values):.2f})")
    print(f"and {found['three_is_times_of_three_runs']:.2f} x three runs one after the other")
    if POSTS >= JUDGED_FROM:
        assert statistics.median(times["linear"]) <= MOST_TIMES
