"""Training on a cluster at rest: a head of no CPU, Ray's own autoscaler over fake nodes, machines started for what is asked.

As `ray.cluster_utils.AutoscalingCluster` has it, but for two things: that class needs a file which Ray's package does not
bring, and its `start` first ends every Ray of the machine.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from hashtag_core.config import Recipe
from hashtag_core.distributed import train_resources
from hashtag_core.distributed.train_resources import (
    set_train_environment,
    worker_resources,
    worker_threads,
)
from hashtag_core.errors import ConfigError
from hashtag_core.storage.home import SUBMITTED
from tests.tagging.outputs import rows_by_glob

ROOT = Path(__file__).resolve().parents[2]
OBJECT_STORE = 80_000_000
TYPES = {
    "cpu_worker": {"CPU": 4, "object_store_memory": OBJECT_STORE},
    "gpu_worker": {"CPU": 4, "GPU": 1, "object_store_memory": OBJECT_STORE},
}


def recipe(**training: Any) -> Recipe:
    return Recipe.model_validate({"training": training})


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the functions see of a Ray: `cluster(cpus, gpus, nodes)`; 0 CPUs is a head at rest."""

    def set_up(cpus: float, gpus: float = 0, nodes: int = 1) -> None:
        alive = [{"Alive": True, "Resources": {"CPU": cpus} if cpus else {}}] * nodes
        monkeypatch.setattr(train_resources.ray, "nodes", lambda: alive)
        monkeypatch.setattr(train_resources, "cluster_cpus", lambda: cpus)
        monkeypatch.setattr(train_resources, "cluster_gpus", lambda: gpus)

    return set_up


@pytest.mark.parametrize(
    ("training", "asked"),
    [
        ({"workers": 2}, {"CPU": 2.0}),
        ({"workers": 2, "gpus": "cluster"}, {"CPU": 4.0, "GPU": 1.0}),
        ({"workers": 8, "gpus": "always", "worker_cpus": 6}, {"CPU": 6.0, "GPU": 1.0}),
        ({"workers": 8, "gpus": "never", "worker_cpus": 6}, {"CPU": 6.0}),
    ],
)
def test_a_cluster_at_rest_is_asked_for_what_the_recipe_says(cluster: Any, training: Any, asked: Any) -> None:
    cluster(0)
    assert worker_resources(recipe(**training)) == asked
    cluster(8, nodes=3)  # nor does what is up change it
    assert worker_resources(recipe(**training)) == asked


def test_auto_takes_the_gpus_that_are_up(cluster: Any) -> None:
    cluster(8, gpus=2, nodes=3)
    assert worker_resources(recipe(workers=2)) == {"CPU": 4.0, "GPU": 1.0}
    assert worker_resources(recipe(workers=3)) == {"CPU": 2.0}


def test_a_single_machine_shares_what_it_has(cluster: Any) -> None:
    cluster(2)
    assert worker_resources(recipe(workers=2)) == {"CPU": 0.5}
    assert worker_resources(recipe(gpus="cluster")) == {"CPU": 1.0}
    with pytest.raises(ConfigError, match="'always' needs 1 GPUs"):
        worker_resources(recipe(gpus="always"))
    with pytest.raises(ConfigError, match="3 workers of 2 CPUs do not fit"):
        worker_resources(recipe(workers=3, worker_cpus=2))


