"""What `leaderboard.json` holds: the models that were judged on one split, and their differences."""

from typing import NotRequired, TypedDict

from hashtag_core.data.history import HistoryRecord
from hashtag_core.evaluation.metrics import Protocol
from hashtag_core.json_values import JsonObject

Figures = dict[str, float]
"""Metric -> figure, as `evaluation.metrics` names them."""
Bounds = dict[str, dict[str, list[float]]]
"""Protocol -> metric -> [low, high]."""


class DifferenceRecord(TypedDict):
    """`significance.Difference`."""

    value: float
    low: float
    high: float
    p_value: float


class ThresholdedRecord(TypedDict, total=False):
    """`thresholds.Thresholded` and its protocol; empty where no threshold was chosen."""

    protocol: Protocol
    threshold: float
    precision: float
    recall: float
    f1: float
    mean_length: float
    posts: int


class BinRecord(TypedDict):
    """`score_curves.Bin`."""

    places: int
    mean_score: float
    hit_share: float


class CalibrationRecord(TypedDict):
    """The expected calibration error over the tags of the lists, and its bins."""

    error: float
    bins: list[BinRecord]


class CalibrationErrors(TypedDict, total=False):
    """Expected calibration errors: over the tags of the lists, and over all pairs of a post and a tag."""

    first: float
    all: float


class ConfusedPair(TypedDict):
    """A true tag that is missing, the one that is given instead, in how many posts, and how many times as often as by chance."""

    true: str
    given: str
    posts: int
    lift: float


class ScoreFigures(TypedDict):
    """What a model's scores are worth; `precision_recall` holds (threshold, precision, recall)."""

    precision_recall: list[tuple[float, float, float]]
    calibration: CalibrationRecord
    confused: list[ConfusedPair]


class JudgedFigures(TypedDict):
    """Figures of one system: the part of a `ModelRecord` that folds have together too."""

    k: int | None
    posts_per_second: float
    megabytes: float
    metrics: Figures
    """Protocol headline."""
    papers: Figures
    floor: Figures
    bleu: Figures
    """Of a sequence family: `bleu_1` .. and `k`; else empty."""
    intervals: Bounds
    slices: dict[str, Figures]
    tags: dict[str, Figures]
    """By band of train frequency."""
    thresholded: ThresholdedRecord
    calibration: NotRequired[CalibrationRecord]
    confused: NotRequired[list[ConfusedPair]]
    calibration_error: NotRequired[CalibrationErrors]


class ModelRecord(JudgedFigures):
    """One model on one split. What a release added later is not in every file."""

    model: str
    name: str
    version: str
    family: str
    options: JsonObject
    """The family's own: `models.base.ModelOptions`."""
    diversity: float
    history: HistoryRecord | None
    parameters: int
    precision_recall: NotRequired[list[tuple[float, float, float]]]
    learning: NotRequired[dict[str, list[float]]]
    """Metric of the training run -> its value by epoch."""
    statuses: dict[str, int]
    seconds: float
    trained_on: str | None


class ModelDifference(DifferenceRecord):
    """The best model less another one."""

    first: str
    second: str
    metric: str
    protocol: Protocol


class EvaluationReport(TypedDict):
    """`leaderboard.json`."""

    format: int
    dataset: str
    dataset_hash: str
    dataset_config: JsonObject
    """The sections of the recipe that the dataset was prepared with."""
    split: str
    ks: list[int]
    bootstrap_samples: int
    notes: list[str]
    models: list[ModelRecord]
    differences: list[ModelDifference]
