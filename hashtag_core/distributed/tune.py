"""Tries out settings of one recipe: Ray Tune draws them by Optuna and ends early what falls behind, on the validation split alone.

    check -> features, once -> trials, each an actor -> MLflow: a run, and below it one a trial -> the best recipe as TOML

What may be tried stands in the recipe's `[search]`. The first trial is the recipe as it is written, the others are drawn by a
tree-structured Parzen estimator (Bergstra et al. 2011). After each epoch a trial tells its best figure so far, and asynchronous successive
halving (Li et al. 2020) ends a trial that is in the worse two thirds of those that came as far. A trial trains in one process: the global
batch, and with it the loss curve, is that of any number of workers.
"""

import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from ray import tune as ray_tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search.optuna import OptunaSearch

from hashtag_core import storage
from hashtag_core.distributed.features import ensure_features
from hashtag_core.distributed.train import make_job
from hashtag_core.distributed.train_resources import worker_resources
from hashtag_core.encoders import load_encoders
from hashtag_core.errors import TrainingError
from hashtag_core.judging.validation import Validation
from hashtag_core.leaderboard.trials import Settings, drawn_settings, own_settings, sampler, with_settings
from hashtag_core.leaderboard.tuning import fitted_figure, recipe_toml
from hashtag_core.models.base import FittedModel
from hashtag_core.models.registry import family, parse_options
from hashtag_core.tracking import runs
from hashtag_core.tracking.provenance import source_tags
from hashtag_core.training.check import check_model
from hashtag_core.training.job import VALIDATED, TrainJob, make_loop
from hashtag_core.training.plan import TrainPlan
from hashtag_core.training.record import new_run_name

logger = logging.getLogger(__name__)

FIGURE, EPOCH = "figure", "epoch"
LEAST_EPOCHS = 2
"""Epochs that every trial is given."""
KEPT_SHARE = 3
"""One in so many trials goes on at each halving."""


@dataclass(frozen=True)
class TuneSummary:
    """What `jobs/tune.py` prints. `figure`: of the validation split, by `metric`."""

    run_id: str
    recipe: str
    settings: Settings
    metric: str
    figure: float
    own_figure: float | None
    """Of the recipe as it was written."""
    trials: int
    failed: int
    ended_early: int
    seconds: float


def tune(plan: TrainPlan, trials: int, out: str, at_once: int | None = None) -> TuneSummary:
    """Run the trials of a plan (`plan_tuning`) and write the best recipe to `out`. Ray is connected (`session.connect`).

    TrainingError where every trial failed; KeyboardInterrupt, and no recipe, where it is broken off.
    """
    began = time.monotonic()
    encoders = load_encoders(plan.recipe.encoders, plan.needs, "cpu")
    check_model(plan, encoders)
    metric = VALIDATED + plan.recipe.training.select_metric
    labels = {"kind": "tuning", "family": plan.recipe.model.family, "dataset": plan.dataset.uri}
    name = f"tune-{new_run_name(plan.recipe.model.family)}"
    with runs.start_run(plan.recipe.tracking.experiment, name, None, {**labels, **source_tags()}) as run:
        run.log_params(plan.recipe.model_dump(mode="json", exclude={"search"}))
        run.log_json(plan.recipe.model_dump(mode="json")["search"], "search.json")
        cache = ensure_features(plan.dataset, plan.recipe.encoders, plan.needs, ("train", "validation"), None)
        job = make_job(plan, encoders, cache)
        with tempfile.TemporaryDirectory(prefix="hashtag-tune-") as folder:
            trial_runs = _TrialRuns(plan, run.run_id, labels, metric)
            results = _run_trials(plan, job, trials, at_once, folder, trial_runs)
        found = [one for one in results if one.metrics and FIGURE in one.metrics and not one.error]
        if not found:
            raise TrainingError(f"every one of {len(results)} trials failed; the first: {results[0].error}")
        best = max(found, key=lambda one: float(one.metrics[FIGURE]))
        settings = drawn_settings(plan.recipe, best.config or {})
        own = own_settings(plan.recipe)
        figures = {FIGURE: float(best.metrics[FIGURE]), "trials": len(results), "failed": len(results) - len(found)}
        text = recipe_toml(
            with_settings(plan.recipe, settings), f"{metric} {figures[FIGURE]:.4f}, the best of {len(results)} trials"
        )
        storage.write_bytes(out, text.encode())
        run.log_text(text, "best.toml")
        run.log_metrics(figures)
        run.set_tags({f"best.{name}": value for name, value in settings.items()})
        return TuneSummary(
            run_id=run.run_id,
            recipe=out,
            settings=settings,
            metric=metric,
            figure=figures[FIGURE],
            own_figure=next(
                (one.metrics[FIGURE] for one in found if drawn_settings(plan.recipe, one.config) == own), None
            ),
            trials=len(results),
            failed=len(results) - len(found),
            ended_early=sum(not one.metrics["whole"] for one in found),
            seconds=round(time.monotonic() - began, 1),
        )


