"""Runs against real SQLite databases."""

import json
import logging
import os
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from hashtag_core.errors import ConfigError, NotFoundError, StorageError
from hashtag_core.tracking import runs
from hashtag_core.tracking.runs import connect, metric_history, start_run, tracking_uri


def test_default_store_is_absolute_in_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.chdir(tmp_path)
    assert tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    assert not list(tmp_path.iterdir())


def test_variable_wins(monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere:5000")
    assert tracking_uri() == "http://somewhere:5000"


def test_submitted_job_keeps_runs_in_the_home_folder_and_says_so_once(tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setenv("HOME", str(tmp_path))
    runs._submitted_job_store.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert tracking_uri() == tracking_uri() == f"sqlite:///{tmp_path}/.hashtag-recommender/mlflow.db"
    runs._submitted_job_store.cache_clear()
    (record,) = caplog.records
    assert "MLFLOW_TRACKING_URI" in record.getMessage()
    assert "--runtime-env-json" in record.getMessage()


def test_a_run_keeps_what_is_logged(mlflow_store, tmp_path):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "inner" / "note.txt").write_text("hi")
    with start_run("an experiment / ünï", "first", tags={"family": "linear"}) as run:
        run.log_params({"training": {"learning_rate": 0.1, "ks": [1, 2]}, "empty": {}})
        run.log_params({f"p{n}": "x" * 7000 for n in range(130)})
        run.log_metrics({"f1_at_5": 0.25}, step=3)
        run.log_json({"tags": ["é"]}, "sub/list.json")
        run.log_text("# Title", "card.md")
        run.log_artifact(tmp_path / "folder", "copied")
        run.log_artifact(tmp_path / "folder" / "inner" / "note.txt")
    client = connect()
    kept = client.get_run(run.run_id)
    assert kept.info.status == "FINISHED"
    assert kept.data.params["training.learning_rate"] == "0.1"
    assert kept.data.params["training.ks"] == "[1, 2]"
    assert kept.data.params["empty"] == "{}"
    assert len(kept.data.params["p129"]) == runs.PARAM_CHARACTERS
    assert kept.data.tags["family"] == "linear"
    assert [(m.value, m.step) for m in client.get_metric_history(run.run_id, "f1_at_5")] == [(0.25, 3)]
    # beside the database, whatever the name of the experiment or the working folder
    root = Path(kept.info.artifact_uri.removeprefix("file://").replace("%20", " ").replace("%25", "%"))
    assert mlflow_store.parent / "mlartifacts" in root.parents
    assert json.loads((root / "sub" / "list.json").read_text()) == {"tags": ["é"]}
    assert (root / "copied" / "inner" / "note.txt").read_text() == "hi"
    assert (root / "note.txt").exists()


def test_the_history_of_a_metric_is_read_by_rising_step(mlflow_store):
    with start_run("e", "r") as run:
        for step, value in ((2, 0.5), (1, 0.75), (3, 0.25)):
            run.log_metrics({"loss": value}, step)
    assert metric_history(run.run_id, "loss") == [0.75, 0.5, 0.25]
    assert metric_history(run.run_id, "nothing") == []


def test_figures(mlflow_store):
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot([1, 2], [3, 4])
    with start_run("e", "r") as run:
        run.log_figure(figure, "curves/loss.png")
    assert [f.path for f in connect().list_artifacts(run.run_id, "curves")] == ["curves/loss.png"]


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_that_breaks_off_says_so(mlflow_store, error, status):
    with pytest.raises(error), start_run("e", "r") as run:
        raise error
    assert connect().get_run(run.run_id).info.status == status


def test_a_run_is_taken_up_again_and_keeps_its_first_parameters(mlflow_store, caplog):
    with start_run("e", "r") as run:
        run.log_params({"workers": 1, "seed": 0})
    with caplog.at_level(logging.WARNING), start_run("e", "r", run_id=run.run_id, tags={"resumed": "yes"}) as again:
        assert connect().get_run(run.run_id).info.status == "RUNNING"
        again.log_params({"workers": 2, "seed": 0, "new": 1})
    assert again.run_id == run.run_id
    kept = connect().get_run(run.run_id)
    assert kept.data.params == {"workers": "1", "seed": "0", "new": "1"}
    assert kept.data.tags["resumed"] == "yes"
    assert kept.info.status == "FINISHED"
    assert "workers" in caplog.text
    assert "seed" not in caplog.text


def test_an_unknown_run(mlflow_store):
    with pytest.raises(NotFoundError, match="no run abc"), start_run("e", "r", run_id="abc"):
        pass


def test_a_deleted_experiment(mlflow_store):
    with start_run("gone", "r") as run:
        pass
    connect().delete_experiment(run.experiment_id)
    with pytest.raises(ConfigError, match="experiments restore"), start_run("gone", "r"):
        pass


def test_reading_makes_no_database(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/deep/mlflow.db")
    with pytest.raises(NotFoundError, match="no MLflow database at"):
        connect(create=False)
    assert not list(tmp_path.iterdir())


def test_a_database_that_is_none(tmp_path, monkeypatch):
    (tmp_path / "mlflow.db").write_text("not a database at all, but text long enough to have a header" * 20)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)
    with pytest.raises(StorageError, match="not a database"):
        connect()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir(mode=0o500)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/locked/mlflow.db")
    with pytest.raises(StorageError, match="permission denied"):
        connect()


def test_a_file_where_the_folder_should_be(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/mlflow.db")
    with pytest.raises(StorageError, match="cannot make the folder"):
        connect()


def test_a_server_that_is_away(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    started = time.monotonic()
    with pytest.raises(StorageError, match=f"MLflow does not answer at http://127.0.0.1:{port}.*refused"):
        connect()
    assert time.monotonic() - started < 5


class _NoMlflow(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(404)
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *arguments):
        pass


def test_a_server_that_is_no_mlflow(monkeypatch):
    server = HTTPServer(("127.0.0.1", 0), _NoMlflow)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
    try:
        with (
            pytest.raises(StorageError, match=r"no MLflow server \(HTTP 404, no JSON\): MLFLOW_TRACKING"),
            start_run("e", "r"),
        ):
            pass
    finally:
        server.shutdown()


RACE = """
import sys
from hashtag_core.tracking.runs import start_run
with start_run("shared", "r") as run:
    run.log_metrics({"m": 1.0})
print(run.run_id)
"""


def test_processes_that_start_on_no_database_at_once(tmp_path, repository):
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RACE], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    ended = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], ended
    # nothing but ours on stdout, and nobody told on stderr
    assert all(len(out.split()) == 1 for out, _ in ended)
    assert not any(b"telemetry" in err.lower() or b"alembic" in err.lower() for _, err in ended)
    assert {path.name for path in tmp_path.iterdir()} - {"mlartifacts"} == {".mlflow.db.lock", "mlflow.db"}


def test_a_maker_that_died_leaves_nothing_in_the_way(tmp_path, monkeypatch):
    (tmp_path / ".mlflow.db.new").write_bytes(b"half a database")
    (tmp_path / ".mlflow.db.lock").write_bytes(b"")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert connect().search_registered_models() == []


def test_telemetry_is_off(mlflow_store):
    connect()
    from mlflow.telemetry.utils import is_telemetry_disabled

    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert is_telemetry_disabled()


def test_an_experiment_is_shown_as_one_of_models_and_not_of_traces(mlflow_store: Path) -> None:
    with start_run("kind", "r"):
        pass
    assert connect().get_experiment_by_name("kind").tags["mlflow.experimentKind"] == "custom_model_development"
