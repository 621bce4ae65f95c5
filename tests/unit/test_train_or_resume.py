"""The training that KubeRay repeats: an attempt goes on with the run of its own RayJob, and with no other."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from hashtag_core.training.record import RunRecord

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_or_resume", ROOT / "cluster" / "train_or_resume.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def trained(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The flags that jobs/train.py was called with."""
    calls: list[list[str]] = []
    monkeypatch.setattr(program.train, "main", lambda flags: calls.append(flags) or 0)
    return calls


def write_run(folder: Path, name: str, run_id: str) -> None:
    RunRecord(name, str(folder), run_id, "s3://bucket/dataset", "hash", {}).save()


def test_a_retry_goes_on_with_the_run_of_its_rayjob(
    program: ModuleType, trained: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--storage", str(tmp_path), "--recipe", "r.toml", "--dataset", "d", "--set", "training.epochs=2"]
    own = ["--recipe", "r.toml", "--dataset", "d", "--set", "training.epochs=2"]
    stored = ["--set", f"training.storage={tmp_path}/train-20261126"]
    write_run(tmp_path / "train-20261125", "linear-20261125-120000-aaaaaa", "other")  # another RayJob's
    monkeypatch.setenv("RAY_CLUSTER_NAME", "train-20261126-x7k2p")
    assert program.main(flags) == 0
    write_run(tmp_path / "train-20261126", "linear-20261126-120000-bbbbbb", "id-1")
    monkeypatch.setenv("RAY_CLUSTER_NAME", "train-20261126-9qz4m")
    program.main(flags)
    assert trained == [own + stored, own + stored + ["--resume", "linear-20261126-120000-bbbbbb"]]
    # What it hands over is what the job's own search finds.
    assert RunRecord.find(f"{tmp_path}/train-20261126", trained[1][-1]).run_id == "id-1"


def test_on_s3_and_under_a_name_that_is_told(
    program: ModuleType, trained: list[list[str]], s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_CLUSTER_NAME", raising=False)
    root = f"{s3_bucket}/runs"
    record = RunRecord("linear-1", f"{root}/mine", "id-2", "d", "hash", {})
    record.save()
    program.main(["--storage", root, "--job", "mine", "--dataset", "d"])
    assert trained == [["--dataset", "d", "--set", f"training.storage={root}/mine", "--resume", "linear-1"]]


@pytest.mark.parametrize("name", [None, "nodash"])
def test_a_cluster_that_is_no_rayjobs_is_refused(
    program: ModuleType, trained: list[list[str]], name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_CLUSTER_NAME", raising=False)
    if name:
        monkeypatch.setenv("RAY_CLUSTER_NAME", name)
    with pytest.raises(SystemExit, match="2"):
        program.main(["--storage", "s3://bucket/runs", "--dataset", "d"])
    assert trained == []