def _run_trials(
    plan: TrainPlan,
    job: TrainJob,
    trials: int,
    at_once: int | None,
    folder: str,
    trial_runs: "_TrialRuns",
) -> list[Any]:
    recipe = plan.recipe
    alone = recipe.model_copy(update={"training": recipe.training.model_copy(update={"workers": 1})})
    spaces = {name: space.distribution() for name, space in recipe.search.items()}
    first = {name: recipe.search[name].drawn(value) for name, value in own_settings(recipe).items()}
    halving = ASHAScheduler(
        time_attr=EPOCH, max_t=recipe.training.epochs + 1, grace_period=min(LEAST_EPOCHS, recipe.training.epochs),
        reduction_factor=KEPT_SHARE,
    )  # fmt: skip
    asked = {name.lower(): amount for name, amount in worker_resources(alone).items()}
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(ray_tune.with_parameters(_trial, job=job), asked),
        tune_config=ray_tune.TuneConfig(
            metric=FIGURE,
            mode="max",
            num_samples=trials,
            max_concurrent_trials=at_once,
            search_alg=OptunaSearch(
                space=spaces,
                metric=FIGURE,
                mode="max",
                points_to_evaluate=[first],
                sampler=sampler(recipe.training.seed),
            ),
            scheduler=FIFOScheduler() if plan.fitted else halving,
        ),
        run_config=ray_tune.RunConfig(name="trials", storage_path=folder, callbacks=[trial_runs], verbose=0),
    )
    # Tune would take an interrupt for itself, and end as if all were well.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    try:
        return list(tuner.fit())
    finally:
        trial_runs.close()


def _trial(config: Mapping[str, Any], job: TrainJob) -> None:
    """One trial, in its actor; tells its best figure so far after each epoch."""
    logging.getLogger().setLevel(logging.WARNING)
    recipe = with_settings(job.recipe, drawn_settings(job.recipe, config))
    job = replace(job, recipe=recipe, options=parse_options(recipe.model.family, recipe.model.options))
    metric = VALIDATED + recipe.training.select_metric
    if issubclass(family(job.family), FittedModel):
        ray_tune.report({FIGURE: fitted_figure(job), EPOCH: 1, "whole": True})
        return

    def tell(loop: Any) -> None:
        progress = loop.progress
        if progress.step == 0:
            row = progress.history[-1]
            whole = progress.stopped_early or progress.epoch == recipe.training.epochs
            losses = {name: row[name] for name in (metric, "train_loss", VALIDATED + "loss")}
            ray_tune.report({FIGURE: progress.best_value, EPOCH: progress.epoch, "whole": whole, **losses})

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    make_loop(job, device, Validation(job), on_checkpoint=tell).run()


class _TrialRuns(ray_tune.Callback):
    """A run of MLflow a trial, below that of the tuning; it lives in the driver, where MLflow's credentials are."""

    def __init__(self, plan: TrainPlan, parent: str, labels: Mapping[str, Any], metric: str) -> None:
        self.plan, self.parent, self.labels, self.metric = plan, parent, labels, metric
        self.open: dict[str, tuple[runs.Run, ExitStack]] = {}
        self.best: float | None = None

    def __getstate__(self) -> Mapping[str, object]:
        """Tune writes its callbacks down with its state; open runs stay here."""
        return {**vars(self), "open": {}}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if trial.trial_id in self.open:
            return
        stack = ExitStack()
        experiment = self.plan.recipe.tracking.experiment
        name = f"trial-{len(self.open) + 1}"
        run = stack.enter_context(
            runs.start_run(experiment, name, None, {**self.labels, "kind": "trial"}, parent=self.parent)
        )
        self.open[trial.trial_id] = run, stack
        settings = drawn_settings(self.plan.recipe, trial.config)
        run.log_params(settings)
        logger.info("%s: %s", name, json.dumps(settings))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        run, _ = self.open[trial.trial_id]
        names = (FIGURE, self.metric, "train_loss", VALIDATED + "loss")
        run.log_metrics({name: result[name] for name in names if name in result}, int(result[EPOCH]))
        if self.best is None or result[FIGURE] > self.best:
            self.best = float(result[FIGURE])
            logger.info("best so far: %s %.4f after epoch %d", self.metric, self.best, result[EPOCH])

    def close(self) -> None:
        """End the runs of trials that were broken off."""
        for _, stack in self.open.values():
            stack.__exit__(*sys.exc_info())

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.open[trial.trial_id][1].close()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        run, stack = self.open[trial.trial_id]
        error = getattr(trial, "get_error", lambda: None)()
        reason = " ".join(str(getattr(error, "cause", None) or error).split())[:500]
        logger.warning("a trial failed: %s", reason)
        run.set_tags({"failed": reason})
        stack.__exit__(TrainingError, TrainingError(reason), None)
