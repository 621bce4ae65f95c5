"""A tagging run in MLflow, from its record in the output."""

from typing import NotRequired, TypedDict

from hashtag_core.json_values import JsonObject
from hashtag_core.schema import POST
from hashtag_core.tracking.provenance import log_dataset
from hashtag_core.tracking.runs import start_run, version_label

TOP_TAGS = 20


class DriftRecord(TypedDict):
    """How the tags differ from those of an earlier run: the population stability index, and of which run."""

    psi: float
    run: str
    model_version: str


class TagSummaryRecord(TypedDict):
    """`tagging.run_state.TagSummary`."""

    posts: int
    tagged: int
    kept: int
    rejected: int
    parts: int
    skipped_parts: int
    gone_parts: int
    dropped_posts: int
    model_version: str
    seconds: float
    posts_per_second: float


class TagFiguresRecord(TypedDict):
    """`tagging.report.TagFigures`: quantiles of all scores and of the best of each post; all tags, the most frequent first."""

    statuses: dict[str, int]
    images_not_fetched: int
    scores: dict[str, float]
    first_scores: dict[str, float]
    tags: dict[str, int]


class RunEnd(TypedDict, total=False):
    """When a run that is over ended."""

    ended: str


class TagRunRecord(TagSummaryRecord, TagFiguresRecord, RunEnd):
    """`_state/runs/<run>.json`. A run that has just begun has no more than its first five keys and its counts."""

    run: str
    status: str
    """`running`, `done`, `stopped`, `failed` or, of a run that ended without a word, `lost`."""
    started: str
    plan: str
    settings: JsonObject
    """`output.records.TagSettings`, as the release that wrote it had them."""
    unselected_parts: int
    removed_parts: int
    archive_digest: NotRequired[str]
    """Of the parts and versions that were read; records of older releases have none."""
    drift: DriftRecord | None
    failures: list[str]


def record_tagging(experiment: str, record: TagRunRecord, *, patient: bool = False) -> str:
    """Make a run of the experiment with what the record says; its id. StorageError where MLflow refuses or is away
    (`patient`: for longer than it is waited for).

    Metrics: the counts of the summary, `status_<status>`, `score_p50` and the like of all scores, `first_score_p50` of the
    best of each post, `images_not_fetched`, `distinct_tags`, and `drift_psi` where there was a run to compare with. The most
    frequent tags are the artifact `tags.json`, the record without them `run.json`. The run's dataset is what it read of the archive:
    its digest changes with every part and version of a part.
    """
    settings, tags = record["settings"], record["tags"]
    metrics: dict[str, float] = {
        "posts": record["posts"],
        "tagged": record["tagged"],
        "rejected": record["rejected"],
        "parts": record["parts"],
        "skipped_parts": record["skipped_parts"],
        "seconds": record["seconds"],
        "posts_per_second": record["posts_per_second"],
    }
    metrics |= {f"status_{name}": count for name, count in record["statuses"].items()}
    metrics |= {f"score_{name}": value for name, value in record["scores"].items()}
    metrics |= {f"first_score_{name}": value for name, value in record["first_scores"].items()}
    metrics["images_not_fetched"] = record["images_not_fetched"]
    metrics["distinct_tags"] = len(tags)
    if record["drift"] is not None:
        metrics["drift_psi"] = record["drift"]["psi"]
    labels = {"job": "tag", "tagging_run": record["run"], "plan": record["plan"], "archive": settings["archive"]}
    name = f"tag by {version_label(settings['model_version'])} of {settings['model_name']}"
    archive = str(settings["archive"])
    counts = {"num_rows": record["posts"], "parts": record["parts"]}
    columns = {field.name: str(field.type) for field in POST}
    with start_run(experiment, name, tags=labels, patient=patient) as run:
        log_dataset(run, _last_name(archive), record["archive_digest"], archive, "tagging", columns, counts)
        run.log_params(settings)
        run.log_metrics(metrics)
        run.log_json({"tags": dict(list(tags.items())[:TOP_TAGS]), "distinct": len(tags)}, "tags.json")
        run.log_json({name: value for name, value in record.items() if name != "tags"}, "run.json")
        return run.run_id


def _last_name(uri: str) -> str:
    return uri.rstrip("/").rpartition("/")[2] or "archive"
