"""Runs in MLflow: where they are kept, and what is written to them.

MLflow is imported when it is first needed, with its telemetry, its progress bars and its messages on stdout turned off
(a variable that the environment sets already is left alone). Every call goes through a client that names its server,
never through MLflow's process-wide state.
"""

import fcntl
import functools
import getpass
import logging
import os
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hashtag_core.errors import ConfigError, NotFoundError, StorageError
from hashtag_core.redaction import redact
from hashtag_core.tracking.make_once import create_run, over_http
from hashtag_core.tracking.mlflow_import import be_quiet
from hashtag_core.tracking.server_wait import check_reachable, wait_until_reachable

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

PARAM_CHARACTERS = 6000
TAG_CHARACTERS = 5000
"""The smallest of MLflow's limits for a tag's value: run tags 8000, tags of a registered model 5000."""
PARAMS_A_BATCH = 100
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Of an experiment: its page in MLflow opens on the runs, and not on traces of a language model."""
METRICS_A_BATCH = 1000


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI` if set, else `mlflow.db` in the working folder as an absolute `sqlite:///` URI.

    Under `ray job submit` the working folder is a temporary copy, so there an unset variable means
    `~/.hashtag-recommender/mlflow.db` on that node, with a warning that says how to set it.
    """
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    return (
        _submitted_job_store()
        if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
        else f"sqlite:///{Path.cwd() / 'mlflow.db'}"
    )


@functools.cache
def _submitted_job_store() -> str:
    path = Path.home() / ".hashtag-recommender" / "mlflow.db"
    logger.warning(
        "MLFLOW_TRACKING_URI is not set for this Ray job: runs and models go to %s on this node alone. Set it with "
        '`ray job submit --runtime-env-json \'{"env_vars": {"MLFLOW_TRACKING_URI": "http://..."}}\' ...`',
        path,
    )
    return f"sqlite:///{path}"


def connect(*, create: bool = True, patient: bool = False) -> "MlflowClient":
    """A client of `tracking_uri()`.

    `patient`: a server that is away is waited for, since work is done that is to be recorded; else it is said at once, which is
    what one wants of a server that is named wrongly. Raises StorageError when the server does not answer or the database cannot be written, and, where
    `create` is False, NotFoundError for a database file that is not there (MLflow would make an empty one).
    """
    be_quiet()
    uri = tracking_uri()
    database = _sqlite_file(uri)
    if database is not None:
        _check_database_file(database, create=create)
        if not database.exists():
            _create_database(database)
    elif uri.startswith(("http://", "https://")):
        (wait_until_reachable if patient else check_reachable)(uri)
    from mlflow import MlflowClient

    with mlflow_errors(f"cannot open {redact(uri)}"):
        return MlflowClient(tracking_uri=uri)


def _create_database(database: Path) -> None:
    """Make an MLflow database and move it into place whole.

    MLflow's migrations fail when two processes run them on one new file, and a process that dies in them leaves a file
    that no later one can open.
    """
    from mlflow import MlflowClient

    with mlflow_errors(f"cannot make {database}"), open(database.with_name(f".{database.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not database.exists():
            draft = database.with_name(f".{database.name}.new")
            draft.unlink(missing_ok=True)
            logger.info("making the MLflow database %s", database)
            MlflowClient(tracking_uri=f"sqlite:///{draft}").search_registered_models(max_results=1)
            draft.replace(database)


def _sqlite_file(uri: str) -> Path | None:
    """The file of a `sqlite:///` URI; None for every other store."""
    if not uri.startswith("sqlite:///"):
        return None
    name = uri.removeprefix("sqlite:///").split("?", 1)[0]
    return Path(name) if name and name != ":memory:" else None


def _check_database_file(database: Path, *, create: bool) -> None:
    if not database.exists() and not create:
        raise NotFoundError(
            f"no MLflow database at {database}: nothing is registered yet (MLFLOW_TRACKING_URI names another one)"
        )
    try:
        if create:
            database.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{database.parent}: cannot make the folder of the MLflow database: {error.strerror}"
        ) from None
    # SQLite journals beside the file, so the folder must be writable too; MLflow retries a refusal for 100 s.
    for path in (database.parent, database):
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            raise StorageError(f"{path}: the MLflow database cannot be written: permission denied")


@contextmanager
def mlflow_errors(operation: str) -> Iterator[None]:
    """Turn what MLflow raises into ours: NotFoundError for what is not there, StorageError for the rest.

    `operation` opens the message: what could not be done.
    """
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError, OSError) as error:
        cause = str(error).strip().split("\n", 1)[0]
        missing = getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST"
        message = redact(f"{operation}: {cause}")
        raise (NotFoundError if missing else StorageError)(message) from (
            None if message != f"{operation}: {cause}" else error
        )


