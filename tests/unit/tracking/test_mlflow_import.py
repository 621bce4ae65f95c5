"""MLflow is imported in a thread, quietly, and a failure there is nobody's."""

import subprocess
import sys
from pathlib import Path

import pytest

from hashtag_core.tracking import mlflow_import
from hashtag_core.tracking.server_wait import QUIET

IMPORTED = """
import os, sys
from hashtag_core.tracking.mlflow_import import import_meanwhile
assert "mlflow" not in sys.modules
import_meanwhile().join()
assert "mlflow.store.tracking.sqlalchemy_store" in sys.modules
assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
assert os.environ["MLFLOW_LOGGING_LEVEL"] == "DEBUG"
"""


def test_mlflow_is_there_when_the_thread_has_ended(repository: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", IMPORTED], cwd=repository, capture_output=True, text=True,
        env={"PATH": "", "HOME": "/nowhere", "MLFLOW_LOGGING_LEVEL": "DEBUG"}, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "thread" not in found.stderr.lower()


def test_a_failure_is_left_to_where_mlflow_is_used(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in QUIET:
        monkeypatch.setenv(name, "as it is")

    def broken(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(mlflow_import.importlib, "import_module", broken)
    mlflow_import.import_meanwhile().join()
    assert capfd.readouterr() == ("", "")
