"""Training over two raylets, a worker on each: how many workers share a batch does not tell in the loss."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.test_train import RECIPE, _post, _toml

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 4

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("SOAK_KILLS" not in os.environ, reason="two minutes of trainings over raylets: make soak"),
]
MODEL = {"family": "co_attention", "hidden": 16, "attention_units": 8, "embedding": 16, "dropout": 0.0}
"""A family without batch normalisation, and no dropout."""


class Raylets:
    """A Ray of raylets that are added."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, str(ROOT / "tests" / "distributed" / "raylets.py"), str(folder)]
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"RAY_AUTH_MODE": "disabled"}
        self.log = (folder.parent / f"{folder.name}.log").open("w")
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        self.address = self._line(lambda line: ":" in line and " " not in line)

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        self._line(lambda line: line == f"{command.split(maxsplit=1)[0]} done")

    def _line(self, wanted: Any) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if wanted(line.strip()):
                return line.strip()
        raise AssertionError(f"the raylets ended: {Path(self.log.name).read_text()[-2000:]}")


@pytest.fixture(scope="module")
def raylets() -> Iterator[Raylets]:
    """A head without CPUs and two raylets of two, one for each worker."""
    folder = Path("/tmp", f"rl{os.getpid()}")
    folder.mkdir()
    found = Raylets(folder)
    try:
        for _ in range(2):
            found.tell("add 2")
        yield found
    finally:
        assert found.process.stdin is not None
        found.process.stdin.close()
        try:
            found.process.wait(60)
        except subprocess.TimeoutExpired:
            found.process.kill()
        found.log.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, write_archive: Any, raylets: Raylets) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("nodes")
    training = {**RECIPE["training"], "epochs": EPOCHS, "storage": f"{folder}/runs", "worker_cpus": 2, "batch_size": 32}
    recipe = {**RECIPE, "model": MODEL, "training": training}
    (folder / "recipe.toml").write_text(_toml(recipe))
    archive = write_archive(folder / "archive", [_post(n) for n in range(160)])
    environment = os.environ | {
        "RAY_ADDRESS": raylets.address, "RAY_AUTH_MODE": "disabled", "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
    }  # fmt: skip
    made = {"folder": folder, "environment": environment}
    _end(_job(made, "prepare", "--archive", str(archive), "--dataset", f"{folder}/dataset"))
    made["two"] = _figures(made, _end(_train(made, 2)))
    return made


def _job(place: dict[str, Any], name: str, *arguments: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        str(ROOT / "jobs" / f"{name}.py"),
        "--recipe",
        f"{place['folder']}/recipe.toml",
        *arguments,
    ]
    log = (place["folder"] / f"{name}-{time.monotonic_ns()}.log").open("w+")
    process = subprocess.Popen(
        command, env=place["environment"], cwd=place["folder"], stdout=subprocess.PIPE, stderr=log, text=True
    )
    process.log = log  # type: ignore[attr-defined]
    return process


def _train(place: dict[str, Any], workers: int, *more: str) -> subprocess.Popen[str]:
    return _job(place, "train", "--dataset", f"{place['folder']}/dataset", "--workers", str(workers), *more)


def _told(process: subprocess.Popen[str]) -> str:
    return Path(process.log.name).read_text()  # type: ignore[attr-defined]


def _end(process: subprocess.Popen[str]) -> dict[str, Any]:
    printed, _ = process.communicate(timeout=280)
    assert process.returncode == 0, _told(process)[-4000:]
    found: dict[str, Any] = json.loads(printed.strip().splitlines()[-1])
    return found


def _figures(place: dict[str, Any], summary: dict[str, Any]) -> dict[str, list[float]]:
    """Of each epoch, from the latest checkpoint."""
    states = sorted((place["folder"] / "runs" / summary["run_name"]).glob("epoch-*/state.json"))
    history = json.loads(states[-1].read_text())["progress"]["history"]
    assert len(history) == EPOCHS
    return {name: [row[name] for row in history] for name in history[0]}


def test_one_worker_has_the_loss_curve_of_two(place: dict[str, Any]) -> None:
    one, two = _figures(place, _end(_train(place, 1))), place["two"]
    for name in ("train_loss", "validation_loss"):
        assert one[name] == pytest.approx(two[name], rel=1e-4), name
    assert one["train_loss"][-1] < 0.9 * one["train_loss"][0]
    assert two["step_communication_ms"][-1] > 0 == one["step_communication_ms"][-1]


def test_a_node_killed_in_mid_training_costs_no_figure(place: dict[str, Any], raylets: Raylets) -> None:
    known = set((place["folder"] / "runs").iterdir())
    training = _train(place, 2)
    while not (begun := _of_run(place, known)):
        assert training.poll() is None, _told(training)[-4000:]
        time.sleep(0.02)
    raylets.tell("kill")
    done_before = len(begun)
    raylets.tell("add 2")
    found = _figures(place, _end(training))
    assert done_before < EPOCHS, "the node was to be killed before the last epoch"
    assert "epoch 1/4" in _told(training)
    judged = [name for name in found if name == "train_loss" or name.startswith("validation_")]
    assert len(judged) > 2
    for name in judged:
        assert found[name] == pytest.approx(place["two"][name], rel=1e-6), name


def test_weights_that_are_spread_over_the_workers_are_those_of_one(place: dict[str, Any]) -> None:
    spread, two = _figures(place, _end(_train(place, 2, "--set", "training.parallel=fsdp"))), place["two"]
    for name in ("train_loss", "validation_loss"):
        assert spread[name] == pytest.approx(two[name], rel=1e-4), name


def _of_run(place: dict[str, Any], known: set[Path]) -> list[Path]:
    """Checkpoints of the run that is new."""
    return [each for run in (place["folder"] / "runs").iterdir() if run not in known for each in run.glob("epoch-*")]
