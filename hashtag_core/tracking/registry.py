"""Model versions and the champion.

A version is a plain model folder in the artifacts of the run that made it: nothing is pickled, so it loads where MLflow
may not execute model code. Two aliases stand over the versions of one registered model: `champion`, which tagging takes,
and `previous`, to which a rollback returns. Every move is a tag of the registered model (`champion_move.<time>`: from,
to, who, why), and the line of champions is read from those tags: a promotion adds to it, a rollback takes the last one
off, so that a second rollback goes one further back.
"""

import atexit
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlparse

from hashtag_core import storage
from hashtag_core.config import nearest
from hashtag_core.errors import ConfigError, IntegrityError, NotFoundError, StorageError
from hashtag_core.tracking.runs import TAG_CHARACTERS, Run, connect, current_user, mlflow_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)

CHAMPION = "champion"
PREVIOUS = "previous"
READY_TIMEOUT_S = 120

_MODEL_FOLDER = "model"
_MOVE = "champion_move."
_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[^/@]+))")


@dataclass(frozen=True)
class ResolvedModel:
    """One model, fixed: an alias has become a version.

    `folder` is a local folder. `version` is the registered version or, of a model given as a folder, the content hash
    in its `model.json`; `uri` names the same model again (`models:/NAME/VERSION`, or the folder as given).
    """

    folder: Path
    name: str
    version: str
    uri: str
    run_id: str | None = None
    tags: Mapping[str, str] | None = None
    """Tags of the registered version; None for a folder."""


@dataclass(frozen=True)
class Move:
    """One move of the champion, as it was recorded."""

    kind: Literal["promote", "rollback"]
    to: str
    before: str | None
    at: str
    by: str
    why: Mapping[str, Any]


def model_uri(name: str, version: str) -> str:
    """`models:/NAME/VERSION`."""
    return f"models:/{name}/{version}"


def register_model_folder(run: Run, folder: str | Path, name: str, tags: Mapping[str, Any] | None = None) -> str:
    """Log the model folder to the run and make it the next version of `name`; returns `models:/NAME/VERSION`.

    A run may register several. Comes back when the version is ready. StorageError where MLflow refuses.
    """
    from mlflow.exceptions import MlflowException

    client = run.client
    with mlflow_errors(f"cannot look up the versions of run {run.run_id}"):
        before = len(client.search_model_versions(f"run_id = '{run.run_id}'"))
    path = f"{_MODEL_FOLDER}-{before + 1}" if before else _MODEL_FOLDER
    run.log_artifact(folder, path)
    with mlflow_errors(f"cannot register {folder} as a version of {name!r}"):
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = client.create_model_version(
            name,
            source=f"runs:/{run.run_id}/{path}",
            run_id=run.run_id,
            tags={key: str(value)[:TAG_CHARACTERS] for key, value in (tags or {}).items()},
            await_creation_for=READY_TIMEOUT_S,
        )
    return model_uri(name, str(version.version))


def resolve_model(model: str, folder: str | Path | None = None) -> ResolvedModel:
    """The model that MODEL names, on local disk.

    MODEL is `models:/NAME/VERSION`, `models:/NAME@ALIAS`, or a model folder (local or `s3://`). What is not local
    already is downloaded to `folder`, or to a temporary one that goes when the process ends.

    Raises ConfigError for a `models:` URI of another form, NotFoundError for a model, version, alias or folder that does
    not exist (the nearest one is offered), StorageError where MLflow or the storage cannot be reached, IntegrityError
    for a `model.json` that names no model.
    """
    if not model.startswith("models:"):
        return _resolve_folder(model, folder)
    client, version = _locate(model)
    number = str(version.version)
    return ResolvedModel(
        folder=_download(client, version, folder),
        name=version.name,
        version=number,
        uri=model_uri(version.name, number),
        run_id=version.run_id or None,
        tags=dict(version.tags),
    )


def find_version(model: str) -> tuple[str, str, dict[str, str]]:
    """Name, version and tags of a `models:/` URI, without downloading anything; errors as `resolve_model`."""
    _, version = _locate(model)
    return version.name, str(version.version), dict(version.tags)


