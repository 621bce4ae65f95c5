"""What is told of a tagging run: counts taken where its chunks are published, and how they differ from the last run's.

A figure costs no read: publishing has each chunk's bytes in hand for their hash. Memory: a number a tag, and two histograms.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hashtag_core import storage
from hashtag_core.errors import HashtagError, NotFoundError
from hashtag_core.evaluation.drift import describe_psi, population_stability_index
from hashtag_core.output.layout import Layout, runs_folder
from hashtag_core.output.records import TagSettings
from hashtag_core.recommend.image_uris import NOT_FETCHED
from hashtag_core.tracking.tagging import DriftRecord, TagFiguresRecord, TagRunRecord, record_tagging

logger = logging.getLogger(__name__)

SCORE_BINS = 10_000
"""Of [0, 1]: a quantile is exact to 1e-4."""
COUNTED = ["status", "hashtags", "scores", "detail"]
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BASELINE_RUNS = 50
"""Run records that are looked through for one to compare with, or for one that was left open."""


@dataclass
class TagFigures:
    """Counts over tagged rows."""

    statuses: Counter[str] = field(default_factory=Counter)
    tags: Counter[str] = field(default_factory=Counter)
    scores: np.ndarray = field(default_factory=lambda: np.zeros(SCORE_BINS, np.int64))
    """Histogram of all scores."""
    first_scores: np.ndarray = field(default_factory=lambda: np.zeros(SCORE_BINS, np.int64))
    """Histogram of the best score of each post that has one."""
    images_not_fetched: int = 0
    """Posts whose `image_uri` names a picture that could not be had, whatever their status; not those that name none."""

    @classmethod
    def of(cls, rows: pa.Table) -> "TagFigures":
        """Of TAGGED rows, at least the columns COUNTED."""
        tags = pc.value_counts(pc.list_flatten(rows["hashtags"]))
        statuses = pc.value_counts(rows["status"])
        tagged = rows["scores"].filter(pc.greater(pc.list_value_length(rows["scores"]), 0))
        return cls(
            Counter({item["values"]: item["counts"] for item in statuses.to_pylist()}),
            Counter({item["values"]: item["counts"] for item in tags.to_pylist()}),
            _histogram(pc.list_flatten(tagged)),
            _histogram(pc.list_element(tagged, 0)),
            pc.sum(pc.starts_with(rows["detail"], NOT_FETCHED), min_count=0).as_py(),
        )

    def add(self, other: "TagFigures") -> None:
        """Count the rows of another one as well."""
        self.statuses.update(other.statuses)
        self.tags.update(other.tags)
        self.scores += other.scores
        self.first_scores += other.first_scores
        self.images_not_fetched += other.images_not_fetched

    def as_record(self) -> TagFiguresRecord:
        """As a run record has it: all tags, the most frequent first."""
        ordered = sorted(self.tags.items(), key=lambda item: (-item[1], item[0]))
        return {
            "statuses": dict(self.statuses),
            "images_not_fetched": self.images_not_fetched,
            "scores": quantiles(self.scores),
            "first_scores": quantiles(self.first_scores),
            "tags": dict(ordered),
        }


def _histogram(scores: pa.ChunkedArray) -> np.ndarray:
    values = np.minimum((scores.to_numpy() * SCORE_BINS).astype(np.int64), SCORE_BINS - 1)
    return np.bincount(values, minlength=SCORE_BINS)


def quantiles(histogram: np.ndarray) -> dict[str, float]:
    """Quantile -> upper border of the bin that the smallest score with at least that share of scores up to it is in; empty
    where nothing was counted."""
    if not histogram.sum():
        return {}
    upto = histogram.cumsum()
    at = [int(np.searchsorted(upto, np.ceil(share * upto[-1]))) for share in QUANTILES]
    return {
        f"p{round(100 * share):02d}": (number + 1) / SCORE_BINS for share, number in zip(QUANTILES, at, strict=True)
    }


def drift(layout: Layout, settings: TagSettings, tags: Mapping[str, int], warn_above: float) -> DriftRecord | None:
    """How the tags of a run differ from those of the last finished run of this model's name on the same archive; None
    where there is none with tags. A warning above `warn_above`; a record that cannot be read is one too, and nothing else.
    """
    try:
        before = _last_run(layout, settings)
    except HashtagError as error:
        logger.warning("the tags are not compared with those of an earlier run: %s", error)
        return None
    psi = None if before is None else population_stability_index(tags, before["tags"])
    if before is None or psi is None:
        return None
    words = f"PSI {psi:.3f} to run {before['run']} (model version {before['settings']['model_version']}): {describe_psi(psi)}"
    if psi > warn_above:
        moved = _moved(tags, before["tags"])
        logger.warning(
            "the tags differ from those of the last run, %s; above %g; most of all %s", words, warn_above, moved
        )
    else:
        logger.info("drift of the tags, %s", words)
    return {"psi": round(psi, 6), "run": before["run"], "model_version": before["settings"]["model_version"]}


def _last_run(layout: Layout, settings: TagSettings) -> TagRunRecord | None:
    for _, record in _last_records(layout):
        pinned = record.get("settings", {})
        same = (pinned.get("model_name"), pinned.get("archive")) == (
            settings.model_name,
            settings.archive,
        )
        if same and record["status"] == "done" and record.get("tags"):
            return record
    return None


def _last_records(layout: Layout) -> Iterator[tuple[str, TagRunRecord]]:
    """Where each of the last run records is, and what it says, the newest first."""
    try:
        names = storage.list_files(layout.runs, ".json")
    except NotFoundError:
        return
    for info in names[: -BASELINE_RUNS - 1 : -1]:
        record: TagRunRecord = storage.read_json(info.uri)
        yield info.uri, record


def close_lost_runs(layout: Layout, settings: TagSettings) -> None:
    """Mark as `lost` the records that runs of this model and version left as `running`: their processes ended without a word.

    Only for who holds the lease, since it is the only one at work. A record that cannot be read is a warning.
    """
    try:
        for uri, record in _last_records(layout):
            pinned = record.get("settings", {})
            if any(pinned.get(name) != getattr(settings, name) for name in ("model_name", "model_version")):
                continue
            if record["status"] != "running":
                return
            storage.write_json(uri, {**record, "status": "lost"})
            logger.warning("run %s ended without a word, and this one goes on where it was", record["run"])
    except HashtagError as error:
        logger.warning("records of runs that ended without a word are not closed: %s", error)


def last_run(layout: Layout) -> TagRunRecord | None:
    """The record of the last run of this model and version; None where there is none."""
    for _, record in _last_records(layout):
        settings = record.get("settings", {})
        if (settings.get("model_name"), settings.get("model_version")) == (layout.model_name, layout.model_version):
            return record
    return None


def _moved(tags: Mapping[str, int], before: Mapping[str, int]) -> str:
    """The tags whose share changed most, in words."""
    n, m = sum(tags.values()), sum(before.values())
    shares = {tag: (before.get(tag, 0) / m, tags.get(tag, 0) / n) for tag in tags.keys() | before.keys()}
    most = sorted(shares.items(), key=lambda item: (-abs(item[1][1] - item[1][0]), item[0]))[:3]
    return ", ".join(f"{tag} {100 * old:.1f} -> {100 * new:.1f} %" for tag, (old, new) in most)


def digest_of(versions: Mapping[str, str]) -> str:
    """SHA-256 (hex) over what a run read: the paths of its parts and the version (ETag) of each."""
    return hashlib.sha256(json.dumps(sorted(versions.items())).encode()).hexdigest()


def report(out: str, run_id: str, experiment: str, *, patient: bool = False) -> str | None:
    """Tell MLflow of a run by its record; the MLflow run's id.

    `patient`: a server that is away is waited for, since it was there when the model was taken from it. The output is whole by
    then, so an MLflow that stays away is a warning, and None.
    """
    try:
        record: TagRunRecord = storage.read_json(storage.join(runs_folder(out), f"{run_id}.json"))
        return record_tagging(experiment, record, patient=patient)
    except HashtagError as error:
        logger.warning("the output is whole, but MLflow does not know of run %s: %s", run_id, error)
        return None


def last_rate(layout: Layout) -> float | None:
    """Posts a second, all included, of the last run of this model that tagged any; None where there was none."""
    for _, record in _last_records(layout):
        rate = float(record.get("posts_per_second") or 0)
        if rate and record["settings"]["model_name"] == layout.model_name:
            return rate
    return None
