"""The same over HTTP, where artifacts go through the server: on PostgreSQL and S3 where there is one, else on SQLite."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hashtag_core.data.model_files import content_hash, hash_files
from hashtag_core.tracking.registry import (
    champion,
    move_champion,
    register_model_folder,
    resolve_model,
    version_signature,
)
from hashtag_core.tracking.runs import connect, start_run
from tests.tracking_server import TrackingServer


@pytest.fixture
def server(request: pytest.FixtureRequest, mlflow_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    try:
        backend = request.getfixturevalue("postgres")
    except pytest.skip.Exception:
        backend = f"sqlite:///{mlflow_store}"
    served = f"{request.getfixturevalue('s3_bucket')}/served"
    found = TrackingServer(mlflow_store.parent, backend, served)
    found.start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):  # the server's affair alone
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", found.uri)
    try:
        yield found.uri
    finally:
        found.stop()


@pytest.mark.slow
def test_a_model_goes_through_a_server_and_comes_back(
    server: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model here"
    (folder / "deep").mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps({"name": "m", "version": "v"}))
    (folder / "deep" / "weights").write_bytes(bytes(range(256)) * 1000)
    with start_run("over http", "r") as run:
        run.log_params({"a": {"b": 1}})
        run.log_metrics({"f1_at_5": 0.5}, 3)
        uri = register_model_folder(run, folder, "served")
    assert connect().get_run(run.run_id).data.params == {"a.b": "1"}
    move_champion("served", "1", {"reason": "first"})
    assert champion("served") == "1"
    resolved = resolve_model("models:/served@champion", tmp_path / "down")
    assert (resolved.uri, resolved.run_id) == (uri, run.run_id)
    assert tmp_path / "down" in [resolved.folder, *resolved.folder.parents]
    assert (resolved.folder / "deep" / "weights").read_bytes() == bytes(range(256)) * 1000
    # a folder of ours, which goes when the process ends
    assert any(part.startswith("hashtag-model-") for part in resolve_model(uri).folder.parts)
    assert resolve_model(uri).content_hash == content_hash(hash_files(folder))
    assert version_signature(uri)["inputs"][0]["name"] == "post_id"
    assert capfd.readouterr().out == ""
