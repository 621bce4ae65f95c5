"""Every system on one archive: prepare, encode once, train each, judge each, write one report.

OUT/dataset/                     what `prepare` wrote; OUT/_features/ what the encoders gave
OUT/systems/<name>/state.json    how far this system is, and of which dataset and recipe; its figures
OUT/systems/<name>/ranked.parquet
OUT/report/                      report.md, report.html, report.json and the pictures

A system whose state is of the same dataset and the same recipe is kept as it is; one that fails is told with its reason
and the others go on. Models are versions of a name of their own: no alias of theirs is ever moved.
"""

import logging
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from hashtag_core import storage
from hashtag_core.config import ModelSection, Recipe
from hashtag_core.data.dataset import Dataset
from hashtag_core.distributed.evaluate import evaluate_model, log_evaluation
from hashtag_core.distributed.features import ensure_features
from hashtag_core.distributed.prepare import prepare
from hashtag_core.distributed.session import connect
from hashtag_core.distributed.train import train
from hashtag_core.distributed.train_worker import PREFIX
from hashtag_core.errors import HashtagError, NotFoundError
from hashtag_core.evaluation.ground_truth import read_truths, write_ranked
from hashtag_core.evaluation.side_by_side import side_by_side_table
from hashtag_core.leaderboard.plan import Entry, LeaderboardPlan
from hashtag_core.leaderboard.report import write_report
from hashtag_core.models.registry import family
from hashtag_core.tracking.registry import find_version
from hashtag_core.tracking.runs import metric_history

logger = logging.getLogger(__name__)

FINAL = ("done", "not_applicable")


