"""The systems of one board, or of one fold of it, on its dataset: what is done is kept, the rest is done in turn.

What takes a cluster (preparing, encoding, training, judging) is given by the caller: this room knows no ray.
"""

import logging
import time
from pathlib import Path
from typing import Protocol

from hashtag_core import storage
from hashtag_core.config import EncodersSection, ModelSection, Recipe, TrackingSection
from hashtag_core.data.dataset import Dataset
from hashtag_core.errors import HashtagError, NotFoundError
from hashtag_core.evaluation.board_record import SystemState, TrialsRecord
from hashtag_core.evaluation.ground_truth import Ranked, Truth, read_truths, write_ranked
from hashtag_core.evaluation.report import main_k
from hashtag_core.evaluation.report_record import ModelRecord
from hashtag_core.leaderboard.plan import Entry, LeaderboardPlan
from hashtag_core.leaderboard.trials import (
    TrialsFile,
    best_trial,
    run_trials,
    trials_from_json,
    trials_to_json,
    with_settings,
)
from hashtag_core.models.registry import family
from hashtag_core.tracking.registry import find_version, version_run
from hashtag_core.tracking.runs import metric_history
from hashtag_core.training.record import TrainSummary

logger = logging.getLogger(__name__)

FINAL = ("done", "not_applicable")


class Engine(Protocol):
    """What the systems are run by."""

    prefix: str
    """Before the names of validation figures in MLflow."""

    def encode(self, dataset: Dataset, section: EncodersSection, needs: frozenset[str]) -> None:
        """Encode what is missing."""

    def train(self, recipe: Recipe, dataset_uri: str, parent: str | None) -> TrainSummary:
        """Train and register a version; `parent`: the run that the new one is shown below."""

    def judge(self, model: str, truth: Truth, validation: Truth | None, recipe: Recipe) -> tuple[ModelRecord, Ranked]:
        """The model's row of a report and its lists, logged."""


class Systems:
    """The systems of one plan on its dataset, and how far each is."""

    def __init__(self, plan: LeaderboardPlan, dataset: Dataset, engine: Engine) -> None:
        self.plan, self.dataset, self.engine, self.trained = plan, dataset, engine, 0
        self.hash = dataset.info.content_hash
        self.truth, self.validation = read_truths(dataset, plan.recipe)
        given = modalities(dataset)
        self.states: dict[str, SystemState] = {}
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
                self.engine.encode(self.dataset, section, frozenset(needs[key]))
            except HashtagError as error:  # the systems that need it will say so themselves
                logger.warning("encoding ahead failed: %s", error)

    def do(self, entry: Entry) -> None:
        """Train and judge one system, and write down how that went."""
        state: SystemState = {**self.states[entry.name], "key": self.plan.key(entry, self.hash)}
        state.pop("reason", None)
        try:
            if not _is_trained(state):
                state |= self._train(entry)
                self.trained += 1
                self._save(entry, state)
            state |= self._judge(entry, state)
        except Exception as error:
            ours = isinstance(error, HashtagError)
            reason = " ".join((str(error) if ours else f"{type(error).__name__}: {error}").split())
            logger.error("%s failed, the others go on: %s", entry.name, reason, exc_info=not ours)
            state |= {"status": "failed", "reason": reason.replace(str(Path.cwd()), ".")[:500]}
        self._save(entry, state)

    def _save(self, entry: Entry, state: SystemState) -> None:
        self.states[entry.name] = state
        storage.write_json(storage.join(self.plan.out, "systems", entry.name, "state.json"), state)

    def _train(self, entry: Entry) -> SystemState:
        recipe = self._completed(entry)
        tried = self._tried(entry, recipe)
        if tried:
            recipe = with_settings(recipe, tried["chosen"])
        summary = self._trained(recipe, self._parent(entry))
        names = {"train_loss": "train_loss", "validation_loss": f"{self.engine.prefix}loss"}
        names["selected_by"] = self.engine.prefix + recipe.training.select_metric
        state: SystemState = {
            "status": "trained",
            "model": summary.model,
            "parameters": summary.parameters,
            "epochs": summary.epochs,
            "best_epoch": summary.best_epoch,
            "train_seconds": summary.seconds,
            "history": {key: metric_history(summary.run_id, name, patient=True) for key, name in names.items()},
        }
        if tried:
            state["trials"] = tried
        return state

    def _parent(self, entry: Entry) -> str | None:
        """The run that the run of another seed is shown below: that of the system itself."""
        first = self.states.get(entry.seed_of, {}) if entry.seed_of else {}
        return version_run(first["model"]) if _is_trained(first) else None

    def _trained(self, recipe: Recipe, parent: str | None = None) -> TrainSummary:
        summary = self.engine.train(recipe, self.dataset.uri, parent)
        if recipe.training.storage == self.plan.runs:  # its model is in MLflow: the checkpoints have served
            storage.remove_tree(storage.join(self.plan.runs, summary.run_name))
        return summary

    def _tried(self, entry: Entry, recipe: Recipe) -> TrialsRecord | None:
        """The settings that trials chose, None for a system that has none. Its other seeds and its points of a learning curve take
        those of the system itself, whose trials are run first if they were not."""
        searched = self.plan.searched(entry)
        if searched is None:
            return None
        if searched.name != entry.name:
            return self._tried(searched, self._completed(searched))
        key = self.plan.trials_key(entry, self.hash)
        uri = storage.join(self.plan.out, "systems", entry.name, "trials.json")
        kept: TrialsFile | None = storage.read_json(uri) if storage.exists(uri) else None
        done = trials_from_json(kept["trials"]) if kept is not None and kept["key"] == key else []
        tracking = TrackingSection(
            **{**recipe.tracking.model_dump(), "model_name": f"{recipe.tracking.model_name}-trials"}
        )
        metric = f"f1_at_{main_k(recipe.evaluation.ks)}"
        trials = run_trials(
            recipe.model_copy(update={"tracking": tracking}),
            self.plan.trials,
            done,
            lambda tried: self._trained(tried).metrics[metric],
            lambda trials: storage.write_json(uri, TrialsFile(key=key, trials=trials_to_json(trials))),
            entry.name,
        )
        best = best_trial(trials)
        if best is None:
            raise HashtagError(f"all {len(trials)} trials failed, the first: {trials[0].reason}")
        return {
            "number": len(trials),
            "metric": metric,
            "chosen": best.settings,
            "validation": best.figure,
            "validation_of_recipe": trials[0].figure,
            "seconds": round(sum(trial.seconds for trial in trials), 1),
        }

    def _judge(self, entry: Entry, state: SystemState) -> SystemState:
        began = time.monotonic()
        row, ranked = self.engine.judge(state["model"], self.truth, self.validation, entry.recipe)
        write_ranked(self.plan.ranked(entry), ranked, self.truth)
        return {"status": "done", "row": row, "judge_seconds": round(time.monotonic() - began, 1)}

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


def _is_trained(state: SystemState) -> bool:
    """Whether its model is there already: what an interrupted run had trained and not judged."""
    if "model" not in state:
        return False
    try:
        find_version(state["model"])
    except NotFoundError:
        return False
    return True
