"""A cluster of one node for the tests that drive whole programs: `ray start --head`, as an operator would."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a submitter beside a cluster of one node with two CPUs, its own ports and its own token."""
    log = tmp_path_factory.mktemp("cluster") / "ray.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON", "AWS_"))}
    dashboard, gcs = free_port(), free_port()
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "CLUSTER_ADDRESS": f"127.0.0.1:{gcs}",
    }
    command = ["ray", "start", "--head", "--block", "--num-cpus=2", "--object-store-memory=200000000"]
    command += [f"--port={gcs}", f"--dashboard-port={dashboard}", "--ray-client-server-port", str(free_port())]
    command += ["--dashboard-agent-listen-port", str(free_port()), "--node-ip-address=127.0.0.1"]
    with log.open("wb") as output:
        head = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        wait_for(environment["RAY_API_SERVER_ADDRESS"], head, log)
        yield environment
    finally:
        os.killpg(
            head.pid, signal.SIGKILL
        )  # nothing of it is looked at any more, and its orderly end takes half a minute
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