def set_version_tags(name: str, version: str, tags: Mapping[str, Any]) -> None:
    """Tags of a registered version; a value is cut at `TAG_CHARACTERS`."""
    client = connect(create=False)
    with mlflow_errors(f"cannot tag {model_uri(name, version)}"):
        for key, value in tags.items():
            client.set_model_version_tag(name, version, key, str(value)[:TAG_CHARACTERS])


def champion(name: str) -> str | None:
    """The version under the alias `champion`; None while there is none (or no such model yet)."""
    try:
        return _alias(connect(create=False), name, CHAMPION)
    except NotFoundError:
        return None


def move_champion(name: str, version: str, why: Mapping[str, Any], expected: str | None = None) -> str | None:
    """Make `version` the champion and record the move; returns the version that was it before.

    `expected` is the champion that the decision was made against: StorageError if another process has moved the alias
    since.
    """
    client = connect(create=False)
    before = _alias(client, name, CHAMPION)
    if before != expected:
        raise StorageError(
            f"the champion of {name!r} changed from {_shown(expected)} to {_shown(before)} meanwhile: nothing was moved, run again"
        )
    _find(client, model_uri(name, version))
    line = champion_line(name)
    _move(client, name, Move("promote", version, before, _now(), current_user(), why), [*line, version])
    return before


def rollback(name: str, why: Mapping[str, Any] | None = None) -> tuple[str, str]:
    """Make the champion before the present one champion again; returns (present champion, the one that was taken off).

    A second rollback goes one further back. NotFoundError when there is no champion or none before it.
    """
    client = connect(create=False)
    line = champion_line(name)
    if not line:
        raise NotFoundError(f"model {name!r} has no champion to roll back from")
    if len(line) == 1:
        raise NotFoundError(f"no champion before version {line[-1]} of model {name!r}: nothing to roll back to")
    _move(client, name, Move("rollback", line[-2], line[-1], _now(), current_user(), why or {}), line[:-1])
    return line[-2], line[-1]


def champion_line(name: str) -> list[str]:
    """Versions that a rollback can return to, oldest first, the present champion last; deleted versions are left out.

    An alias that was moved by hand in MLflow counts as a promotion.
    """
    client = connect(create=False)
    line: list[str] = []
    for move in champion_moves(name):
        if move.kind == "rollback" and line:
            line.pop()
        if not line or line[-1] != move.to:
            line.append(move.to)
    with mlflow_errors(f"cannot list the versions of {name!r}"):
        existing = {str(version.version) for version in _versions(client, name)}
    line = [version for version in line if version in existing]
    present = _alias(client, name, CHAMPION)
    if present is not None and (not line or line[-1] != present):
        line.append(present)
    return line if present is not None else []


def champion_moves(name: str) -> list[Move]:
    """Every recorded move of the champion, oldest first."""
    client = connect(create=False)
    with mlflow_errors(f"no registered model {name!r}"):
        tags = client.get_registered_model(name).tags
    moves = []
    for key in sorted(key for key in tags if key.startswith(_MOVE)):
        try:
            moves.append(Move(at=key.removeprefix(_MOVE), **json.loads(tags[key])))
        except (ValueError, TypeError):
            raise IntegrityError(f"model {name!r}: tag {key} is no record of a move: {tags[key][:200]}") from None
    return moves


def _move(client: "MlflowClient", name: str, move: Move, line: list[str]) -> None:
    # The alias first: a crash before the record looks like a move by hand, which `champion_line` allows for.
    record: dict[str, Any] = {
        "kind": move.kind,
        "to": move.to,
        "before": move.before,
        "by": move.by,
        "why": dict(move.why),
    }
    if len(json.dumps(record)) > TAG_CHARACTERS:
        record["why"] = {"left_out": "longer than a tag may be"}
    with mlflow_errors(f"cannot move the champion of {name!r}"):
        client.set_registered_model_alias(name, CHAMPION, move.to)
        client.set_registered_model_tag(name, _MOVE + move.at, json.dumps(record))
        if len(line) > 1:
            client.set_registered_model_alias(name, PREVIOUS, line[-2])
        elif _alias(client, name, PREVIOUS) is not None:
            client.delete_registered_model_alias(name, PREVIOUS)
    logger.info("champion of %s: version %s (was %s)", name, move.to, _shown(move.before))