def run_leaderboard(plan: LeaderboardPlan) -> dict[str, Any]:
    """Carry the plan out; what is done already is not done again.

    Returns `name`, `report` (its folder), `systems` (name -> `done`, `failed` or `not_applicable`), `trained` (how many
    now), `best` and `seconds`. HashtagError where not one system is done.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        if not plan.preparation.is_done:
            stack.enter_context(connect())
        prepare(plan.preparation)
        run = _Run(plan, Dataset.open(plan.dataset))
        if run.to_do:
            stack.enter_context(connect())
            run.encode()
        for place, entry in enumerate(run.to_do):
            logger.info("━━ %s (%d of %d)", entry.name, place + 1, len(run.to_do))
            run.do(entry)
    report = write_report(plan, run.truth, run.states)
    done = [entry for entry in report["entries"] if entry["status"] == "done"]
    if not done:
        reasons = "; ".join(f"{entry['name']}: {entry['reason']}" for entry in report["entries"])
        raise HashtagError(f"not one system is done: {reasons}")
    Console(stderr=True, width=None if sys.stderr.isatty() else 120).print(side_by_side_table(report))
    return {
        "name": plan.name,
        "report": storage.join(plan.out, "report"),
        "systems": {entry["name"]: entry["status"] for entry in report["entries"]},
        "trained": run.trained,
        "best": done[0]["name"],
        "seconds": round(time.monotonic() - began, 1),
    }


class _Run:
    """The systems of one plan on its dataset, and how far each is."""

    def __init__(self, plan: LeaderboardPlan, dataset: Dataset) -> None:
        self.plan, self.dataset, self.trained = plan, dataset, 0
        self.hash = dataset.info.content_hash
        self.truth, self.validation = read_truths(dataset, plan.recipe)
        given = modalities(dataset)
        self.states: dict[str, dict[str, Any]] = {}
        for entry in plan.entries:
            reads = entry.options.reads.intersection(entry.options.inputs)
            state = plan.state(entry, self.hash)
            if reads.isdisjoint(given):
                reason = f"reads {' and '.join(sorted(reads))} alone, which no post here has"
                state = {"status": "not_applicable", "reason": reason}
            self.states[entry.name] = {**state, "reads": sorted(reads & given)}
        self.to_do = [entry for entry in plan.entries if self.states[entry.name]["status"] not in FINAL]

    def encode(self) -> None:
        """What the systems read, each content once; those with the same encoders share one pass."""
        needs: dict[str, set[str]] = {}
        sections = {}
        for entry in self.to_do:
            section = entry.recipe.encoders
            sections[section.model_dump_json()] = section
            wanted = family(entry.recipe.model.family).needs(entry.options)
            needs.setdefault(section.model_dump_json(), set()).update(wanted)
        for key, section in sections.items():
            try:
                ensure_features(self.dataset, section, frozenset(needs[key]))
            except HashtagError as error:  # the systems that need it will say so themselves
                logger.warning("encoding ahead failed: %s", error)

    def do(self, entry: Entry) -> None:
        """Train and judge one system, and write down how that went."""
        state = {**self.states[entry.name], "key": self.plan.key(entry, self.hash)}
        state.pop("reason", None)
        try:
            if not _trained(state):
                state |= self._train(entry)
                self.trained += 1
                self._save(entry, state)
            state |= self._judge(entry, state)
        except Exception as error:
            ours = isinstance(error, HashtagError)
            told = " ".join((str(error) if ours else f"{type(error).__name__}: {error}").split())
            logger.error("%s failed, the others go on: %s", entry.name, told, exc_info=not ours)
            state |= {"status": "failed", "reason": told.replace(str(Path.cwd()), ".")[:500]}
        self._save(entry, state)

    def _save(self, entry: Entry, state: dict[str, Any]) -> None:
        self.states[entry.name] = state
        storage.write_json(storage.join(self.plan.out, "systems", entry.name, "state.json"), state)

    def _train(self, entry: Entry) -> dict[str, Any]:
        recipe = self._completed(entry)
        summary = train(recipe, self.dataset.uri)
        if recipe.training.storage == self.plan.runs:  # its model is in MLflow: the checkpoints have served
            storage.remove_tree(storage.join(self.plan.runs, summary.run_name))
        names = {"train_loss": "train_loss", "validation_loss": f"{PREFIX}loss"}
        names["selected_by"] = PREFIX + recipe.training.select_metric
        return {
            "status": "trained",
            "model": summary.model,
            "parameters": summary.parameters,
            "epochs": summary.epochs,
            "best_epoch": summary.best_epoch,
            "train_seconds": summary.seconds,
            "history": {key: metric_history(summary.run_id, name) for key, name in names.items()},
        }

    def _judge(self, entry: Entry, state: dict[str, Any]) -> dict[str, Any]:
        began = time.monotonic()
        evaluation = evaluate_model(state["model"], self.truth, self.validation, entry.recipe)
        write_ranked(self.plan.ranked(entry), evaluation.ranked, self.truth)
        log_evaluation(evaluation, self.dataset, entry.recipe, {})
        return {"status": "done", "row": evaluation.row, "judge_seconds": round(time.monotonic() - began, 1)}

    def _completed(self, entry: Entry) -> Recipe:
        """The recipe with the borrowed model filled in. NotFoundError where that is not trained."""
        lender = self.plan.lender(entry)
        if lender is None:
            return entry.recipe
        lent = self.states[lender.name]
        if lent["status"] != "done":
            raise NotFoundError(f"it reads features of {lender.name}, which is not done")
        model = ModelSection(**{**entry.recipe.model.model_dump(), f"{entry.borrows}_model": lent["model"]})
        return entry.recipe.model_copy(update={"model": model})


def modalities(dataset: Dataset) -> frozenset[str]:
    """Which of image, caption and history (a user) the train posts have at all."""
    columns = {"image": "image_key", "caption": "caption_key", "history": "user_id"}
    found = set()
    for table in dataset.read("train", list(columns.values())):
        found |= {name for name, column in columns.items() if table[column].null_count < len(table)}
    return frozenset(found)


def _trained(state: dict[str, Any]) -> bool:
    """Whether its model is there already: what an interrupted run had trained and not judged."""
    if "model" not in state:
        return False
    try:
        find_version(state["model"])
    except NotFoundError:
        return False
    return True
