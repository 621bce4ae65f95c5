"""A registered version as MLflow's users take it: described, loaded, predicted with on the command line, and served."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from hashtag_core.recommend.recommender import Recommender
from hashtag_core.tracking.registry import move_champion, register_model_folder
from hashtag_core.tracking.runs import start_run

URI = "models:/hashtag-recommender@champion"
POSTS = 50


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_model_folder: Callable[..., Path]) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("served") / "linear")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path, folder: Path) -> Iterator[dict[str, str]]:
    """The environment of a database with the model as champion."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    path.write_bytes(empty_mlflow.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
        with start_run("e", "r") as run:
            register_model_folder(run, folder, "hashtag-recommender")
        move_champion("hashtag-recommender", "1", {})
        programs = (
            f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # MLflow calls `uvicorn` by its name
        )
        yield {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{path}", "PATH": programs}


@pytest.fixture(scope="module")
def sample(repository: Path) -> list[dict[str, Any]]:
    """Fifty posts of the sample, as a user of the service writes them: base64, ISO dates, nulls."""
    rows = pq.read_table(repository / "jobs" / "sample" / "posts-0000.parquet").slice(0, POSTS).to_pylist()
    for row in rows:
        row["image"] = base64.b64encode(row["image"]).decode() if row["image"] else None
        row["created_at"] = row["created_at"].isoformat() if row["created_at"] else None
    return rows


@pytest.fixture(scope="module")
def batch(repository: Path, folder: Path) -> dict[str, dict[str, float]]:
    """What the batch path gives to the same posts, all at once: post -> tag -> score."""
    table = pq.read_table(repository / "jobs" / "sample" / "posts-0000.parquet").slice(0, POSTS)
    tagged = Recommender.load(str(folder)).recommend(table, top_k=10).to_pylist()
    return {row["post_id"]: dict(zip(row["hashtags"], row["scores"], strict=True)) for row in tagged}


def check(rows: list[dict[str, Any]], batch: dict[str, dict[str, float]]) -> None:
    for row in rows:
        assert list(row["scores"]) == sorted(row["scores"], reverse=True)
        found = dict(zip(row["hashtags"], row["scores"], strict=True))
        assert found == pytest.approx(batch[row["post_id"]], abs=1e-5)
        assert row["status"]
        assert row["detail"] is None or row["status"] != "ok"


def test_it_is_described_and_loads(
    store: dict[str, str], sample: list[dict[str, Any]], batch: dict[str, dict[str, float]]
) -> None:
    import mlflow
    import pandas

    uri = store["MLFLOW_TRACKING_URI"]
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        info = mlflow.models.get_model_info(URI)
        assert info.signature.inputs.input_names()[:2] == ["post_id", "user_id"]
        assert info.signature.inputs.required_input_names() == ["post_id"]
        assert info.signature.outputs.input_names()[:3] == ["post_id", "hashtags", "scores"]
        assert info.saved_input_example_info is not None
        assert info.metadata["family"] == "linear"
        model = mlflow.pyfunc.load_model(URI)
        check(model.predict(pandas.DataFrame(sample)).to_dict("records"), batch)
        short = model.predict(pandas.DataFrame(sample[:1]), params={"top_k": 3})
        assert len(short["hashtags"][0]) == 3
    finally:
        mlflow.set_tracking_uri(before)


def test_no_pickle_and_pinned_requirements(store: dict[str, str]) -> None:
    root = next(Path(store["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")).parent.rglob("MLmodel")).parent
    assert not [path for path in root.rglob("*") if path.suffix in (".pkl", ".pt", ".bin")]
    pins = (root / "requirements.txt").read_text().splitlines()
    assert all("==" in pin and "+" not in pin for pin in pins)
    assert {"torch", "mlflow", "safetensors"} <= {pin.partition("==")[0] for pin in pins}
    names = zipfile.ZipFile(root / "code" / "hashtag_core.zip").namelist()
    assert "hashtag_core/recommend/served.py" in names
    assert not [name for name in names if name.startswith(("hashtag_core/distributed", "hashtag_core/training"))]


@pytest.mark.slow
@pytest.mark.skipif("SOAK_SPARK" not in os.environ, reason="half a minute more: make soak (SOAK_SPARK=1)")
def test_it_predicts_on_the_command_line(
    store: dict[str, str], sample: list[dict[str, Any]], batch: dict[str, dict[str, float]], tmp_path: Path
) -> None:
    (tmp_path / "posts.json").write_text(json.dumps({"dataframe_records": sample[:5]}))
    command = [sys.executable, "-m", "mlflow", "models", "predict", "-m", URI, "--env-manager", "local"]
    command += ["-i", str(tmp_path / "posts.json"), "-o", str(tmp_path / "tagged.json")]
    done = subprocess.run(command, env=store, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check(json.loads((tmp_path / "tagged.json").read_text())["predictions"], batch)


@pytest.mark.slow
def test_fifty_at_once_are_answered_as_the_batch_job_does(
    store: dict[str, str], sample: list[dict[str, Any]], batch: dict[str, dict[str, float]], tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", URI, "--env-manager", "local"]
    command += ["-h", "127.0.0.1", "-p", str(port)]
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=store, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)

    def ask(path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            return bytes(answer.read())

    def tag(post: dict[str, Any]) -> list[dict[str, Any]]:
        return list(json.loads(ask("/invocations", json.dumps({"dataframe_records": [post]}).encode()))["predictions"])

    try:
        for _ in range(240):
            try:
                ask("/ping")
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(0.5)
        with ThreadPoolExecutor(POSTS) as pool:
            rows = [row for found in pool.map(tag, sample) for row in found]
        assert [row["post_id"] for row in rows] == [post["post_id"] for post in sample]
        check(rows, batch)
        with pytest.raises(urllib.error.HTTPError) as caught:
            tag({"post_id": "x", "image": "no base64!"})
        assert caught.value.code == 400
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.mark.slow
@pytest.mark.skipif("SOAK_SPARK" not in os.environ, reason="a minute to start Java and Spark: make soak (SOAK_SPARK=1)")
def test_spark_tags_a_table_with_it(
    store: dict[str, str],
    sample: list[dict[str, Any]],
    batch: dict[str, dict[str, float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As docs/registry.md has it: a Spark column of tags, those of the batch job."""
    sql = pytest.importorskip("pyspark.sql", reason="no Spark (pip install pyspark)")
    if shutil.which("java") is None:
        pytest.skip("no Java, which Spark runs on (Debian's package `default-jre-headless`)")
    import mlflow

    monkeypatch.setenv("PATH", store["PATH"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store["MLFLOW_TRACKING_URI"])
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    spark = sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        tags = mlflow.pyfunc.spark_udf(spark, URI, result_type="hashtags array<string>", env_manager="local")
        posts = [(row["post_id"], row["caption"], row["image"]) for row in sample[:4]]
        table = spark.createDataFrame(posts, "post_id string, caption string, image string")
        found = table.select("post_id", tags(sql.functions.struct("post_id", "caption", "image")).alias("tagged"))
        rows = {row["post_id"]: list(row["tagged"]["hashtags"]) for row in found.collect()}
    finally:
        spark.stop()
    assert rows == {row["post_id"]: list(batch[row["post_id"]]) for row in sample[:4]}