def current_user() -> str:
    """Who runs this, for the record; `unknown` where the system does not know (a container without that user)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


@dataclass(frozen=True)
class Run:
    """An open run. Every method raises StorageError when MLflow refuses or cannot be reached."""

    client: "MlflowClient"
    run_id: str
    experiment_id: str

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Parameters of any depth as `section.field`. MLflow keeps the first value of a name: a resumed run that brings
        another one keeps the old, with a warning."""
        with mlflow_errors(f"cannot log parameters of run {self.run_id}"):
            from mlflow.entities import Param

            flat = {name: redact(str(value))[:PARAM_CHARACTERS] for name, value in _flatten(values)}
            known = self.client.get_run(self.run_id).data.params
            for name in known.keys() & flat.keys():
                if flat[name] != known[name]:
                    logger.warning(
                        "run %s keeps %s = %s, this part of it has %s", self.run_id, name, known[name], flat[name]
                    )
            params = [Param(name, value) for name, value in flat.items() if name not in known]
            for start in range(0, len(params), PARAMS_A_BATCH):
                self.client.log_batch(self.run_id, params=params[start : start + PARAMS_A_BATCH])

    def log_metrics(
        self, values: Mapping[str, float], step: int | None = None, measured_at: float | None = None
    ) -> None:
        """Metrics, at a step where there is one. `measured_at`: seconds since 1970; None: now."""
        with mlflow_errors(f"cannot log metrics of run {self.run_id}"):
            from mlflow.entities import Metric

            now_ms = int((measured_at or time.time()) * 1000)
            metrics = [Metric(name, float(value), now_ms, step or 0) for name, value in values.items()]
            for start in range(0, len(metrics), METRICS_A_BATCH):
                self.client.log_batch(self.run_id, metrics=metrics[start : start + METRICS_A_BATCH])

    def last_step(self, metric: str) -> int:
        """The last step at which the metric was logged; 0 where it never was."""
        with mlflow_errors(f"cannot read metrics of run {self.run_id}"):
            return max((entry.step for entry in self.client.get_metric_history(self.run_id, metric)), default=0)

    def set_tags(self, values: Mapping[str, Any]) -> None:
        """Tags of the run; a value is cut at `TAG_CHARACTERS`."""
        with mlflow_errors(f"cannot tag run {self.run_id}"):
            for name, value in values.items():
                self.client.set_tag(self.run_id, name, redact(str(value))[:TAG_CHARACTERS])

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """A local file, or a local folder with all that is in it, under `folder` of the run's artifacts."""
        with mlflow_errors(f"cannot log {path} to run {self.run_id}"):
            if Path(path).is_dir():
                self.client.log_artifacts(self.run_id, str(path), folder)
            else:
                self.client.log_artifact(self.run_id, str(path), folder)

    def log_json(self, value: Any, name: str) -> None:
        """A JSON artifact; `name` ends in `.json`."""
        with mlflow_errors(f"cannot log {name} to run {self.run_id}"):
            self.client.log_dict(self.run_id, value, name)

    def log_text(self, text: str, name: str) -> None:
        """A text artifact."""
        with mlflow_errors(f"cannot log {name} to run {self.run_id}"):
            self.client.log_text(self.run_id, text, name)

    def log_table(self, columns: Mapping[str, Sequence[Any]], name: str) -> None:
        """A table as MLflow shows it beside those of other runs; `name` ends in `.json`."""
        with mlflow_errors(f"cannot log {name} to run {self.run_id}"):
            self.client.log_table(self.run_id, dict(columns), name)

    def log_output_model(self, model_id: str) -> None:
        """Tell MLflow that the run made this logged model."""
        with mlflow_errors(f"cannot log a model of run {self.run_id}"):
            from mlflow.entities import LoggedModelOutput
            from mlflow.exceptions import MlflowException

            try:
                self.client.log_outputs(self.run_id, [LoggedModelOutput(model_id, step=0)])
            except (
                MlflowException
            ):  # it is refused where it stands there already: the answer to a first request was lost
                outputs = self.client.get_run(self.run_id).outputs
                if model_id not in [each.model_id for each in (outputs.model_outputs if outputs else [])]:
                    raise

    def log_figure(self, figure: "Figure", name: str) -> None:
        """A matplotlib figure; `name` ends in `.png` or `.svg`."""
        with mlflow_errors(f"cannot log {name} to run {self.run_id}"):
            self.client.log_figure(self.run_id, figure, name)


