"""The training that KubeRay repeats: an attempt goes on with the run of its own RayJob, and with no other."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

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
