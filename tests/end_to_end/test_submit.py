"""`cluster/submit.sh` against a real `ray start --head`: the clone is uploaded, the package is installed nowhere."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a submitter beside a cluster of one node with two CPUs, its own ports and its own token."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON", "AWS_"))}
    dashboard = free_port()
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
    }
    command = ["ray", "start", "--head", "--block", "--num-cpus=2", "--object-store-memory=200000000"]
    command += ["--port=0", f"--dashboard-port={dashboard}", "--ray-client-server-port", str(free_port())]
    command += ["--dashboard-agent-listen-port", str(free_port()), "--node-ip-address=127.0.0.1"]
    with (tmp_path / "ray.log").open("wb") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(environment["RAY_API_SERVER_ADDRESS"], head, tmp_path / "ray.log")
        yield environment
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(timeout=60)


def wait_for(address: str, head: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert head.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=5)
        except urllib.error.HTTPError:
            return  # it is there and asks for the token
        except OSError:
            time.sleep(0.5)
        else:
            return
    pytest.fail(f"no dashboard at {address}: {log.read_text()}")


@pytest.mark.slow
def test_jobs_of_the_clone_run_on_the_cluster(
    cluster: dict[str, str],
    repository: Path,
    tmp_path: Path,
    mlflow_store: Path,
    make_posts: Callable,
    write_archive: Callable,
) -> None:
    archive = write_archive(tmp_path / "archive", make_posts(60, users=30))
    environment = {**cluster, "MLFLOW_TRACKING_URI": f"sqlite:///{mlflow_store}"}

    def submit(*arguments: object) -> dict[str, Any]:
        command = [repository / "cluster" / "submit.sh", *map(str, arguments)]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return next(json.loads(line) for line in reversed(done.stdout.splitlines()) if line.startswith('{"'))

    dataset, tagged = tmp_path / "dataset", tmp_path / "tagged"
    submit("prepare", "--archive", archive, "--dataset", dataset, "--set", "vocabulary.min_count=1")
    trained = submit(
        *("train", "--dataset", dataset, "--recipe", "jobs/recipes/popularity.toml"),
        *("--set", f"training.storage={tmp_path / 'runs'}"),
    )
    summary = submit("tag", "--archive", archive, "--out", tagged, "--model", trained["model"])
    assert summary["tagged"] == 60
    assert ds.dataset(list(tagged.glob("model=*/version=*/**/part-*.parquet"))).count_rows() == 60
