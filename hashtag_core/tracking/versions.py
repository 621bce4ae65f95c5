"""Model versions: what is registered, and what a MODEL on the command line means.

A version is a plain model folder in the artifacts of the run that made it: nothing is pickled, so it loads where MLflow
may not execute model code.
"""

import atexit
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast
from urllib.parse import urlparse

from hashtag_core import storage
from hashtag_core.config import nearest
from hashtag_core.data.hub_folder import SCHEME, pull
from hashtag_core.data.model_files import check_model_files, content_hash, hash_files, read_description
from hashtag_core.errors import ConfigError, IntegrityError, NotFoundError
from hashtag_core.json_values import JsonObject
from hashtag_core.tracking.champion_lock import is_turn, patiently
from hashtag_core.tracking.make_once import create_logged_model, delete, over_http
from hashtag_core.tracking.mlflow_model import FOLDER, save_mlflow_model
from hashtag_core.tracking.runs import TAG_CHARACTERS, Run, connect, mlflow_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)

READY_TIMEOUT_S = 120
CONTENT_HASH, FILES, PLACE = "content_hash", "content_files", "model_folder"
"""Tags of a version: the hash over all files of its model folder, each file's own, and where the folder is."""
FILES_KEY = "files"

_URI = re.compile(r"models:/(?P<name>[^/]+?)(?:/(?P<version>[1-9]\d*)|@(?P<alias>[^/@]+))", re.DOTALL)


@dataclass(frozen=True)
class ResolvedModel:
    """One model, fixed: an alias has become a version.

    `folder` is a local folder. `version` is the registered version or, of a model given as a folder, the short
    content hash that its files make; `uri` names the same model again (`models:/NAME/VERSION`, or the folder as given).
    """

    folder: Path
    name: str
    version: str
    uri: str
    run_id: str | None = None
    tags: Mapping[str, str] | None = None
    """Tags of the registered version; None for a folder."""
    content_hash: str = ""
    """SHA-256 (hex) over every file of `folder`, computed from the bytes; of a registered version it is the one that was
    pinned when it was registered. `LoadedModel.content_hash` of the same files is the same."""


def model_uri(name: str, version: str) -> str:
    """`models:/NAME/VERSION`."""
    return f"models:/{name}/{version}"


def register_model_folder(
    run: Run,
    folder: str | Path,
    name: str,
    tags: Mapping[str, Any] | None = None,
    *,
    description: str = "",
    golden: Mapping[str, object] | None = None,
) -> str:
    """Log the model folder to the run as an MLflow model and make it the next version of `name`; returns
    `models:/NAME/VERSION`.

    A run may register several. The version's tags pin the content hash of the folder and of every file in it.
    `golden`: what the model gave to fixed posts, kept beside. Comes back when the version is ready. StorageError where
    MLflow refuses, ConfigError for a name that it does not take.
    """
    check_name(name)
    files = hash_files(folder)
    pins = {CONTENT_HASH: content_hash(files), FILES: _fitting(files), PLACE: FOLDER}
    client = run.client
    _ensure_registered(client, name)
    with mlflow_errors(f"cannot register {folder} as a version of {name!r}"):
        kept = {key: str(value)[:TAG_CHARACTERS] for key, value in (tags or {}).items()}
        logged = create_logged_model(client, run.experiment_id, _logged_name(name), run.run_id, {**kept, **pins})
        with tempfile.TemporaryDirectory(prefix="hashtag-mlflow-") as drafts:
            draft = Path(drafts, "model")
            save_mlflow_model(Path(folder), draft, {"run_id": run.run_id, "model_id": logged.model_id}, golden)
            client.log_model_artifacts(logged.model_id, str(draft))
        client.finalize_logged_model(logged.model_id, "READY")
        run.log_output_model(logged.model_id)
        # A server knows its own models; a database is asked through MLflow's process-wide URI, which is not ours.
        source = f"models:/{logged.model_id}" if over_http(client) else logged.artifact_location
        version = client.create_model_version(
            name,
            source=source,
            run_id=run.run_id,
            model_id=logged.model_id,
            tags={**kept, **pins},
            description=description or None,
            await_creation_for=READY_TIMEOUT_S,
        )
        number = _first_of(client, name, source) if over_http(client) else str(version.version)
    return model_uri(name, number)


def _first_of(client: "MlflowClient", name: str, source: str) -> str:
    """The first version that was made of a source; others of it are deleted, since the answer to a request was lost."""
    first, *others = sorted(
        (str(version.version) for version in _versions(client, name) if version.source == source), key=int
    )
    for other in others:
        delete(client.delete_model_version, name, other)
    return first


def check_name(name: str) -> None:
    """ConfigError for a name that no registered model can have."""
    if not name.strip() or any(sign in name for sign in "/:") or name.startswith("m-"):
        raise ConfigError(
            f"tracking.model_name: {name!r} cannot be the name of a registered model: it may not be empty, nor hold "
            "'/' or ':', nor begin with 'm-'"
        )


