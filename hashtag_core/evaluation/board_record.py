"""What a leaderboard writes: `state.json` of each system, and `report.json` of all of them."""

from typing import Literal, NotRequired, TypedDict

from hashtag_core.evaluation.metrics import Protocol
from hashtag_core.evaluation.report_record import (
    Bounds,
    CalibrationErrors,
    DifferenceRecord,
    Figures,
    JudgedFigures,
    ThresholdedRecord,
)
from hashtag_core.json_values import JsonObject

Status = Literal["to do", "trained", "done", "failed", "not_applicable"]


class TrialsRecord(TypedDict, total=False):
    """What trials on the validation split chose; empty where none were run."""

    number: int
    metric: str
    chosen: JsonObject
    """Settings by `section.field`."""
    validation: float | None
    validation_of_recipe: float | None
    seconds: float


class SystemState(TypedDict, total=False):
    """How far a system is (`state.json`): `key` says of which dataset and recipe; what is not there yet is left out."""

    status: Status
    reads: list[str]
    reason: str
    key: str
    model: str
    parameters: int | None
    epochs: int | None
    best_epoch: int | None
    train_seconds: float
    judge_seconds: float
    history: dict[str, list[float]]
    row: JudgedFigures
    trials: TrialsRecord


class BoardEntry(TypedDict):
    """One system in `report.json`. What only a system has that is done is left out of the others, and the reason of theirs of it."""

    name: str
    family: str
    kind: Literal["fitted", "neural"]
    recipe: str
    reads: list[str]
    curve_of: str | None
    seed_of: NotRequired[str | None]
    seed: int
    history_posts: int
    train_share: float
    status: Status
    reason: NotRequired[str]
    parameters: NotRequired[int | None]
    epochs: NotRequired[int | None]
    best_epoch: NotRequired[int | None]
    train_seconds: NotRequired[float]
    judge_seconds: NotRequired[float]
    posts_per_second: NotRequired[float | None]
    megabytes: NotRequired[float | None]
    k: NotRequired[int | None]
    metrics: NotRequired[dict[Protocol, Figures]]
    intervals: NotRequired[Bounds]
    slices: NotRequired[dict[str, Figures]]
    tags: NotRequired[dict[str, Figures]]
    thresholded: NotRequired[ThresholdedRecord]
    bleu: NotRequired[Figures]
    history: NotRequired[dict[str, list[float]]]
    calibration: NotRequired[CalibrationErrors]
    trials: NotRequired[TrialsRecord]
    differences: NotRequired[dict[str, DifferenceRecord]]
    """Less each floor."""


class Claim(TypedDict):
    """A pair of systems that an article compares: `difference`, or what is `missing`."""

    claim: str
    first: str
    second: str
    slice: str
    against: str | None
    metric: str
    protocol: Protocol
    posts: NotRequired[int]
    difference: NotRequired[DifferenceRecord]
    missing: NotRequired[str]


class ComparedPair(DifferenceRecord):
    """Two systems by F1 at `k`; `p_holm` is corrected for all pairs of that k, `p_holm_control` for those of the board's control."""

    first: str
    second: str
    k: int
    first_value: float
    second_value: float
    p_holm: float
    p_holm_control: NotRequired[float]


class BoardFacts(TypedDict):
    """The data of a board."""

    posts: dict[str, int]
    vocabulary: int
    users: int
    split: str
    seed: int
    captions: str
    folds: int


class BoardReport(TypedDict):
    """`report.json`; entries are best first. What a release added later is not in every file."""

    format: int
    name: str
    command: str
    dataset_hash: str
    data: BoardFacts
    split: str
    ks: list[int]
    bootstrap_samples: int
    notes: list[str]
    entries: list[BoardEntry]
    pairs: list[Claim]
    comparisons: NotRequired[list[ComparedPair]]
    control: NotRequired[str]
    """The system that the others were to be compared with."""
    ceiling: NotRequired[Figures]


class PublishedSystem(TypedDict):
    """A system in an article's table; `remark` and the figures that it does not report are left out."""

    name: str
    precision: NotRequired[float]
    recall: NotRequired[float]
    f1: NotRequired[float]
    hit_rate: NotRequired[float]
    remark: NotRequired[str]


class PublishedTable(TypedDict):
    """Figures that an article reports on its own data (`published.toml`)."""

    name: str
    article: str
    k: str
    systems: list[PublishedSystem]
