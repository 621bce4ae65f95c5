"""The models that were judged on one split, side by side: what `leaderboard.json` holds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from hashtag_core.config import Recipe
from hashtag_core.data.history import HistoryRule
from hashtag_core.data.model_record import EncodersIdentity
from hashtag_core.evaluation.ground_truth import Ranked, Truth
from hashtag_core.evaluation.metrics import post_scores
from hashtag_core.evaluation.report import main_k, rank_models
from hashtag_core.evaluation.report_record import EvaluationReport, Figures, ModelRecord
from hashtag_core.evaluation.significance import paired_difference
from hashtag_core.tracking.registry import ResolvedModel


@dataclass
class Evaluation:
    """One model on one split: what the report holds of it, and the per-post lists behind it."""

    model: ResolvedModel
    row: ModelRecord
    ranked: Ranked
    trained_on: str | None
    encoders: EncodersIdentity
    looks: dict[int, str] = field(default_factory=dict)
    """Row -> where on its picture the model looked (`attention.look_at`), of the posts that the report shows."""


class ModelSummary(TypedDict):
    """A model's figures by protocol; `metrics`: headline."""

    model: str
    metrics: Figures
    papers: Figures
    floor: Figures


class EvaluateSummary(TypedDict):
    """What `jobs/evaluate.py` prints; `report`: the folder's URI."""

    models: list[ModelSummary]
    report: str


def summary_of(row: ModelRecord) -> ModelSummary:
    """What is printed of a model."""
    return {"model": row["model"], "metrics": row["metrics"], "papers": row["papers"], "floor": row["floor"]}


def report_of(evaluations: Sequence[Evaluation], truth: Truth, recipe: Recipe) -> EvaluationReport:
    """`leaderboard.json`: the models' figures, and of the best one against each other the paired difference."""
    dataset, settings = truth.dataset, recipe.evaluation
    report: EvaluationReport = {
        "format": 1,
        "dataset": dataset.uri,
        "dataset_hash": dataset.info.content_hash,
        "dataset_config": dataset.info.config,
        "split": settings.split,
        "ks": sorted(set(settings.ks)),
        "bootstrap_samples": settings.bootstrap_samples,
        "notes": [*dataset.info.notes, *_notes(evaluations, truth)],
        "models": [evaluation.row for evaluation in evaluations],
        "differences": [],
    }
    by_uri = {evaluation.row["model"]: evaluation for evaluation in evaluations}
    best, *others = [by_uri[row["model"]] for row in rank_models(report)]
    k = main_k(settings.ks)
    users = [user for user, kept in zip(truth.users, best.ranked.judged.selected("headline"), strict=True) if kept]
    for other in others:
        pair = [post_scores(evaluation.ranked.judged, [k], "headline") for evaluation in (best, other)]
        found = paired_difference(pair[0], pair[1], users, settings.bootstrap_samples, settings.seed)
        if found:
            report["differences"].append(
                {
                    "first": best.row["model"],
                    "second": other.row["model"],
                    "metric": f"f1_at_{k}",
                    "protocol": "headline",
                    **found[f"f1_at_{k}"].as_record(),
                }
            )
    return report


def _notes(evaluations: Sequence[Evaluation], truth: Truth) -> list[str]:
    """What a reader must know to read the figures right."""
    dataset = truth.dataset
    notes = []
    captions = dataset.info.config.get("captions", {}).get("hashtags", "remove")
    if captions != "remove":
        notes.append(f"captions.hashtags = {captions}: true tags stand in the captions, which leaks the answer")
    notes += [
        f"{evaluation.row['model']} reads the user's history: {rule.describe()}"
        for evaluation in evaluations
        if (rule := HistoryRule.from_json(evaluation.row["history"]))
    ]
    notes += [
        f"{evaluation.row['model']} was trained on another dataset: posts of this split may be among those it learned from"
        for evaluation in evaluations
        if evaluation.trained_on != dataset.info.content_hash
    ]
    return notes