def version_label(version: str) -> str:
    """How the name of a run tells a version: `v4`, or the begin of a folder's content hash."""
    return f"v{version}" if version.isdecimal() else version[:8]


def metric_history(run_id: str, metric: str, *, patient: bool = False) -> list[float]:
    """The metric's values by rising step; empty where it was never logged. `patient`: a server that is away is waited for."""
    client = connect(create=False, patient=patient)
    with mlflow_errors(f"cannot read metrics of run {run_id}"):
        entries = client.get_metric_history(run_id, metric)
    return [entry.value for entry in sorted(entries, key=lambda entry: entry.step)]


def newest_metric(experiment: str, tags: Mapping[str, str], metric: str) -> float | None:
    """The metric of the newest run of the experiment that has all these tags; None where that run does not tell it."""
    client = connect()
    with mlflow_errors(f"cannot look for runs of experiment {experiment!r}"):
        found = client.get_experiment_by_name(experiment)
        wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        order = ["attributes.start_time DESC"]
        runs = client.search_runs([found.experiment_id], wanted, max_results=1, order_by=order) if found else []
        return runs[0].data.metrics.get(metric) if runs else None


def count_runs(experiment: str, tags: Mapping[str, str]) -> int:
    """How many runs of the experiment have all these tags; 0 where there is no such experiment."""
    client = connect()
    with mlflow_errors(f"cannot count runs of experiment {experiment!r}"):
        found = client.get_experiment_by_name(experiment)
        if found is None:
            return 0
        wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        count, token = 0, None
        while True:
            page = client.search_runs([found.experiment_id], wanted, max_results=1000, page_token=token)
            count, token = count + len(page), page.token
            if not token:
                return count


@contextmanager
def start_run(
    experiment: str,
    name: str,
    run_id: str | None = None,
    tags: Mapping[str, Any] | None = None,
    parent: str | None = None,
    *,
    patient: bool = False,
) -> Iterator[Run]:
    """A new run of the experiment, which is made where it does not exist, or the run `run_id` taken up again.

    `parent`: the id of the run that MLflow shows it below. `patient`: as of `connect`.

    The run ends as FINISHED, as KILLED on an interrupt, as FAILED on any other exception. NotFoundError for a `run_id`
    that does not exist.
    """
    client = connect(patient=patient)
    labels = {
        "mlflow.user": current_user(),
        **({"mlflow.parentRunId": parent} if parent else {}),
        **{key: redact(str(value))[:TAG_CHARACTERS] for key, value in (tags or {}).items()},
    }
    with mlflow_errors(f"no run {run_id}" if run_id else f"cannot start a run of experiment {experiment!r}"):
        if run_id is None:
            info = create_run(client, _experiment_id(client, experiment), name, labels).info
        else:
            info = client.get_run(run_id).info
            client.update_run(run_id, status="RUNNING")
    run = Run(client, info.run_id, info.experiment_id)
    if run_id is not None and tags:
        run.set_tags(tags)
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        _end_run(client, run.run_id, status)


def _end_run(client: "MlflowClient", run_id: str, status: str) -> None:
    try:
        if status != "FINISHED" and over_http(client):
            check_reachable(client.tracking_uri)  # what failed since the server is away need not wait for it once more
        with mlflow_errors(f"cannot close run {run_id}"):
            client.set_terminated(run_id, status)
    except StorageError as error:
        if status == "FINISHED":
            raise
        logger.warning("%s", error)  # the exception on its way out matters more


def _experiment_id(client: "MlflowClient", name: str) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            location = _artifact_location(client.tracking_uri, name)
            return str(client.create_experiment(name, artifact_location=location, tags=KIND))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)  # another process was quicker
    if experiment.lifecycle_stage != "active":
        raise ConfigError(
            f"tracking.experiment: {name!r} was deleted in MLflow; restore it with "
            f"`mlflow experiments restore --experiment-id {experiment.experiment_id}` or take another name"
        )
    return str(experiment.experiment_id)


def _artifact_location(uri: str, experiment: str) -> str | None:
    """Beside a SQLite database, since MLflow would take `./mlruns`; a server decides for itself."""
    database = _sqlite_file(uri)
    if database is None:
        return None
    return (database.absolute().parent / "mlartifacts" / urllib.parse.quote(experiment, safe=" ")).as_uri()


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
