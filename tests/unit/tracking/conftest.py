"""A model folder that is small, registered; PostgreSQL where Debian's is installed."""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "linear"
    (path / "deep").mkdir(parents=True)
    (path / "model.json").write_text(json.dumps({"name": "linear", "version": "abc123"}))
    (path / "weights.safetensors").write_bytes(bytes(range(256)))
    (path / "deep" / "ünï code.txt").write_text("x")
    return path


@pytest.fixture
def register(mlflow_store: Path, folder: Path) -> Callable[..., list[str]]:
    """`register(count, name)`: real versions of the folder."""
    from hashtag_core.tracking.registry import register_model_folder
    from hashtag_core.tracking.runs import start_run

    def make(count: int, name: str = "hashtags") -> list[str]:
        with start_run("e", "r") as run:
            return [register_model_folder(run, folder, name, {"dataset_hash": "d" * 6000}) for _ in range(count)]

    return make


@pytest.fixture
def name_versions(mlflow_store: Path) -> Callable[..., None]:
    """`name_versions(count, name)`: versions without files, for what looks at aliases alone."""
    from hashtag_core.tracking.runs import connect

    def make(count: int, name: str = "hashtags") -> None:
        client = connect()
        client.create_registered_model(name)
        for _ in range(count):
            client.create_model_version(name, source=str(mlflow_store.parent), run_id=None)

    return make


@pytest.fixture
def postgres(postgres_server: str) -> str:
    """`postgresql://` URI of an empty database of the test's own."""
    import psycopg

    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{postgres_server}/{name}"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """`postgresql://` URI, without a database, of a server that is ours."""
    programs = [
        shutil.which(name) or shutil.which(name, path="/usr/lib/postgresql/15/bin") for name in ("initdb", "postgres")
    ]
    if None in programs:
        pytest.skip("no PostgreSQL here (Debian's package `postgresql`)")
    pytest.importorskip("psycopg", reason="no psycopg, by which MLflow talks to PostgreSQL")
    user = {}
    if os.geteuid() == 0:
        try:
            user = {"user": pwd.getpwnam("postgres").pw_name, "group": "postgres"}
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user `postgres`")
    root = tempfile.mkdtemp(prefix="pg-", dir="/tmp")
    if user:
        shutil.chown(root, user["user"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = f"{root}/data"
    subprocess.run(
        [programs[0], "-D", data, "-A", "trust", "-U", "mlflow", "-N"],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd="/",
        **user,
    )
    command = [programs[1], "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", root, "-F"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", **user)
    try:
        import psycopg

        for _ in range(100):
            try:
                psycopg.connect(f"host=127.0.0.1 port={port} user=mlflow dbname=postgres").close()
                break
            except psycopg.OperationalError:
                assert server.poll() is None
                time.sleep(0.1)
        yield f"postgresql://mlflow@127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGINT)  # without waiting for who is still connected
        server.wait(30)
        shutil.rmtree(root, ignore_errors=True)
