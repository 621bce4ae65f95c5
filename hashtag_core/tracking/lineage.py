"""Where a model comes from: from what stands in a TAGGED row back to the parts of the archive."""

from typing import Any

from hashtag_core.data.dataset import Dataset
from hashtag_core.data.model_files import read_description
from hashtag_core.errors import HashtagError, NotFoundError
from hashtag_core.tracking.runs import connect, mlflow_errors
from hashtag_core.tracking.versions import aliases_of, find_known, model_uri, resolve_model

SHOWN_PARTS = 1000


def lineage(model: str) -> dict[str, Any]:
    """The chain of a MODEL: `model` (version, aliases, content hash, verdicts of gates), `run`, `code`, `recipe`, `dataset`
    and `archive` with its parts, each as far as something is known of it.

    What is gone (a deleted run, a dataset that was moved away) is told under `missing`. Errors as `resolve_model`, for
    the model alone.
    """
    resolved = resolve_model(model)
    described = read_description(resolved.folder)
    missing: list[str] = []
    chain: dict[str, Any] = {
        "model": {
            "uri": resolved.uri,
            "name": resolved.name,
            "version": resolved.version,
            "content_hash": resolved.content_hash,
            "folder_version": described.get("version"),
            "family": described.get("family"),
        }
    }
    if resolved.tags is not None:
        chain["model"] |= _registered(resolved.name, resolved.version)
    run_id = resolved.run_id or described.get("run_id")
    chain["run"], chain["code"] = _run(run_id, missing) if run_id else (None, None)
    chain["code"] = described.get("code") or chain["code"]
    chain["recipe"] = described.get("recipe")
    data = described.get("dataset") or {}
    chain["dataset"] = dict(data)
    chain["archive"] = _archive(data, missing)
    return {**chain, "missing": missing}


def lineage_lines(chain: dict[str, Any]) -> list[str]:
    """The chain for people, a link a line."""
    model, run, code, data, archive = (chain[key] or {} for key in ("model", "run", "code", "dataset", "archive"))
    recipe = chain["recipe"] or {}
    aliases = f" ({', '.join(model['aliases'])})" if model.get("aliases") else ""
    lines = [
        f"model    {model['uri']}{aliases}, {model['family']}, folder {model['folder_version']}, content {model['content_hash'][:12]}",
        f"run      {run.get('name', 'unknown')} ({run.get('run_id', 'no run')}), {run.get('status', '')} {run.get('user', '')}".rstrip(),
        f"code     commit {code.get('commit', 'unknown')}, changed since: {code.get('dirty', 'unknown')}",
        f"recipe   family {recipe.get('model', {}).get('family', 'unknown')}, seed {recipe.get('training', {}).get('seed', 'unknown')}",
        f"dataset  {data.get('uri', 'unknown')} ({str(data.get('content_hash', 'unknown'))[:12]}), posts {data.get('posts', 'unknown')}",
        f"archive  {archive.get('uri', 'unknown')}, {len(archive.get('parts', []))} part(s): {', '.join(archive.get('parts', [])[:5])}",
    ]
    verdicts = model.get("gates", {})
    if verdicts:
        lines.insert(1, "gates    " + ", ".join(f"{name} {text.partition(':')[0]}" for name, text in verdicts.items()))
    return [*lines, *(f"missing  {told}" for told in chain["missing"])]


def _registered(name: str, version: str) -> dict[str, Any]:
    client = connect(create=False)
    found = find_known(client, model_uri(name, version))
    held = [alias for alias, number in sorted(aliases_of(client, name).items()) if number == version]
    gates = {key.removeprefix("gate."): value for key, value in found.tags.items() if key.startswith("gate.")}
    return {"aliases": held, "verdict": found.tags.get("gates"), "gates": gates}


def _run(run_id: str, missing: list[str]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    try:
        client = connect(create=False)
        with mlflow_errors(f"no run {run_id}"):
            run = client.get_run(run_id)
    except NotFoundError as error:
        missing.append(str(error))
        return None, None
    tags = run.data.tags
    code = {"commit": tags.get("mlflow.source.git.commit", "unknown"), "dirty": tags.get("git.dirty", "unknown")}
    told = {
        "run_id": run_id,
        "name": run.info.run_name,
        "status": run.info.status,
        "user": tags.get("mlflow.user", ""),
        "started_ms": run.info.start_time,
        "datasets": [{"name": each.dataset.name, "digest": each.dataset.digest} for each in run.inputs.dataset_inputs],
    }
    return told, code


def _archive(data: dict[str, Any], missing: list[str]) -> dict[str, Any] | None:
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
