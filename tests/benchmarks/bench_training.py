"""What Ray Train, the feature cache and MLflow cost a training, beside a plain loop. Run by hand:

    .venv/bin/pytest -s -o python_files='bench_*.py' tests/benchmarks/bench_training.py

Each run is the command that a user types, in a process of its own. Written to `docs/benchmarks/training.json`; what else the machine did
meanwhile is in it as its load before each run, less the run's own.
"""

import json
import os
import pickle
import platform
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from hashtag_core.config import Recipe, read_recipe
from hashtag_core.data.images import decode_image
from hashtag_core.distributed.features import ensure_features
from hashtag_core.distributed.prepare import prepare
from hashtag_core.distributed.session import connect
from hashtag_core.distributed.train import make_job
from hashtag_core.encoders import load_encoders
from hashtag_core.preparation.plan import plan_prepare
from hashtag_core.tracking import runs
from hashtag_core.training.plan import plan_training

POSTS = int(os.environ.get("BENCH_TRAINING_POSTS", "2000"))
EPOCHS, SHORT_EPOCHS = 21, 6
FAMILY = "amnn_small"
ENCODED = 128
ROUNDS = int(os.environ.get("BENCH_TRAINING_ROUNDS", "2"))
PLAIN = Path(__file__).with_name("plain_training.py")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, make_posts, write_archive) -> dict[str, Any]:  # type: ignore[no-untyped-def]
    """An archive, its dataset and its features, the recipe, and the job that the plain loop reads."""
    folder = tmp_path_factory.mktemp("training")
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    runs.connect()
    overrides = [
        "training.epochs=21", "training.early_stopping_epochs=1000", "training.precision=float32",
        "training.modality_dropout=0.0", "training.weight_average=null", f"training.storage={folder}/runs", "vocabulary.min_count=2",
    ]  # fmt: skip
    recipe = read_recipe(Path("jobs/recipes") / f"{FAMILY}.toml", overrides)
    posts = make_posts(POSTS, users=50)
    archive = write_archive(folder / "archive", posts)
    # Ended again: a Ray that is up costs the others time, and its port three seconds of their start.
    with connect():
        prepare(plan_prepare(recipe, str(archive), str(folder / "dataset")))
        plan = plan_training(recipe, str(folder / "dataset"))
        cache = ensure_features(plan.dataset, recipe.encoders, plan.needs, ("train", "validation"), None)
    job = make_job(plan, load_encoders(recipe.encoders, plan.needs, "cpu"), cache)
    (folder / "job.pickle").write_bytes(pickle.dumps(job))
    return {"folder": folder, "recipe": recipe, "overrides": overrides, "posts": posts, "needs": plan.needs,
            "train_posts": plan.dataset.info.posts["train"]}  # fmt: skip


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


