"""The image: built, not too large, and at work as Kubernetes runs it in a restricted namespace. Long, hence in `make soak` alone.

SOAK_DOCKER_BUILD has further flags of `docker build`, for a place that the default PyTorch index cannot be reached from:
`--build-arg TORCH_INDEX=...`, `--network=host`.
"""

import json
import os
import shlex
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

LARGEST_BYTES = 2_500_000_000
RESTRICTED = (
    *("--network=host", "--user=1000:1000", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--read-only"),
    *("--tmpfs=/tmp:exec,mode=1777", "--tmpfs=/home/ray:exec,uid=1000", "--shm-size=2g", "--env=MLFLOW_TRACKING_URI"),
)
"""What the manifests ask for: see `cluster/kuberay/base`."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("SOAK_KILLS" not in os.environ, reason="long: make soak"),
]


def docker(*arguments: object, timeout_s: float = 300) -> str:
    done = subprocess.run(
        ["docker", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=timeout_s
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def image(repository: Path) -> str:
    if shutil.which("docker") is None:
        pytest.skip("there is no docker here")
    asked = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        pytest.skip(f"no Docker daemon answers: {asked.stderr.strip()[:200]}")
    flags = shlex.split(os.environ.get("SOAK_DOCKER_BUILD", ""))
    name = "hashtag-recommender-cpu:soak"
    docker("build", *flags, "-f", repository / "cluster" / "Dockerfile", "-t", name, repository, timeout_s=1800)
    return name


@pytest.fixture
def container(image: str) -> Iterator[Callable[..., str]]:
    """Start a command in a container of the image; gives the container's name."""
    started: list[str] = []

    def start(*command: object, flags: tuple[str, ...] = ()) -> str:
        started.append(f"soak-{uuid.uuid4().hex[:12]}")
        docker("run", "--detach", f"--name={started[-1]}", *RESTRICTED, *flags, image, *command)
        return started[-1]

    yield start
    for name in started:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)


def test_it_is_small_and_has_nothing_of_development(image: str) -> None:
    assert int(docker("image", "inspect", "--format={{.Size}}", image)) <= LARGEST_BYTES
    found = docker("run", "--rm", *RESTRICTED, image, "sh", "-c", "id -u; ls /app; pip list --format=freeze")
    lines = found.split()
    assert lines[0] == "1000"
    assert lines[1:5] == ["LICENSE", "cluster", "hashtag_core", "jobs"]
    names = {line.partition("==")[0].lower() for line in lines[5:]}
    assert {"ray", "torch", "mlflow", "onnxruntime"} <= names
    assert not names & {"pytest", "mypy", "moto", "ruff", "triton"}
    assert not [name for name in names if name.startswith("nvidia")]
    in_a_login_shell = docker("run", "--rm", *RESTRICTED, image, "bash", "-lc", "which ray python")
    assert in_a_login_shell.split() == ["/opt/venv/bin/ray", "/opt/venv/bin/python"]


def test_it_trains_on_the_sample_and_tags_it(container: Callable[..., str]) -> None:
    program = (
        "cd /tmp && python /app/jobs/train.py --recipe /app/jobs/recipes/sample.toml | tail -1"
        " && python /app/jobs/tag.py --archive /app/jobs/sample --out /tmp/tagged --model models:/hashtag-recommender/1 | tail -1"
    )
    name = container("bash", "-o", "pipefail", "-c", program)
    assert docker("wait", name, timeout_s=600).strip() == "0", docker("logs", name)[-3000:]
    trained, tagged = (json.loads(line) for line in docker("logs", name).splitlines() if line.startswith("{"))
    assert trained["model"] == "models:/hashtag-recommender/1"
    assert tagged["posts"] == tagged["tagged"] + tagged["rejected"]
    assert tagged["tagged"] > 600


def test_the_probes_of_the_manifests_find_a_node(container: Callable[..., str]) -> None:
    """KubeRay starts the head with these flags, and its kubelet asks this without a token."""
    flags = "--port=7379 --dashboard-port=9265 --dashboard-agent-listen-port=52399 --num-cpus=0 --block"
    token = ("--env=RAY_AUTH_TOKEN=" + "a" * 64,)
    name = container("ray", "start", "--head", "--dashboard-host=127.0.0.1", *flags.split(), flags=token)
    probe = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:52399/api/healthz', timeout=5).status)"
    deadline = time.monotonic() + 120
    while True:
        asked = subprocess.run(
            ["docker", "exec", name, "python", "-c", probe], capture_output=True, text=True, check=False
        )
        if asked.returncode == 0:
            break
        assert time.monotonic() < deadline, asked.stderr[-500:] + docker("logs", name)[-2000:]
        time.sleep(1)
    assert asked.stdout.strip() == "200"
