"""Versions and the champion, in a real SQLite MLflow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hashtag_core import storage
from hashtag_core.errors import ConfigError, IntegrityError, NotFoundError, StorageError
from hashtag_core.tracking.registry import (
    champion,
    champion_line,
    champion_moves,
    find_version,
    move_champion,
    register_model_folder,
    resolve_model,
    rollback,
    set_version_tags,
)
from hashtag_core.tracking.runs import connect, start_run


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "linear"
    (path / "deep").mkdir(parents=True)
    (path / "model.json").write_text(json.dumps({"name": "linear", "version": "abc123"}))
    (path / "weights.safetensors").write_bytes(bytes(range(256)))
    (path / "deep" / "ünï code.txt").write_text("x")
    return path


@pytest.fixture
def register(mlflow_store, folder):
    def make(count: int, name: str = "hashtags") -> list[str]:
        with start_run("e", "r") as run:
            return [register_model_folder(run, folder, name, {"dataset_hash": "d" * 6000}) for _ in range(count)]

    return make


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


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("models:/hashtagz/1", "no registered model 'hashtagz' .did you mean 'hashtags'"),
        ("models:/hashtags/9", "no version 9; it has 1 to 2"),
        ("models:/hashtags@champoin", "no alias 'champoin' .did you mean 'champion'.*; it has champion"),
    ],
)
def test_what_is_not_there_is_named_with_the_nearest(register, model, message):
    register(2)
    move_champion("hashtags", "1", {})
    with pytest.raises(NotFoundError, match=message):
        resolve_model(model)


@pytest.mark.parametrize(
    "model", ["models:/hashtags", "models:/hashtags/latest", "models:/hashtags/1/deep", "models:/a@b@c", "models:"]
)
def test_other_forms_are_refused(register, model):
    register(1)
    with pytest.raises(ConfigError, match="models:/NAME/VERSION or models:/NAME@ALIAS"):
        resolve_model(model)


def test_no_database_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(NotFoundError, match="models:/hashtags/1: no MLflow database"):
        resolve_model("models:/hashtags/1")
    assert champion("hashtags") is None
    assert not list(tmp_path.iterdir())


def test_a_version_whose_files_are_gone(register):
    register(1)
    for file in resolve_model("models:/hashtags/1").folder.glob("*.json"):
        file.unlink()
    with pytest.raises(NotFoundError, match="no model folder"):
        resolve_model("models:/hashtags/1")


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


def test_promotions_and_rollbacks_walk_one_line(register):
    register(4)
    assert champion("hashtags") is None
    assert champion_line("hashtags") == []
    with pytest.raises(NotFoundError, match="no champion to roll back"):
        rollback("hashtags")
    assert move_champion("hashtags", "1", {"reason": "first"}) is None
    with pytest.raises(NotFoundError, match="no champion before version 1"):
        rollback("hashtags")
    assert move_champion("hashtags", "2", {"f1_at_5": 0.5}, expected="1") == "1"
    assert move_champion("hashtags", "4", {}, expected="2") == "2"
    assert champion_line("hashtags") == ["1", "2", "4"]
    assert rollback("hashtags", {"reason": "worse at night"}) == ("2", "4")
    assert find_version("models:/hashtags@previous")[1] == "1"
    assert rollback("hashtags") == ("1", "2")
    assert champion("hashtags") == "1"
    with pytest.raises(NotFoundError, match="no alias 'previous'"):
        find_version("models:/hashtags@previous")
    with pytest.raises(NotFoundError, match="nothing to roll back to"):
        rollback("hashtags")
    move_champion("hashtags", "3", {}, expected="1")
    assert champion_line("hashtags") == ["1", "3"]
    moves = champion_moves("hashtags")
    assert [(move.kind, move.before, move.to) for move in moves] == [
        ("promote", None, "1"),
        ("promote", "1", "2"),
        ("promote", "2", "4"),
        ("rollback", "4", "2"),
        ("rollback", "2", "1"),
        ("promote", "1", "3"),
    ]
    assert moves[1].why == {"f1_at_5": 0.5}
    assert all(move.by and move.at for move in moves)
    assert [move.at for move in moves] == sorted(move.at for move in moves)


def test_a_champion_moved_meanwhile_is_left_alone(register):
    register(2)
    move_champion("hashtags", "1", {})
    with pytest.raises(StorageError, match="from none to version 1 meanwhile"):
        move_champion("hashtags", "2", {}, expected=None)
    assert champion("hashtags") == "1"


def test_a_champion_that_does_not_exist(register):
    register(1)
    with pytest.raises(NotFoundError, match="no version 7"):
        move_champion("hashtags", "7", {})
    assert champion_moves("hashtags") == []


def test_aliases_moved_by_hand_and_deleted_versions(register):
    register(4)
    move_champion("hashtags", "1", {})
    move_champion("hashtags", "2", {}, expected="1")
    client = connect()
    client.set_registered_model_alias("hashtags", "champion", "4")
    assert champion_line("hashtags") == ["1", "2", "4"]
    client.delete_model_version("hashtags", "2")
    assert rollback("hashtags") == ("1", "4")


def test_a_long_reason_is_left_out_not_cut(register):
    register(1)
    move_champion("hashtags", "1", {"gates": ["x" * 6000]})
    assert champion_moves("hashtags")[0].why == {"left_out": "longer than a tag may be"}


def test_version_tags(register):
    register(1)
    set_version_tags("hashtags", "1", {"evaluated": 0.5})
    assert find_version("models:/hashtags/1")[2]["evaluated"] == "0.5"