def plain(place: dict[str, Any], processes: int) -> dict[str, Any]:
    """The plain loop, by torchrun where there are several."""
    out = place["folder"] / f"plain-{processes}.json"
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    load = os.getloadavg()[0]
    subprocess.run(
        [*launch, str(PLAIN), str(place["folder"] / "job.pickle"), str(SHORT_EPOCHS), str(out)],
        check=True, env={**_environment(), "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))},
    )  # fmt: skip
    return {"posts_per_second": statistics.median(json.loads(out.read_text())[1:]), "load_before": round(load, 1)}


def trained(place: dict[str, Any], workers: int, epochs: int) -> dict[str, Any]:
    """`jobs/train.py`: its posts a second after the first epoch, seconds to the first step, memory by epoch."""
    command = [
        sys.executable,
        "jobs/train.py",
        "--recipe",
        f"jobs/recipes/{FAMILY}.toml",
        "--dataset",
        str(place["folder"] / "dataset"),
    ]
    for text in [*place["overrides"], f"training.workers={workers}", f"training.epochs={epochs}"]:
        command += ["--set", text]
    load, began = os.getloadavg()[0], time.monotonic()
    job = subprocess.Popen(command, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first: list[float] = []
    memory: list[dict[str, float]] = []
    told: list[str] = []

    def follow() -> None:
        assert job.stderr is not None
        for line in job.stderr:
            told.append(line)
            if "first step" in line:
                first.append(time.monotonic() - began)
            if " epoch " in f" {line}" and "posts/s" in line:
                memory.append(_memory(job.pid))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    assert job.stdout is not None
    printed = job.stdout.read()
    assert job.wait() == 0, "".join(told)[-3000:]
    thread.join()
    summary = json.loads(printed.strip().splitlines()[-1])
    history = sorted(
        (one.step, one.value) for one in runs.connect().get_metric_history(summary["run_id"], "posts_per_second")
    )
    parts = {
        name: round(value, 3)
        for name, value in runs.connect().get_run(summary["run_id"]).data.metrics.items()
        if name.startswith("step_")
    }
    return {
        "posts_per_second": statistics.median(value for _, value in history[1:]),
        "first_step_s": round(first[0], 1),
        "seconds": round(time.monotonic() - began, 1),
        "step_ms": parts,
        "memory_mib": memory,
        "load_before": round(load, 1),
    }


def _memory(pid: int) -> dict[str, float]:
    """MiB that driver and training workers hold for themselves alone."""
    found = {"driver": 0.0, "workers": 0.0}
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            if process.pid == pid:
                found["driver"] = process.memory_full_info().uss / 2**20
            elif "RayTrainWorker" in " ".join(process.cmdline()[:1]):
                found["workers"] += process.memory_full_info().uss / 2**20
        except psutil.Error:
            continue
    return found


def encode_seconds(place: dict[str, Any]) -> float:
    """Seconds to decode and encode one post, in this process, both cores."""
    recipe: Recipe = place["recipe"]
    encoders = load_encoders(recipe.encoders, place["needs"], "cpu")
    posts = place["posts"][:ENCODED]

    def encode(some: list[dict[str, Any]]) -> None:
        encoders.encode_images([decode_image(post["image"], encoders.image_side_px) for post in some])
        encoders.encode_captions([post["caption"] for post in some])

    encode(posts[:32])
    began = time.perf_counter()
    for start in range(0, ENCODED, 64):
        encode(posts[start : start + 64])
    return (time.perf_counter() - began) / ENCODED


def test_training(place: dict[str, Any], repository: Path) -> None:
    rounds: list[dict[str, Any]] = []
    for number in range(ROUNDS):
        found = {
            "plain_1": plain(place, 1),
            "ray_1": trained(place, 1, EPOCHS if number == 0 else SHORT_EPOCHS),
            "plain_2": plain(place, 2),
            "ray_2": trained(place, 2, SHORT_EPOCHS),
        }
        rounds.append(found)
        print({name: {k: v for k, v in one.items() if k != "memory_mib"} for name, one in found.items()}, flush=True)
    best = {name: max(one[name]["posts_per_second"] for one in rounds) for name in rounds[0]}
    encode_s, cached_s = encode_seconds(place), 1 / best["ray_1"]
    memory = [one for one in rounds[0]["ray_1"]["memory_mib"] if one["workers"]]  # the last may come after they ended
    whole = len(memory) > 1
    growth = {who: memory[-1][who] / memory[0][who] - 1 for who in ("driver", "workers")} if whole else {}
    result = {
        "machine": {
            "cpus": os.cpu_count(),
            "processor": platform.processor() or platform.machine(),
            "torch": torch.__version__,
        },
        "what": f"{FAMILY}, {place['train_posts']} train posts, batches of {place['recipe'].training.batch_size}",
        "ray_1_of_plain_1": round(best["ray_1"] / best["plain_1"], 3),
        "ray_2_of_torchrun_2": round(best["ray_2"] / best["plain_2"], 3),
        "epoch_that_encodes_of_cached": round((encode_s + cached_s) / cached_s, 1),
        "first_step_s": min(one["ray_1"]["first_step_s"] for one in rounds),
        "memory_growth_epoch_1_to_21": {who: round(value, 4) for who, value in growth.items()},
        "encode_posts_per_second": round(1 / encode_s, 1),
        "rounds": rounds,
    }
    (repository / "docs" / "benchmarks" / "training.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "rounds"}, indent=1))