def resolve_model(model: str, folder: str | Path | None = None, *, patient: bool = False) -> ResolvedModel:
    """The model that MODEL names, on local disk.

    MODEL is `models:/NAME/VERSION`, `models:/NAME@ALIAS`, `hf:OWNER/NAME`, or a model folder (local or `s3://`). What is not local
    already is downloaded to `folder`, or to a temporary one that goes when the process ends. Every file is hashed: a folder
    must be what its own list says, and a registered version what was pinned in its tags, else IntegrityError names the file.
    `patient`: an MLflow server that is away is waited for.

    Raises ConfigError for a `models:` URI of another form, NotFoundError for a model, version, alias or folder that does
    not exist (the nearest one is offered), StorageError where MLflow or the storage cannot be reached, IntegrityError
    for a `model.json` that names no model.
    """
    if model.startswith(SCHEME):
        pulled = pull(model, folder or _temporary_folder())
        return replace(_resolve_folder(str(pulled), None), uri=model)
    if not model.startswith("models:"):
        return _resolve_folder(model, folder)
    client, version = _locate(model, patient=patient)
    number = str(version.version)
    path = _download(client, version, folder)
    return ResolvedModel(
        folder=path,
        name=version.name,
        version=number,
        uri=model_uri(version.name, number),
        run_id=version.run_id or None,
        tags=dict(version.tags),
        content_hash=_checked(model_uri(version.name, number), path, version.tags),
    )


def find_version(model: str) -> tuple[str, str, dict[str, str]]:
    """Name, version and tags of a `models:/` URI, without downloading anything; errors as `resolve_model`."""
    _, version = _locate(model)
    return version.name, str(version.version), dict(version.tags)


def list_versions(name: str) -> list[tuple[str, dict[str, str]]]:
    """Every version with its tags, by rising number; empty where no such model is registered."""
    try:
        client = connect(create=False)
    except NotFoundError:
        return []
    with mlflow_errors(f"cannot list the versions of {name!r}"):
        found = [(str(version.version), dict(version.tags)) for version in _versions(client, name)]
    return sorted(found, key=lambda pair: int(pair[0]))


def version_run(model: str) -> str | None:
    """The id of the run that made a `models:/` version; None where it names none. Errors as `resolve_model`."""
    _, version = _locate(model)
    return version.run_id or None


def set_version_tags(name: str, version: str, tags: Mapping[str, Any]) -> None:
    """Tags of a registered version; a value is cut at `TAG_CHARACTERS`."""
    client = connect(create=False, patient=True)
    with mlflow_errors(f"cannot tag {model_uri(name, version)}"):
        for key, value in tags.items():
            client.set_model_version_tag(name, version, key, str(value)[:TAG_CHARACTERS])


def download_version_file(model: str, name: str) -> bytes | None:
    """A file beside the model folder in the artifacts of a `models:/` version (`MLmodel`, `golden.json`); None where it
    has none. Errors as `resolve_model`."""
    from mlflow.exceptions import MlflowException

    client, version = _locate(model)
    if PLACE not in version.tags:
        return None
    from mlflow.artifacts import download_artifacts

    with mlflow_errors(f"cannot download {name} of {model}"), tempfile.TemporaryDirectory(prefix="hashtag-") as folder:
        source = f"{_source(client, version)}/{name}"
        try:
            return Path(download_artifacts(source, dst_path=folder, tracking_uri=client.tracking_uri)).read_bytes()
        except (FileNotFoundError, MlflowException) as error:
            logger.debug("%s has no %s: %s", model, name, error)
            return None


class Signature(TypedDict, total=False):
    """What a version takes and gives, as MLflow writes it: a column (or parameter) each with `name`, `type`, ..."""

    inputs: list[JsonObject]
    outputs: list[JsonObject]
    params: list[JsonObject]


def version_signature(model: str) -> Signature | None:
    """Columns in and out of a `models:/` version, from its `MLmodel`; None where it has none. Errors as `resolve_model`."""
    text = download_version_file(model, "MLmodel")
    if text is None:
        return None
    import yaml

    found = (yaml.safe_load(text) or {}).get("signature") or {}
    return cast(
        Signature, {part: json.loads(found[part]) for part in ("inputs", "outputs", "params") if found.get(part)}
    )


def aliases_of(client: "MlflowClient", name: str) -> dict[str, str]:
    """Alias -> version. NotFoundError, with the nearest name, for a model that is not registered."""
    from mlflow.exceptions import MlflowException

    with mlflow_errors(f"cannot read model {name!r}"):
        try:
            return {
                alias: str(version)
                for alias, version in patiently(lambda: client.get_registered_model(name)).aliases.items()
            }
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            known = [model.name for model in client.search_registered_models() if not is_turn(model.tags)]
    has = f"there are {', '.join(sorted(known)[:10])}" if known else "nothing is registered yet"
    raise NotFoundError(f"no registered model {name!r}{nearest(name, known)}; {has}")


def version_numbers(client: "MlflowClient", name: str) -> list[str]:
    """The versions that exist, by rising number."""
    with mlflow_errors(f"cannot list the versions of {name!r}"):
        return sorted((str(version.version) for version in _versions(client, name)), key=int)