def _locate(model: str) -> "tuple[MlflowClient, ModelVersion]":
    try:
        client = connect(create=False)
    except NotFoundError as error:
        raise NotFoundError(f"{model}: {error}") from None
    return client, _find(client, model)


def _find(client: "MlflowClient", model: str) -> "ModelVersion":
    match = _URI.fullmatch(model)
    if match is None:
        raise ConfigError(f"{model}: a registered model is models:/NAME/VERSION or models:/NAME@ALIAS")
    name, number, alias = match["name"], match["version"], match["alias"]
    aliases = _aliases(client, name)
    if alias is not None:
        number = aliases.get(alias)
        if number is None:
            has = f"it has {', '.join(sorted(aliases))}" if aliases else "it has no alias yet"
            raise NotFoundError(f"{model}: model {name!r} has no alias {alias!r}{nearest(alias, aliases)}; {has}")
    with mlflow_errors(f"cannot list the versions of {name!r}"):
        versions = {str(version.version): version for version in _versions(client, name)}
    if str(number) not in versions:
        known = sorted(versions, key=int)
        has = (
            f"it has {known[0]} to {known[-1]}" if len(known) > 1 else f"it has {known[0]}" if known else "it has none"
        )
        raise NotFoundError(f"{model}: model {name!r} has no version {number}; {has}")
    with mlflow_errors(f"no model {model}"):
        return client.get_model_version(name, str(number))


def _versions(client: "MlflowClient", name: str) -> "list[ModelVersion]":
    quoted = name.replace("'", "''")
    found, token = [], None
    while True:
        page = client.search_model_versions(f"name = '{quoted}'", max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _aliases(client: "MlflowClient", name: str) -> dict[str, str]:
    from mlflow.exceptions import MlflowException

    with mlflow_errors(f"cannot read model {name!r}"):
        try:
            return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            known = [model.name for model in client.search_registered_models()]
    has = f"there are {', '.join(sorted(known)[:10])}" if known else "nothing is registered yet"
    raise NotFoundError(f"no registered model {name!r}{nearest(name, known)}; {has}")


def _alias(client: "MlflowClient", name: str, alias: str) -> str | None:
    return _aliases(client, name).get(alias)


def _download(client: "MlflowClient", version: "ModelVersion", folder: str | Path | None) -> Path:
    from mlflow.artifacts import download_artifacts

    shown = model_uri(version.name, str(version.version))
    with mlflow_errors(f"cannot download {shown}"):
        source = client.get_model_version_download_uri(version.name, str(version.version))
        if source.startswith("runs:/"):
            run_id, _, path = source.removeprefix("runs:/").partition("/")
            source = f"{client.get_run(run_id).info.artifact_uri.rstrip('/')}/{path}"
        local = urlparse(source).scheme in ("", "file")
        target = None if local and folder is None else str(folder or _temporary_folder())
        found = Path(download_artifacts(source, dst_path=target, tracking_uri=client.tracking_uri))
    if not (found / "model.json").exists():
        raise NotFoundError(f"{shown}: its artifacts at {source} are no model folder: no model.json")
    return found


def _resolve_folder(model: str, folder: str | Path | None) -> ResolvedModel:
    remote = storage.is_remote(model)
    marker = storage.join(model, "model.json")
    if not storage.exists(marker):
        what = "is no model folder: no model.json" if storage.exists(model) else "does not exist"
        raise NotFoundError(
            f"model {model} {what} (MODEL is models:/NAME/VERSION, models:/NAME@ALIAS or a model folder)"
        )
    if remote:
        path = Path(folder or _temporary_folder())
        storage.download_folder(model, path)
    else:
        path = Path(storage.local_path(model)).absolute()
    try:
        description = json.loads((path / "model.json").read_text(encoding="utf-8"))
        return ResolvedModel(path, str(description["name"]), str(description["version"]), model)
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{marker}: names no model (`name`, `version`): {error!r}") from None


def _temporary_folder() -> str:
    path = tempfile.mkdtemp(prefix="hashtag-model-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _shown(version: str | None) -> str:
    return "none" if version is None else f"version {version}"
