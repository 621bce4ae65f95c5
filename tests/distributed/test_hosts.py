"""Several hosts for real: a Ray head and two Ray nodes, each with an address of its own, S3 on a fourth; the public command lines.

The jobs are long, hence in `make soak` alone. Nothing lies on a disk that two of them see.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pytest

from .network_hosts import SUBNET, Host, Network, why_not

POSTS = 2_400
"""Without a picture: what is tried is the hosts, and a model that reads captions alone leaves time for it."""
S3_PORT = 9000
RAY = Path(sys.executable).with_name("ray")
NODE_LOST_S = 90
"""After which a node that was cut off is no longer one of the cluster; with the settings below it takes some ten seconds."""


def wait_for(what: Callable[[], Any], timeout_s: float, said: Callable[[], str] = str) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if found := what():
                return found
        except (OSError, subprocess.SubprocessError):
            pass
        time.sleep(0.5)
    raise AssertionError(f"not within {timeout_s} s: {said()}")


class Cluster:
    """The Ray on the hosts, and the jobs that are run from its head."""

    def __init__(self, network: Network, repository: Path) -> None:
        self.network, self.repository = network, repository
        self.head, self.nodes = network.hosts["head"], [network.hosts["one"], network.hosts["two"]]
        port = "--port=6379"
        self.head.start(RAY, "start", "--head", port, f"--node-ip-address={self.head.address}", "--num-cpus=1", *COMMON)
        wait_for(lambda: self.alive() == 1, 60, self.head.said)
        for node in self.nodes:
            self.join(node)
        wait_for(lambda: self.alive() == 3, 60, self.nodes[0].said)

    def join(self, node: Host) -> None:
        node.start(
            RAY,
            "start",
            f"--address={self.head.address}:6379",
            f"--node-ip-address={node.address}",
            "--num-cpus=1",
            *COMMON,
        )

    def alive(self) -> int:
        program = (
            "import ray; from ray._raylet import GcsClient as C;"
            f"print(sum(n.state == 0 for n in C('{self.head.address}:6379').get_all_node_info().values()))"
        )
        process = self.head.start(sys.executable, "-c", program, stdout=subprocess.PIPE)
        printed, _ = process.communicate(timeout=60)
        return int(printed) if process.returncode == 0 else 0

    def begin(self, job: str, *flags: object) -> subprocess.Popen[str]:
        command = [sys.executable, self.repository / "jobs" / f"{job}.py", *flags]
        address = {"RAY_ADDRESS": f"{self.head.address}:6379"}
        return self.head.start(*command, stdout=subprocess.PIPE, variables=address)

    def run(self, job: str, *flags: object, timeout_s: float = 240) -> dict[str, Any]:
        return self.ended(self.begin(job, *flags), timeout_s)

    def ended(self, process: subprocess.Popen[str], timeout_s: float = 240) -> dict[str, Any]:
        printed, _ = process.communicate(timeout=timeout_s)
        assert process.returncode == 0, printed[-2000:] + self.head.said()
        summary: dict[str, Any] = json.loads(printed.splitlines()[-1])
        return summary


COMMON = ("--object-store-memory=200000000", "--disable-usage-stats", "--block")


@pytest.fixture
def cluster(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    if reason := why_not():
        pytest.skip(reason)
    store = {
        "AWS_ENDPOINT_URL": f"http://{SUBNET}.4:{S3_PORT}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in store.items():
        monkeypatch.setenv(name, value)
    settings = {
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "2000",
        "RAY_health_check_failure_threshold": "3",
        "RAY_AUTH_MODE": "disabled",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(repository),
    }
    folder = Path(
        tempfile.mkdtemp(prefix="hosts-", dir="/tmp")
    )  # Ray's sockets lie below it, and their paths must be short
    network = Network(folder, ["head", "one", "two", "s3"], {**store, **settings})
    try:
        network.hosts["s3"].start(sys.executable, "-m", "moto.server", "-H", "0.0.0.0", "-p", S3_PORT)
        wait_for(lambda: urllib.request.urlopen(store["AWS_ENDPOINT_URL"]), 60, network.hosts["s3"].said)
        yield Cluster(network, repository)
    finally:
        network.close()
        shutil.rmtree(folder, ignore_errors=True)


def bucket() -> tuple[pafs.FileSystem, Any]:
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket="hosts")
    return pafs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"], region="us-east-1"), client


def tagged(filesystem: pafs.FileSystem, out: str) -> pa.Table:
    """What a plain reader finds: `OUT/model=*/version=*/**/part-*.parquet`."""
    found = filesystem.get_file_info(pafs.FileSelector(out, recursive=True))
    files = [i.path for i in found if "/model=" in i.path and i.base_name.startswith("part-")]
    files = [path for path in files if "/_state/" not in path and path.endswith(".parquet")]
    return ds.dataset(files, filesystem=filesystem).to_table(["post_id", "hashtags", "scores"]).sort_by("post_id")


def test_hosts_have_their_own_address_name_and_folders_and_a_link_that_can_be_cut(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    network = Network(tmp_path, ["one", "two"], {"GREETING": "hello"})
    try:
        one, two = network.hosts["one"], network.hosts["two"]
        told = one.start("sh", "-c", 'hostname; getent hosts two; echo "$GREETING $HOME"', stdout=subprocess.PIPE)
        printed, _ = told.communicate(timeout=30)
        assert printed.split() == ["one", f"{SUBNET}.2", "two", "hello", str(one.folder / "home")]

        two.start(sys.executable, "-m", "http.server", "8000")
        asking = "import urllib.request as u; print(u.urlopen('http://two:8000', timeout=1).status)"

        def heard() -> bool:
            return one.start(sys.executable, "-c", asking).wait(timeout=30) == 0

        wait_for(heard, 30, two.said)
        two.cut()
        assert not heard()
        two.mend()
        wait_for(heard, 30, two.said)
        assert two.pids()
        two.kill()
        assert two.pids() == []
    finally:
        network.close()
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert network.prefix not in listed


@pytest.mark.slow
@pytest.mark.skipif("SOAK_KILLS" not in os.environ, reason="long: make soak")
def test_jobs_on_three_hosts_with_everything_on_s3_and_a_link_that_is_cut(
    cluster: Cluster, make_posts: Callable[..., Any], write_archive: Callable[..., Path], tmp_path: Path
) -> None:
    filesystem, client = bucket()
    posts = [{**post, "image": None} for post in make_posts(POSTS, users=40)]
    archive = write_archive(tmp_path / "archive", posts, parts=8)
    for file in archive.iterdir():
        client.upload_file(str(file), "hosts", f"archive/{file.name}")

    where = {name: f"s3://hosts/{name}" for name in ("archive", "dataset", "runs", "calm", "cut")}
    prepared = cluster.run(
        *("prepare", "--archive", where["archive"], "--dataset", where["dataset"]),
        *("--set", "vocabulary.min_count=1"),
    )
    assert sum(prepared["posts"].values()) == POSTS

    # One training worker of .9 CPU fits a host: two of them are two hosts.
    small = ("training.epochs=2", "training.batch_size=128", "model.hidden=64", "model.embedding=64", "model.topics=8")
    placed = ("training.worker_cpus=0.9", "training.gpus=never", f"training.storage={where['runs']}")
    trained = cluster.run(
        *("train", "--dataset", where["dataset"], "--recipe", cluster.repository / "jobs/recipes/tab_lstm.toml"),
        *("--workers", 2, *chain.from_iterable(("--set", value) for value in small + placed)),
    )
    assert trained["epochs"] == 2

    flags = ("--archive", where["archive"], "--model", trained["model"], "--set", "tagging.chunk_rows=16")
    calm = cluster.run("tag", *flags, "--out", where["calm"])
    assert (calm["posts"], calm["tagged"]) == (POSTS, POSTS)

    one, _ = cluster.nodes
    process = cluster.begin("tag", *flags, "--out", where["cut"])

    def written() -> bool:
        listed = client.list_objects_v2(Bucket="hosts", Prefix="cut/")
        return sum(item["Key"].endswith(".parquet") for item in listed.get("Contents", [])) >= 8

    wait_for(written, 120, cluster.head.said)
    one.cut()
    wait_for(lambda: cluster.alive() == 2, NODE_LOST_S, cluster.head.said)
    one.mend()
    one.kill()  # a raylet that was declared dead ends by itself, sooner or later
    cluster.join(one)
    wait_for(lambda: cluster.alive() == 3, NODE_LOST_S, one.said)
    summary = cluster.ended(process, 400)
    assert (summary["posts"], summary["tagged"]) == (POSTS, POSTS)

    expected, found = tagged(filesystem, "hosts/calm"), tagged(filesystem, "hosts/cut")
    assert found["post_id"].to_pylist() == sorted(f"post-0-{n:05d}" for n in range(POSTS))
    assert found.equals(expected)
    again = cluster.run("tag", *flags, "--out", where["cut"])
    assert again["parts"] == 0
    # Nothing of archive, dataset, checkpoints or output lies on a disk of a host.
    left = [p for host in cluster.network.hosts.values() for p in host.folder.rglob("*.parquet")]
    assert left == []
