"""What is to be in MLflow once, though MLflow's client may ask for it twice.

The client asks again where no answer came. A server that went away between its commit and its answer has made the first one
by then, and would make a second. So what is made carries a mark, by which all of them are found afterwards; those that nobody
was told of are deleted. A database that is asked without a server loses no answer.
"""

import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

REQUEST = "request"
"""The tag that holds the mark."""


def over_http(client: "MlflowClient") -> bool:
    """Whether a server is asked, and no database."""
    return str(client.tracking_uri).startswith(("http://", "https://"))


def create_run(client: "MlflowClient", experiment_id: str, name: str, tags: Mapping[str, str]) -> "Run":
    """A new run."""
    mark, wanted = _new_mark()
    run = client.create_run(experiment_id, run_name=name, tags={**tags, **mark})
    if over_http(client):
        for other in client.search_runs([experiment_id], wanted):
            if other.info.run_id != run.info.run_id:
                delete(client.delete_run, other.info.run_id)
    return run


def create_logged_model(
    client: "MlflowClient", experiment_id: str, name: str, run_id: str, tags: Mapping[str, str]
) -> "LoggedModel":
    """A new logged model of a run."""
    mark, wanted = _new_mark()
    logged = client.create_logged_model(experiment_id, name, run_id, tags={**tags, **mark}, model_type="hashtags")
    if over_http(client):
        for other in client.search_logged_models([experiment_id], wanted):
            if other.model_id != logged.model_id:
                delete(client.delete_logged_model, other.model_id)
    return logged


def delete(call: Callable[..., None], *what: str) -> None:
    """Delete by the client's method; that it is gone already is as good."""
    from mlflow.exceptions import MlflowException

    try:
        call(*what)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def _new_mark() -> tuple[dict[str, str], str]:
    """A tag, and MLflow's filter for what has it."""
    mark = secrets.token_hex(8)
    return {REQUEST: mark}, f"tags.`{REQUEST}` = '{mark}'"
