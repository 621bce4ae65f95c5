"""A tagging run in MLflow, from its record in the output."""

from collections.abc import Mapping
from typing import Any

from hashtag_core.schema import POST
from hashtag_core.tracking.provenance import log_dataset
from hashtag_core.tracking.runs import start_run, told_version

COUNTS = ("posts", "tagged", "rejected", "parts", "skipped_parts", "seconds", "posts_per_second")
TOP_TAGS = 20


def record_tagging(experiment: str, record: Mapping[str, Any], *, patient: bool = False) -> str:
    """Make a run of the experiment with what the record says; its id. StorageError where MLflow refuses or is away
    (`patient`: for longer than it is waited for).

    Metrics: the counts of the summary, `status_<status>`, `score_p50` and the like of all scores, `first_score_p50` of the
    best of each post, `images_not_fetched`, `distinct_tags`, and `drift_psi` where there was a run to compare with. The most
    frequent tags are the artifact `tags.json`, the record without them `run.json`. The run's dataset is what it read of the archive:
    its digest changes with every part and version of a part.
    """
    settings, tags = record["settings"], record["tags"]
    metrics = {name: record[name] for name in COUNTS}
    metrics |= {f"status_{name}": count for name, count in record["statuses"].items()}
    metrics |= {f"score_{name}": value for name, value in record["scores"].items()}
    metrics |= {f"first_score_{name}": value for name, value in record["first_scores"].items()}
    metrics["images_not_fetched"] = record["images_not_fetched"]
    metrics["distinct_tags"] = len(tags)
    if record["drift"] is not None:
        metrics["drift_psi"] = record["drift"]["psi"]
    labels = {"job": "tag", "tagging_run": record["run"], "plan": record["plan"], "archive": settings["archive"]}
    name = f"tag by {told_version(settings['model_version'])} of {settings['model_name']}"
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
