"""A head without CPUs: its driver trains and evaluates, and neither fits, scores nor encodes anything itself."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hashtag_core.config import Recipe
from hashtag_core.distributed.prepare import prepare
from hashtag_core.preparation.plan import plan_prepare
from tests.distributed.test_train_nodes import Raylets

ROOT = Path(__file__).resolve().parents[2]

DRIVER = """
import json, sys
from contextlib import nullcontext
from hashtag_core.config import Recipe
from hashtag_core.distributed.session import connect
from hashtag_core.distributed.evaluate import evaluate
from hashtag_core.distributed.train import train
from hashtag_core.encoders import Encoders
from hashtag_core.judging import finish_training
from hashtag_core.models.registry import family, list_models
from hashtag_core.recommend.recommender import Recommender

here, dataset, report, recipes = sys.argv[1] == "here", sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
worked = []

def told(owner, name):
    before = getattr(owner, name)
    def call(*arguments, **named):
        worked.append(name)
        return before(*arguments, **named)
    setattr(owner, name, call)

if not here:
    told(Recommender, "load")
    told(finish_training, "fit_model")
    for name in ("encode_images", "encode_captions", "encode_tags"):
        told(Encoders, name)
    for name in list_models():
        for method in ("score", "loss", "fit", "calibrate"):
            if hasattr(family(name), method):
                told(family(name), method)
models, trained = json.loads(sys.argv[5]), []
with nullcontext() if here else connect():
    for values in [] if here else recipes:
        summary = train(Recipe.model_validate(values), dataset)
        models.append(summary.model)
        trained.append(summary.metrics)
    judged = evaluate(dataset, models, report, Recipe.model_validate(recipes[0]))["models"]
print(json.dumps({"models": models, "trained": trained, "judged": judged, "worked": worked}))
"""

RECIPE: dict[str, Any] = {
    "model": {"family": "amnn", "inputs": ["caption"], "text_input": "encoder", "dropout": 0.0, "embedding": 16, "text_hidden": 16,
              "decoder_hidden": 16, "decoder_input_size": 16},
    "training": {"epochs": 2, "batch_size": 16, "precision": "float32", "worker_cpus": 1.0, "tag_thresholds": True},
    "evaluation": {"ks": [1, 2, 3], "bootstrap_samples": 10, "split": "validation"},
}  # fmt: skip


@pytest.fixture(scope="module")
def raylets() -> Iterator[Raylets]:
    """A head without CPUs and a raylet of two."""
    folder = Path("/tmp", f"sh{os.getpid()}")
    folder.mkdir()
    found = Raylets(folder)
    try:
        found.tell("add 2")
        yield found
    finally:
        assert found.process.stdin is not None
        found.process.stdin.close()
        found.process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_the_driver_only_drives(raylets: Raylets, ray_session: None, tmp_path: Path, write_archive: Any) -> None:
    words = ("cat", "dog", "sun", "sea")
    posts = [
        {
            "post_id": f"p{n}",
            "user_id": f"u{n % 9}",
            "caption": f"a {words[n % 4]} {n}",
            "hashtags": [words[n % 4], "all"],
        }
        for n in range(120)
    ]
    archive = write_archive(tmp_path / "archive", posts)
    training = {**RECIPE["training"], "storage": f"{tmp_path}/runs"}
    fitted = {"family": "linear", "inputs": ["caption"]}
    recipes = [{**RECIPE, "training": training}, {**RECIPE, "training": training, "model": fitted}]
    (tmp_path / "driver.py").write_text(DRIVER)
    alone = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    alone |= {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "PYTHONPATH": str(ROOT)}
    cluster = {**alone, "RAY_ADDRESS": raylets.address, "RAY_AUTH_MODE": "disabled"}
    prepared = {"vocabulary": {"min_count": 2}, "split": {"kind": "random"}}
    prepare(plan_prepare(Recipe.model_validate(prepared), str(archive), f"{tmp_path}/dataset"))

    def driver(environment: dict[str, str], where: str, models: list[str]) -> dict[str, Any]:
        given = [where, f"{tmp_path}/dataset", f"{tmp_path}/{where}", json.dumps(recipes), json.dumps(models)]
        return run(environment, f"{tmp_path}/driver.py", *given)

    there = driver(cluster, "cluster", [])
    here = driver(alone, "here", there["models"])
    assert there["worked"] == []
    for trained, one, other in zip(there["trained"], there["judged"], here["judged"], strict=True):
        for protocol in ("metrics", "papers", "floor"):
            assert one[protocol] == pytest.approx(other[protocol], abs=1e-6)
        assert {name: one["metrics"][name] for name in trained} == pytest.approx(trained, abs=1e-6)
    boards = [json.loads((tmp_path / where / "leaderboard.json").read_text()) for where in ("cluster", "here")]
    for first, second in zip(boards[0]["models"], boards[1]["models"], strict=True):
        assert first["parameters"] == second["parameters"] > 0
        assert first["calibration_error"] == pytest.approx(second["calibration_error"], abs=1e-5)


def run(environment: dict[str, str], *command: str) -> dict[str, Any]:
    with tempfile.TemporaryFile("w+") as log:
        done = subprocess.run(
            [sys.executable, *command],
            check=False,
            env=environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        log.seek(0)
        assert done.returncode == 0, log.read()[-4000:]
    told = next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{"))
    value: dict[str, Any] = json.loads(told)
    return value
