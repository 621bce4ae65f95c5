"""Where a model comes from: from what stands in a TAGGED row back to the parts of the archive."""

from typing import NotRequired, TypedDict

from hashtag_core.data.dataset import Dataset
from hashtag_core.data.model_files import read_description
from hashtag_core.data.model_record import CodeRecord, TrainedOn
from hashtag_core.errors import HashtagError, NotFoundError
from hashtag_core.json_values import JsonObject
from hashtag_core.tracking.runs import connect, mlflow_errors
from hashtag_core.tracking.versions import aliases_of, find_known, model_uri, resolve_model

SHOWN_PARTS = 1000


class ModelLink(TypedDict):
    """The version: of a registered one its aliases and the verdicts of the gates too."""

    uri: str
    name: str
    version: str
    content_hash: str
    folder_version: str | None
    family: str | None
    aliases: NotRequired[list[str]]
    verdict: NotRequired[str | None]
    gates: NotRequired[dict[str, str]]


class RunDataset(TypedDict):
    """A dataset input of an MLflow run."""

    name: str
    digest: str


class RunLink(TypedDict):
    """The MLflow run that trained it."""

    run_id: str
    name: str
    status: str
    user: str
    started_ms: int
    datasets: list[RunDataset]


class ArchiveLink(TypedDict):
    """The archive and, at most `SHOWN_PARTS`, the parts that train posts came from."""

    uri: str
    fingerprint: str
    parts: list[str]


class Lineage(TypedDict):
    """The chain of a model; what is gone is told under `missing`."""

    model: ModelLink
    run: RunLink | None
    code: CodeRecord | None
    recipe: JsonObject | None
    """As it was: an older release had other keys."""
    dataset: TrainedOn
    archive: ArchiveLink | None
    missing: list[str]


def lineage(model: str) -> Lineage:
    """The chain of a MODEL: `model` (version, aliases, content hash, verdicts of gates), `run`, `code`, `recipe`, `dataset`
    and `archive` with its parts, each as far as something is known of it.

    What is gone (a deleted run, a dataset that was moved away) is told under `missing`. Errors as `resolve_model`, for
    the model alone.
    """
    resolved = resolve_model(model)
    described = read_description(resolved.folder)
    missing: list[str] = []
    link: ModelLink = {
        "uri": resolved.uri,
        "name": resolved.name,
        "version": resolved.version,
        "content_hash": resolved.content_hash,
        "folder_version": described.get("version"),
        "family": described.get("family"),
    }
    if resolved.tags is not None:
        _add_registered(link, resolved.name, resolved.version)
    run_id = resolved.run_id or described.get("run_id")
    run, code = _run(run_id, missing) if run_id else (None, None)
    data: TrainedOn = described.get("dataset") or {}
    return {
        "model": link,
        "run": run,
        "code": described.get("code") or code,
        "recipe": described.get("recipe"),
        "dataset": data,
        "archive": _archive(data, missing),
        "missing": missing,
    }


def lineage_lines(chain: Lineage) -> list[str]:
    """The chain for people, a link a line."""
    model, run, code, data, archive = chain["model"], chain["run"], chain["code"], chain["dataset"], chain["archive"]
    recipe, parts = chain["recipe"] or {}, archive["parts"] if archive else []
    aliases = f" ({', '.join(model['aliases'])})" if model.get("aliases") else ""
    ran = f"{run['name']} ({run['run_id']}), {run['status']} {run['user']}" if run else "unknown (no run),"
    commit, dirty = (code["commit"], code["dirty"]) if code else ("unknown", "unknown")
    lines = [
        f"model    {model['uri']}{aliases}, {model['family']}, folder {model['folder_version']}, content {model['content_hash'][:12]}",
        f"run      {ran}".rstrip(),
        f"code     commit {commit}, changed since: {dirty}",
        f"recipe   family {recipe.get('model', {}).get('family', 'unknown')}, seed {recipe.get('training', {}).get('seed', 'unknown')}",
        f"dataset  {data.get('uri', 'unknown')} ({data.get('content_hash', 'unknown')[:12]}), posts {data.get('posts', 'unknown')}",
        f"archive  {archive['uri'] if archive else 'unknown'}, {len(parts)} part(s): {', '.join(parts[:5])}",
    ]
    verdicts = model.get("gates", {})
    if verdicts:
        lines.insert(1, "gates    " + ", ".join(f"{name} {text.partition(':')[0]}" for name, text in verdicts.items()))
    return [*lines, *(f"missing  {message}" for message in chain["missing"])]


def _add_registered(link: ModelLink, name: str, version: str) -> None:
    client = connect(create=False)
    found = find_known(client, model_uri(name, version))
    aliases = [alias for alias, number in sorted(aliases_of(client, name).items()) if number == version]
    gates = {key.removeprefix("gate."): value for key, value in found.tags.items() if key.startswith("gate.")}
    link["aliases"], link["verdict"], link["gates"] = aliases, found.tags.get("gates"), gates


def _run(run_id: str, missing: list[str]) -> tuple[RunLink | None, CodeRecord | None]:
    try:
        client = connect(create=False)
        with mlflow_errors(f"no run {run_id}"):
            run = client.get_run(run_id)
    except NotFoundError as error:
        missing.append(str(error))
        return None, None
    tags = run.data.tags
    code: CodeRecord = {
        "commit": tags.get("mlflow.source.git.commit", "unknown"),
        "dirty": tags.get("git.dirty", "unknown"),
    }
    link: RunLink = {
        "run_id": run_id,
        "name": run.info.run_name,
        "status": run.info.status,
        "user": tags.get("mlflow.user", ""),
        "started_ms": run.info.start_time,
        "datasets": [{"name": each.dataset.name, "digest": each.dataset.digest} for each in run.inputs.dataset_inputs],
    }
    return link, code


def _archive(data: TrainedOn, missing: list[str]) -> ArchiveLink | None:
    """The archive's parts, as the rows of the dataset name them, if the dataset is still what the model learned from."""
    uri = data.get("uri")
    if not uri:
        missing.append("the model's description names no dataset")
        return None
    try:
        dataset = Dataset.open(str(uri))
        if dataset.info.content_hash != data.get("content_hash"):
            missing.append(f"the dataset at {uri} is another one now ({dataset.info.content_hash[:12]})")
            return None
        parts: dict[str, None] = {}
        for table in dataset.read("train", ["source"]):
            for source in table["source"].to_pylist():
                parts.setdefault(source.rpartition("#")[0])
            if len(parts) >= SHOWN_PARTS:
                break
    except HashtagError as error:
        missing.append(str(error))
        return None
    return {"uri": dataset.info.archive, "fingerprint": dataset.info.fingerprint, "parts": list(parts)[:SHOWN_PARTS]}
