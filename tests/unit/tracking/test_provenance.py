"""What a run says of its code and its machine; passwords that it says nothing of."""

import base64
import json
import subprocess
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from hashtag_core.errors import HashtagError, StorageError
from hashtag_core.redaction import redact
from hashtag_core.tracking import provenance
from hashtag_core.tracking.provenance import log_dataset, source_tags, system_metrics
from hashtag_core.tracking.registry import find_version
from hashtag_core.tracking.runs import connect, count_runs, newest_metric, start_run


def test_the_commit_and_whether_the_clone_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*command: str) -> None:
        subprocess.run(
            ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *command],
            check=True,
            capture_output=True,
        )

    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "hashtag_core" / "tracking" / "provenance.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv("GIT_COMMIT", raising=False)
    assert "mlflow.source.git.commit" not in source_tags()
    monkeypatch.setenv("GIT_COMMIT", "abc")
    assert source_tags()["mlflow.source.git.commit"] == "abc"
    git("init", "-q")
    (tmp_path / "file").write_text("x")
    git("add", "file")
    git("commit", "-qm", "first")
    assert source_tags()["git.dirty"] == "false"
    assert len(source_tags()["mlflow.source.git.commit"]) == 40
    (tmp_path / "file").write_text("y")
    assert source_tags()["git.dirty"] == "true"
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("GIT_COMMIT")
    assert source_tags().keys() == {"mlflow.source.name", "mlflow.source.type"}


def test_runs_below_a_run_are_counted_and_the_newest_is_asked(mlflow_store: Path) -> None:
    assert count_runs("e", {"kind": "promotion"}) == 0
    assert newest_metric("e", {"kind": "promotion"}, "m") is None
    with start_run("e", "above") as above:
        pass
    for number in range(3):
        with start_run("e", "below", tags={"kind": "promotion", "split": "test"}, parent=above.run_id) as run:
            run.log_metrics({"m": number})
    assert connect().get_run(run.run_id).data.tags["mlflow.parentRunId"] == above.run_id
    assert count_runs("e", {"kind": "promotion", "split": "test"}) == 3
    assert count_runs("e", {"kind": "promotion", "split": "validation"}) == 0
    assert newest_metric("e", {"kind": "promotion"}, "m") == 2


def test_system_metrics_are_logged_and_cost_nothing_where_they_fail(
    mlflow_store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(provenance, "SAMPLING_S", 0.05)
    with start_run("e", "r") as run, system_metrics(run):
        for _ in range(200):
            if any(name.startswith("system/") for name in connect().get_run(run.run_id).data.metrics):
                break
            time.sleep(0.05)
    found = connect().get_run(run.run_id).data.metrics
    assert "system/cpu_utilization_percentage" in found

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no sensors")

    monkeypatch.setattr("mlflow.system_metrics.system_metrics_monitor.SystemMetricsMonitor.__init__", broken)
    with start_run("e", "r") as run, system_metrics(run):
        run.log_metrics({"m": 1.0})
    assert "no system metrics: no sensors" in caplog.text


def test_a_dataset_is_an_input_of_the_run(mlflow_store: Path) -> None:
    with start_run("e", "r") as run:
        log_dataset(
            run, "d.test", "f" * 64, "s3://u:secret@bucket/d", "evaluation", {"post_id": "string"}, {"num_rows": 3}
        )
    (found,) = connect().get_run(run.run_id).inputs.dataset_inputs
    assert (found.dataset.digest, found.dataset.source_type) == ("f" * 36, "s3")
    assert "secret" not in found.dataset.source
    assert json.loads(found.dataset.profile) == {"num_rows": 3}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:pa$$:w@rd@host:5000/x", "http://user:***@host:5000/x"),
        ("postgresql+psycopg://u:p@h/db?sslmode=require&password=geheim&x=1", "postgresql+psycopg://u:***@h/db?sslmode=require&password=***&x=1"),
        ("https://host:5000/a@b:c", "https://host:5000/a@b:c"),
        ("sqlite:////tmp/a.db", "sqlite:////tmp/a.db"),
        ("two http://a:b@c and mysql://d:e@f/g", "two http://a:***@c and mysql://d:***@f/g"),
    ],
)  # fmt: skip
def test_passwords_of_uris(text: str, shown: str) -> None:
    assert redact(text) == shown


class _Guarded(BaseHTTPRequestHandler):
    signed: list[bool] = []

    def do_GET(self) -> None:
        mine = "Basic " + base64.b64encode(b"user:s3cret").decode()
        self.signed.append(self.headers.get("Authorization") == mine)
        body = json.dumps({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such model"}).encode()
        self.send_response(404 if self.signed[-1] else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_with_a_password_is_reached_and_the_password_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Guarded)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:s3cret@127.0.0.1:{server.server_port}")
    try:
        with pytest.raises(HashtagError) as caught:
            find_version("models:/m/1")
    finally:
        server.shutdown()
    assert any(_Guarded.signed)
    assert "s3cret" not in str(caught.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:s3cret@127.0.0.1:9")
    with pytest.raises(StorageError, match=r"does not answer at http://user:\*\*\*@127\.0\.0\.1:9: .*refused") as away:
        connect()
    assert "s3cret" not in str(away.value)
