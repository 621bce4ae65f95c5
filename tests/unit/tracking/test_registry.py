"""Versions and the champion, in a real SQLite MLflow."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hashtag_core import storage
from hashtag_core.config import read_recipe
from hashtag_core.errors import ConfigError, IntegrityError, NotFoundError
from hashtag_core.tracking.registry import (
    champion,
    find_version,
    move_champion,
    register_model_folder,
    resolve_model,
    set_version_tags,
)
from hashtag_core.tracking.runs import connect, start_run


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def test_a_folder_becomes_versions_and_comes_back(register, folder, tmp_path):
    assert register(2) == ["models:/hashtags/1", "models:/hashtags/2"]
    resolved = resolve_model("models:/hashtags/2")
    assert (resolved.name, resolved.version, resolved.uri) == ("hashtags", "2", "models:/hashtags/2")
    assert contents(resolved.folder) == contents(folder)
    assert len(resolved.tags["dataset_hash"]) == 5000
    assert connect().get_run(resolved.run_id).info.status == "FINISHED"
    copied = resolve_model("models:/hashtags/1", tmp_path / "to here")
    assert tmp_path / "to here" in [copied.folder, *copied.folder.parents]
    assert contents(copied.folder) == contents(folder)


def test_models_of_one_run_do_not_overwrite_each_other(mlflow_store, folder, tmp_path):
    with start_run("e", "r") as run:
        first = register_model_folder(run, folder, "hashtags")
        (folder / "weights.safetensors").write_bytes(b"other")
        second = register_model_folder(run, folder, "hashtags")
    assert contents(resolve_model(first).folder)["weights.safetensors"] == bytes(range(256))
    assert contents(resolve_model(second).folder)["weights.safetensors"] == b"other"


def test_it_loads_where_code_may_not_run(register, folder, mlflow_store, repository):
    register(1)
    code = "from hashtag_core.tracking.registry import resolve_model; print(resolve_model('models:/hashtags/1').folder)"
    environment = {**os.environ, "MLFLOW_ALLOW_MODEL_CODE_EXECUTION": "false", "PYTHONPATH": str(repository)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert contents(Path(done.stdout.strip())) == contents(folder)


def test_an_alias_becomes_a_version_once(register):
    register(2)
    move_champion("hashtags", "1", {})
    resolved = resolve_model("models:/hashtags@champion")
    move_champion("hashtags", "2", {}, expected="1")
    assert (resolved.version, resolved.uri) == ("1", "models:/hashtags/1")
    assert resolve_model("models:/hashtags@champion").version == "2"
    assert find_version("models:/hashtags@previous")[:2] == ("hashtags", "1")


def test_what_is_not_there_is_named_with_the_nearest(name_versions):
    name_versions(2)
    move_champion("hashtags", "1", {})
    for model, message in (
        ("models:/hashtagz/1", r"no registered model 'hashtagz' .did you mean 'hashtags'"),
        ("models:/hashtags/9", "no version 9; it has 1 to 2"),
        ("models:/hashtags@champoin", r"no alias 'champoin' .did you mean 'champion'.*; it has champion"),
        ("models:/a@b@c", r"no registered model 'a@b'"),
    ):
        with pytest.raises(NotFoundError, match=message):
            resolve_model(model)


def test_other_forms_are_refused(name_versions):
    name_versions(1)
    for end in ("hashtags", "hashtags/latest", "hashtags/1/deep", "hashtags/0", "hashtags/", "@", ""):
        with pytest.raises(ConfigError, match="models:/NAME/VERSION or models:/NAME@ALIAS"):
            resolve_model(f"models:/{end}")


@pytest.mark.parametrize("name", ["a/b", "a:b", " ", "m-1"])
def test_a_name_that_no_model_can_have_is_refused_before_a_training(name):
    with pytest.raises(ConfigError, match="model_name"):
        read_recipe(None, [f"tracking.model_name={name}"])


def test_no_database_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(NotFoundError, match="models:/hashtags/1: no MLflow database"):
        resolve_model("models:/hashtags/1")
    assert champion("hashtags") is None
    assert not list(tmp_path.iterdir())


def test_a_version_whose_files_are_gone(register):
    register(1)
    folder = resolve_model("models:/hashtags/1").folder
    (folder / "model.json").unlink()
    with pytest.raises(IntegrityError, match=r"models:/hashtags/1: .*registered: model\.json is missing"):
        resolve_model("models:/hashtags/1")
    shutil.rmtree(folder)
    with pytest.raises(NotFoundError, match="cannot download models:/hashtags/1"):
        resolve_model("models:/hashtags/1")


def test_a_version_of_an_older_release_is_taken_for_what_it_is(mlflow_store, folder, caplog):
    with start_run("e", "r") as run:
        run.log_artifact(folder, "model")
    client = connect()
    client.create_registered_model("old")
    client.create_model_version("old", source=f"runs:/{run.run_id}/model", run_id=run.run_id)
    resolved = resolve_model("models:/old/1")
    assert contents(resolved.folder) == contents(folder)
    assert resolved.content_hash == resolve_model(str(folder)).content_hash
    assert "registered without a content hash" in caplog.text


def test_folders_local_and_remote(folder, s3_bucket, tmp_path):
    local = resolve_model(str(folder))
    assert (local.folder, local.name, local.version, local.uri) == (folder, "linear", "abc123", str(folder))
    storage.upload_folder(folder, f"{s3_bucket}/a model")
    remote = resolve_model(f"{s3_bucket}/a model", tmp_path / "down")
    assert contents(remote.folder) == contents(folder)
    assert (remote.name, remote.version) == ("linear", "abc123")
    assert contents(resolve_model(f"{s3_bucket}/a model").folder) == contents(folder)


def test_folders_that_are_no_models(tmp_path, s3_bucket):
    for missing in (str(tmp_path / "nowhere"), f"{s3_bucket}/nowhere"):
        with pytest.raises(NotFoundError, match="does not exist"):
            resolve_model(missing)
    with pytest.raises(NotFoundError, match=r"no model\.json"):
        resolve_model(str(tmp_path))
    for text in ("{", '{"name": "x"}', "[]"):
        (tmp_path / "model.json").write_text(text)
        with pytest.raises(IntegrityError, match="names no model"):
            resolve_model(str(tmp_path))


def test_version_tags(register):
    register(1)
    set_version_tags("hashtags", "1", {"evaluated": 0.5})
    assert find_version("models:/hashtags/1")[2]["evaluated"] == "0.5"
