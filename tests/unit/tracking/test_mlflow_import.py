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
assert "mlflow" in sys.modules
assert ("mlflow.store.tracking.sqlalchemy_store" in sys.modules) == (sys.argv[1] == "sqlite:///mlflow.db")
assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
assert os.environ["MLFLOW_LOGGING_LEVEL"] == "DEBUG"
"""


@pytest.mark.parametrize("uri", ["sqlite:///mlflow.db", "http://127.0.0.1:9"])
def test_mlflow_is_there_when_the_thread_has_ended(repository: Path, uri: str) -> None:
    found = subprocess.run(
        [sys.executable, "-c", IMPORTED, uri], cwd=repository, capture_output=True, text=True,
        env={"PATH": "", "HOME": "/nowhere", "MLFLOW_LOGGING_LEVEL": "DEBUG", "MLFLOW_TRACKING_URI": uri}, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr


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
