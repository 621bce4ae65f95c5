"""Every system on one archive: prepare, encode once, train each, judge each, write one report.

OUT/dataset/                     what `prepare` wrote; OUT/_features/ what the encoders gave
OUT/systems/<name>/state.json    how far this system is, and of which dataset and recipe; its figures
OUT/systems/<name>/trials.json   what was tried on the validation split, with --trials
OUT/systems/<name>/ranked.parquet
OUT/report/                      report.md, report.html, report.json and the pictures

With --folds a fold has OUT/dataset-fold<n> and OUT/fold<n>/systems, and the report is of all of them together.

A system whose state is of the same dataset and the same recipe is kept as it is; one that fails is told with its reason
and the others go on. Models are versions of a name of their own: no alias of theirs is ever moved.
"""

import logging
import sys
import time
from contextlib import ExitStack
from typing import TypedDict

from rich.console import Console

from hashtag_core import storage
from hashtag_core.config import EncodersSection, Recipe
from hashtag_core.data.dataset import Dataset
from hashtag_core.distributed.evaluate import evaluate_model
from hashtag_core.distributed.features import ensure_features
from hashtag_core.distributed.prepare import prepare
from hashtag_core.distributed.session import connect
from hashtag_core.distributed.train import train
from hashtag_core.errors import HashtagError
from hashtag_core.evaluation.board_page import side_by_side_table
from hashtag_core.evaluation.board_record import Status
from hashtag_core.evaluation.ground_truth import Ranked, Truth
from hashtag_core.evaluation.report_record import ModelRecord
from hashtag_core.judging.log_evaluation import log_evaluation
from hashtag_core.leaderboard.plan import LeaderboardPlan
from hashtag_core.leaderboard.report import write_report
from hashtag_core.leaderboard.systems import Systems
from hashtag_core.training.job import VALIDATED
from hashtag_core.training.record import TrainSummary

logger = logging.getLogger(__name__)


class BoardSummary(TypedDict):
    """What `jobs/leaderboard.py` prints; `report`: its folder, `trained`: how many now."""

    name: str
    report: str
    systems: dict[str, Status]
    trained: int
    best: str
    seconds: float


def run_leaderboard(plan: LeaderboardPlan) -> BoardSummary:
    """Carry the plan out; what is done already is not done again.

    HashtagError where not one system is done.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        parts = [_run(part, stack) for part in plan.parts]
    report = write_report(plan, parts)
    done = [entry for entry in report["entries"] if entry["status"] == "done"]
    if not done:
        reasons = "; ".join(f"{entry['name']}: {entry['reason']}" for entry in report["entries"])
        raise HashtagError(f"not one system is done: {reasons}")
    Console(stderr=True, width=None if sys.stderr.isatty() else 120).print(side_by_side_table(report))
    return {
        "name": plan.name,
        "report": storage.join(plan.out, "report"),
        "systems": {entry["name"]: entry["status"] for entry in report["entries"]},
        "trained": sum(part.trained for part in parts),
        "best": done[0]["name"],
        "seconds": round(time.monotonic() - began, 1),
    }


def _run(plan: LeaderboardPlan, stack: ExitStack) -> Systems:
    """Do what is to do of the board, or of one fold. Ray is connected where there is something, and stays so within `stack`."""
    if not plan.preparation.is_done:
        stack.enter_context(connect())
    prepare(plan.preparation)
    systems = Systems(plan, Dataset.open(plan.dataset), OnRay())
    if systems.to_do:
        stack.enter_context(connect())
        systems.encode()
    for index, entry in enumerate(systems.to_do):
        fold = f", {plan.fold_name}" if plan.fold_name else ""
        logger.info("━━ %s (%d of %d%s)", entry.name, index + 1, len(systems.to_do), fold)
        systems.do(entry)
    return systems


class OnRay:
    """What the systems are run by; see `leaderboard.systems.Engine`."""

    prefix = VALIDATED

    def encode(self, dataset: Dataset, section: EncodersSection, needs: frozenset[str]) -> None:
        ensure_features(dataset, section, needs)

    def train(self, recipe: Recipe, dataset_uri: str, parent: str | None) -> TrainSummary:
        return train(recipe, dataset_uri, parent=parent)

    def judge(self, model: str, truth: Truth, validation: Truth | None, recipe: Recipe) -> tuple[ModelRecord, Ranked]:
        evaluation = evaluate_model(model, truth, validation, recipe)
        log_evaluation(evaluation, truth, recipe, {})
        return evaluation.row, evaluation.ranked