@pytest.mark.parametrize(
    ("cpus", "nodes", "training", "threads"),
    [
        (64, 3, {"workers": 2}, 2),  # others work on these machines: what is reserved
        (64, 3, {"workers": 2, "gpus": "cluster"}, 4),
        (0, 1, {"workers": 2, "worker_cpus": 6.5}, 6),
        (16, 1, {"workers": 2}, 8),
        (16, 1, {"workers": 2, "worker_cpus": 3}, 3),
        (2, 1, {"workers": 3}, 1),
        (2, 1, {"worker_cpus": 0.5}, 1),
    ],
)  # fmt: skip
def test_workers_compute_with_the_cpus_that_they_reserved(
    cluster: Any, cpus: float, nodes: int, training: Any, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster(cpus, nodes=nodes)
    wanted = recipe(**training)
    for limit, expected in (("", threads), ("64", threads), ("4,2", threads), ("2", min(2, threads))):
        monkeypatch.setenv("OMP_NUM_THREADS", limit)
        assert worker_threads(wanted.training, worker_resources(wanted)) == expected
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv(SUBMITTED, "{}")  # there the 1 is Ray's
    assert worker_threads(wanted.training, worker_resources(wanted)) == threads


def test_machines_are_left_time_to_start_and_workers_of_one_are_looked_at_often(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cpus, given, timeout, interval in (
        (0, None, "700", None),
        (2, None, "60", "0.25"),
        (0, "33", "33", "33"),
        (2, "33", "33", "33"),
    ):
        for name in (train_resources.START_TIMEOUT, train_resources.LOOK_INTERVAL, train_resources.WATCHES_NODES):
            monkeypatch.delenv(name, raising=False)
            if given:
                monkeypatch.setenv(name, given)
        cluster(cpus)
        set_train_environment(recipe(start_timeout_s=700).training)
        assert os.environ[train_resources.START_TIMEOUT] == timeout
        assert os.environ.get(train_resources.LOOK_INTERVAL) == interval
        assert os.environ.get(train_resources.WATCHES_NODES) == (given or (None if cpus == 0 else "0"))


@pytest.fixture(scope="module")
def at_rest() -> Iterator[str]:
    """The address of one cluster for the tests of this file that need not see machines go."""
    with fake_cluster(TYPES, most=2, idle_minutes=10) as address:
        yield address


@contextmanager
def fake_cluster(resources: dict[str, Any], most: int, idle_minutes: float) -> Iterator[str]:
    """The address of a head without CPUs whose autoscaler starts at most so many fake nodes of each of the types, and ends those
    that were idle for so long; all of its processes end with it."""
    folder = Path(tempfile.mkdtemp(prefix="as", dir="/tmp"))
    types = {
        name: {"resources": node, "node_config": {}, "min_workers": 0, "max_workers": most}
        for name, node in resources.items()
    }
    types["ray.head.default"] = {"resources": {"CPU": 0}, "node_config": {}, "min_workers": 0, "max_workers": 0}
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    address = f"{ray.util.get_node_ip_address()}:{port}"
    described = {
        "cluster_name": "fake",
        "max_workers": 8,
        "idle_timeout_minutes": idle_minutes,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "external",  # by its own name Ray looks for a file that its package does not bring
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": address,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": types,
        "docker": {},
        "auth": {},
        "file_mounts": {},
        **{key: [] for key in ("initialization_commands", "setup_commands", "cluster_synced_files")},
        **{f"{which}_setup_commands": [] for which in ("head", "worker")},
        **{f"{which}_start_ray_commands": [] for which in ("head", "worker")},
    }
    config = folder / "cluster.json"
    config.write_text(json.dumps(described))
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}"]
    command += [f"--temp-dir={folder}/r", "--num-cpus=0", "--num-gpus=0", "--include-dashboard=false"]
    command += [f"--object-store-memory={OBJECT_STORE}", f"--autoscaling-config={config}"]
    own = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    # The second autoscaler, as KubeRay has it: the first takes fake nodes of one address for one, and ends none that is idle.
    own |= {"RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID}
    own |= {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID}
    with (folder / "head.log").open("w") as log, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        head = subprocess.Popen(
            command, env=os.environ | own, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 150
            while "Ray runtime started" not in (folder / "head.log").read_text():
                assert time.monotonic() < deadline, (folder / "head.log").read_text()
                assert head.poll() is None, (folder / "head.log").read_text()
                time.sleep(0.3)
            yield address
        finally:
            own_processes = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
            head.send_signal(signal.SIGTERM)
            mine = [p for p in psutil.process_iter(["cmdline"]) if f"{folder}/r" in " ".join(p.info["cmdline"] or [])]
            for process in {*own_processes, *mine}:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            head.wait(30)
    subprocess.run(["rm", "-rf", str(folder)], check=False)


@pytest.mark.slow
def test_features_and_training_scale_from_nothing(at_rest: str, tmp_path: Path, write_archive: Any) -> None:
    words = ("cat", "dog", "sun", "sea")
    posts = [
        {
            "post_id": f"p{n}",
            "user_id": f"u{n % 9}",
            "caption": f"a {words[n % 4]} number {n}",
            "hashtags": [words[n % 4]],
        }
        for n in range(60)
    ]
    archive = write_archive(tmp_path / "archive", posts)
    common = ["--set", "vocabulary.min_count=2"]
    environment = os.environ | {"RAY_ADDRESS": at_rest, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}

    def job(name: str, *arguments: str) -> dict[str, Any]:
        command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *arguments, *common]
        done = subprocess.run(
            command, check=False, env=environment, capture_output=True, text=True, timeout=280, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr[-4000:]
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    job("prepare", "--archive", str(archive), "--dataset", str(tmp_path / "dataset"))
    settings = ["model.family=amnn", 'model.inputs=["caption"]', "model.text_input=encoder", "training.epochs=1"]
    settings += ["training.workers=2", "training.worker_cpus=1.5", f"training.storage={tmp_path}/runs"]
    sets = [part for setting in settings for part in ("--set", setting)]
    (tmp_path / "recipe.toml").write_text("")
    summary = job("train", "--recipe", str(tmp_path / "recipe.toml"), "--dataset", str(tmp_path / "dataset"), *sets)
    assert summary["epochs"] == 1


PLACED = """
import json, ray
from ray.util.placement_group import placement_group
from hashtag_core.config import Recipe
from hashtag_core.distributed.session import connect
from hashtag_core.distributed.train_resources import worker_resources
with connect():
    before = ray.cluster_resources()
    asked = worker_resources(Recipe.model_validate({"training": {"workers": 2, "gpus": "cluster"}}))
    ray.get(placement_group([asked] * 2).ready(), timeout=200)
    print(json.dumps([before, asked, ray.cluster_resources()]))
"""


@pytest.mark.slow
def test_machines_with_gpus_are_started_for_who_asks(at_rest: str) -> None:
    """The very first line of a cluster's user: nothing is up, and two machines with a GPU come."""
    environment = os.environ | {"RAY_ADDRESS": at_rest, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PLACED]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-4000:]
    told = next(
        line for line in done.stdout.splitlines() if line.startswith("[{")
    )  # Ray's own lines may come behind it
    before, asked, after = json.loads(told)
    assert not before.get("GPU"), "machines without one may be up still, of the test before"
    assert asked == {"CPU": 4.0, "GPU": 1.0}
    assert after["GPU"] == 2


@pytest.mark.slow
@pytest.mark.skipif("SOAK_KILLS" not in os.environ, reason="takes minutes: make soak")
def test_tagging_takes_what_the_cluster_has_and_gives_it_back(
    tmp_path: Path, write_archive: Any, popularity: Path
) -> None:
    """From no machine to four, each of which tags; and back to none."""
    posts = [
        {"post_id": f"p{n}", "user_id": f"u{n % 9}", "caption": f"number {n}", "hashtags": []} for n in range(9_600)
    ]
    archive, out = write_archive(tmp_path / "archive", posts, parts=8), tmp_path / "out"
    seen: list[int] = []
    with fake_cluster({"worker": {"CPU": 1, "object_store_memory": OBJECT_STORE}}, most=4, idle_minutes=0.2) as address:
        environment = os.environ | {"RAY_ADDRESS": address, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
        command = [sys.executable, str(ROOT / "jobs" / "tag.py"), "--archive", str(archive), "--out", str(out)]
        command += ["--model", str(popularity), "--chunk-rows", "25", "--set", "tagging.chunks_per_task=2"]
        watch = subprocess.Popen(
            [sys.executable, "-c", WATCHED, address], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert watch.stdout is not None
        try:
            seen.append(int(watch.stdout.readline()))
            done = subprocess.run(
                command, env=environment, check=False, capture_output=True, text=True, cwd=tmp_path, timeout=400
            )
            assert done.returncode == 0, done.stderr[-4000:]
            # until the last machine is gone, or its time is over
            seen += [int(line) for line in watch.stdout if line.strip().isdigit()]
        finally:
            watch.kill()
    assert (seen[0], max(seen), seen[-1]) == (0, 4, 0), seen
    assert len(rows_by_glob(out)) == len(posts)


WATCHED = """
import os, sys, time, ray
os.environ["RAY_AUTH_MODE"] = "disabled"
ray.init(sys.argv[1], log_to_driver=False, logging_level=50)
last, came, began = None, False, time.time()
while time.time() - began < 400:
    up = sum(node["Alive"] and bool(node["Resources"].get("CPU")) for node in ray.nodes())
    if up != last:
        print(up, flush=True)
    came, last = came or up > 0, up
    if came and not up:
        break
    time.sleep(0.5)
"""
"""Prints how many machines are up beside the head whenever that changes."""
