"""Where a run comes from: the code, the machine, the data."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hashtag_core.data.model_record import CodeRecord
from hashtag_core.redaction import redact
from hashtag_core.tracking.runs import Run, mlflow_errors

logger = logging.getLogger(__name__)

SAMPLING_S = 10
GIT_TIMEOUT_S = 10
DIGEST_CHARACTERS = 36
"""MLflow's limit for a dataset's digest."""


def source_tags() -> dict[str, str]:
    """What MLflow calls the source of a run: the program, and the commit of the clone that the code lies in, with whether
    it was changed since. Without git, or outside a clone, there is no commit (`GIT_COMMIT` of the environment is taken,
    which an image can set)."""
    program = Path(sys.argv[0] or sys.executable)
    tags = {"mlflow.source.name": str(program), "mlflow.source.type": "LOCAL"}
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        tags["mlflow.source.type"] = "JOB"
    root = str(Path(__file__).resolve().parents[2])
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        commit = os.environ.get("GIT_COMMIT")
    else:
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
        tags["git.dirty"] = "unknown" if changed is None else str(bool(changed)).lower()
    if commit:
        tags["mlflow.source.git.commit"] = commit
    return tags


def commit_of(tags: Mapping[str, str]) -> CodeRecord:
    """Commit and dirty flag of `source_tags`, as a model's description holds them."""
    return {"commit": tags.get("mlflow.source.git.commit", "unknown"), "dirty": tags.get("git.dirty", "unknown")}


@contextmanager
def system_metrics(run: Run) -> Iterator[None]:
    """CPU, memory, disk, network and GPU of this node as metrics `system/*` of the run, every `SAMPLING_S` seconds.

    A monitor that cannot start, or that MLflow refuses, costs the figures and nothing else.
    """
    try:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)
        monitor = SystemMetricsMonitor(
            run.run_id, sampling_interval=SAMPLING_S, resume_logging=True, tracking_uri=run.client.tracking_uri
        )
        monitor.start()
    except Exception as error:  # noqa: BLE001  what a monitor does not tell is no reason to stop a training
        logger.warning("no system metrics: %s", error)
        yield
        return
    try:
        yield
    finally:
        monitor.finish()


def log_dataset(
    run: Run, name: str, digest: str, source: str, context: str, columns: Mapping[str, str], counts: Mapping[str, Any]
) -> None:
    """Tell MLflow what a run read: `context` is `training`, `validation`, `evaluation` or `tagging`."""
    with mlflow_errors(f"cannot log the dataset of run {run.run_id}"):
        from mlflow.entities import Dataset, DatasetInput, InputTag

        schema = {
            "mlflow_colspec": [{"name": column, "type": kind, "required": False} for column, kind in columns.items()]
        }
        entity = Dataset(
            name=name,
            digest=digest[:DIGEST_CHARACTERS],
            source_type="s3" if source.startswith("s3://") else "local",
            source=json.dumps({"uri": redact(source)}),
            schema=json.dumps(schema),
            profile=json.dumps(dict(counts)),
        )
        run.client.log_inputs(run.run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", context)])])


def _git(root: str, *command: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", root, *command], capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