def find_known(client: "MlflowClient", model: str) -> "ModelVersion":
    """The version that a `models:/` URI names; errors as `resolve_model`."""
    match = _URI.fullmatch(model)
    if match is None:
        raise ConfigError(f"{model}: a registered model is models:/NAME/VERSION or models:/NAME@ALIAS")
    name, number, alias = match["name"], match["version"], match["alias"]
    aliases = aliases_of(client, name)
    if alias is not None:
        number = aliases.get(alias)
        if number is None:
            has = f"it has {', '.join(sorted(aliases))}" if aliases else "it has no alias yet"
            raise NotFoundError(f"{model}: model {name!r} has no alias {alias!r}{nearest(alias, aliases)}; {has}")
    known = version_numbers(client, name)
    if str(number) not in known:
        has = (
            f"it has {known[0]} to {known[-1]}" if len(known) > 1 else f"it has {known[0]}" if known else "it has none"
        )
        raise NotFoundError(f"{model}: model {name!r} has no version {number}; {has}")
    with mlflow_errors(f"no model {model}"):
        return client.get_model_version(name, str(number))


def _locate(model: str, *, patient: bool = False) -> "tuple[MlflowClient, ModelVersion]":
    try:
        client = connect(create=False, patient=patient)
    except NotFoundError as error:
        raise NotFoundError(f"{model}: {error}") from None
    return client, find_known(client, model)


def _versions(client: "MlflowClient", name: str) -> "Iterator[ModelVersion]":
    # MLflow's filters know no escape: a name with both kinds of quotes is looked for among all.
    quote = "'" if "'" not in name else '"'
    wanted, token = None if quote in name else f"name = {quote}{name}{quote}", None
    while True:
        page = client.search_model_versions(wanted, max_results=1000, page_token=token)
        yield from (version for version in page if version.name == name)
        token = page.token
        if not token:
            return


def _ensure_registered(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    with mlflow_errors(f"cannot register a model {name!r}"):
        try:
            client.create_registered_model(
                name, description="Hashtags for posts. `champion` is what tagging takes, `previous` what it was before."
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def _logged_name(name: str) -> str:
    """The name as MLflow takes it for a logged model, which may not hold some signs that a registered one may."""
    return re.sub(r"[/:.%\"']", "-", name)


def _fitting(files: Mapping[str, str]) -> str:
    """The hashes as JSON; nothing where they do not fit a tag, since half of them pins nothing."""
    text = json.dumps(files)
    return text if len(text) <= TAG_CHARACTERS else "{}"


def _checked(shown: str, folder: Path, tags: Mapping[str, str]) -> str:
    """The content hash of a downloaded version. IntegrityError, naming the file, where it is not the one pinned."""
    files = hash_files(folder)
    found, pinned = content_hash(files), tags.get(CONTENT_HASH)
    if pinned is None:
        logger.warning("%s was registered without a content hash: its files are taken for what they are", shown)
    elif found != pinned:
        listed: dict[str, str] = json.loads(tags.get(FILES, "{}"))
        problems = [f"{name} is missing" for name in listed if name not in files]
        problems += [f"{name} was changed" for name in listed if name in files and files[name] != listed[name]]
        problems += [f"{name} was added" for name in files if listed and name not in listed]
        raise IntegrityError(
            f"{shown}: its files are not those that were registered: {', '.join(problems) or 'another content hash'} (in {folder})"
        )
    if FILES_KEY in read_description(folder):
        check_model_files(folder)
    return found


def _source(client: "MlflowClient", version: "ModelVersion") -> str:
    source = str(client.get_model_version_download_uri(version.name, str(version.version))).rstrip("/")
    if source.startswith("runs:/"):
        run_id, _, path = source.removeprefix("runs:/").partition("/")
        source = f"{client.get_run(run_id).info.artifact_uri.rstrip('/')}/{path}"
    return source


def _download(client: "MlflowClient", version: "ModelVersion", folder: str | Path | None) -> Path:
    from mlflow.artifacts import download_artifacts

    shown = model_uri(version.name, str(version.version))
    with mlflow_errors(f"cannot download {shown}"):
        source = _source(client, version)
        if location := version.tags.get(PLACE):
            source = f"{source}/{location}"
        local = urlparse(source).scheme in ("", "file")
        target = None if local and folder is None else str(folder or _temporary_folder())
        found = Path(download_artifacts(source, dst_path=target, tracking_uri=client.tracking_uri))
    if CONTENT_HASH not in version.tags and not (found / "model.json").exists():
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
        description = read_description(path)
        name, version = str(description["name"]), str(description["version"])
    except (KeyError, IntegrityError) as error:
        raise IntegrityError(f"{marker}: names no model (`name`, `version`): {error!r}") from None
    if FILES_KEY not in description:
        return ResolvedModel(path, name, version, model, content_hash=content_hash(hash_files(path)))
    checked = check_model_files(path)
    return ResolvedModel(path, name, checked.version, model, content_hash=checked.content_hash)


def _temporary_folder() -> str:
    path = tempfile.mkdtemp(prefix="hashtag-model-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path
