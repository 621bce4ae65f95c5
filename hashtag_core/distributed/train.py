"""Train one model of a recipe on a dataset: features, Ray Train, MLflow, a registered version.

    check -> MLflow run -> features that are missing -> tables -> train or fit -> model folder -> validation -> version

All that can be wrong with recipe, dataset, storage and MLflow is found before the first worker starts.
"""

import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ray.train.torch import TorchTrainer

from hashtag_core import storage
from hashtag_core.config import Recipe
from hashtag_core.data.features import FeatureCache
from hashtag_core.distributed.features import ensure_features, tables_folder
from hashtag_core.distributed.place import build_folder, is_alone
from hashtag_core.distributed.tasks import Pool
from hashtag_core.distributed.train_monitor import Watch, start_run_log
from hashtag_core.distributed.train_resources import (
    CPU_WORKER_CPUS,
    grows,
    set_train_environment,
    worker_resources,
    worker_threads,
)
from hashtag_core.distributed.train_worker import BEST, WorkerOutcome, train_worker
from hashtag_core.encoders import Encoders, load_encoders
from hashtag_core.encoders.tops import tuned_needs
from hashtag_core.errors import HashtagError, StorageError, TrainingError
from hashtag_core.judging.finish_training import Finished, FinishModel, curves, model_info, register_model
from hashtag_core.tracking import runs
from hashtag_core.tracking.provenance import source_tags, system_metrics
from hashtag_core.tracking.splits import log_split
from hashtag_core.training.check import check_model, input_spec, tokenizer_of
from hashtag_core.training.checkpoint import Progress
from hashtag_core.training.job import VALIDATED, TrainJob, check_disk
from hashtag_core.training.plan import TrainPlan, check_base, plan_training
from hashtag_core.training.record import RunRecord, TrainSummary, new_run_name

logger = logging.getLogger(__name__)

GROUP_START_FAILURES = 3


def train(
    recipe: Recipe | None, dataset_uri: str | None, resume: str | None = None, parent: str | None = None
) -> TrainSummary:
    """Plan and train: `run_training(plan_training(...), parent)`."""
    return run_training(plan_training(recipe, dataset_uri, resume), parent)


def run_training(plan: TrainPlan, parent: str | None = None) -> TrainSummary:
    """Train, evaluate on the validation split, register a version. Ray is connected (`session.connect`). `parent` is the id of
    the MLflow run that a new run is shown below.

    A worker that dies is replaced, and training goes on from the last checkpoint. A run whose driver died goes on with a plan
    that resumes it; of one that is finished the summary is returned again.
    """
    started = time.monotonic()
    if plan.resumed is not None and plan.resumed.summary is not None:
        logger.info("run %s is finished already: %s", plan.resumed.name, plan.resumed.summary.model)
        return plan.resumed.summary
    recipe, dataset = plan.recipe, plan.dataset
    resources = None if plan.fitted else worker_resources(recipe)
    encoders = load_encoders(recipe.encoders, plan.needs, "cpu")
    check_base(plan, encoders.identity)
    check_model(plan, encoders)
    name = plan.resumed.name if plan.resumed else new_run_name(recipe.model.family)
    labels = {
        "family": recipe.model.family,
        "dataset": dataset.uri,
        "dataset_hash": dataset.info.content_hash,
        "checkpoints": storage.join(plan.storage, name),
    }
    run_id = plan.resumed.run_id if plan.resumed else None
    with (
        _resumable(name, storage.join(plan.storage, name), recipe),
        runs.start_run(
            recipe.tracking.experiment, name, run_id, {**labels, **source_tags(), "kind": "training"}, parent
        ) as run,
        system_metrics(run),
    ):
        record = _begin(plan, run, name)
        gpus = recipe.training.workers if resources and "GPU" in resources else None
        cache = ensure_features(dataset, recipe.encoders, plan.needs, ("train", "validation"), gpus)
        job = make_job(plan, encoders, cache)
        info = model_info(plan, encoders.identity, run.run_id)
        del encoders
        progress = None
        finish = FinishModel(job, info, base=plan.base.model if plan.base is not None else None)
        if resources is not None:
            progress, checkpoint = _train_on_ray(plan, job, run, record, resources)
            finish = FinishModel(job, info, checkpoint)
        finished, version = _finish(plan, run, finish, {**labels, "run_name": name}, _pool(plan, resources))
        summary = TrainSummary(
            run_id=run.run_id,
            run_name=name,
            model=version,
            metrics=finished.metrics["headline"],
            seconds=round(time.monotonic() - started, 1),
            epochs=progress.epoch if progress else None,
            best_epoch=None if progress is None or progress.best_epoch is None else progress.best_epoch + 1,
            parameters=finished.parameters,
        )
        replace(record, summary=summary).save()
    return summary


def _begin(plan: TrainPlan, run: runs.Run, name: str) -> RunRecord:
    """Write down, beside the checkpoints and in MLflow, what is to be trained on what."""
    recipe, dataset = plan.recipe, plan.dataset
    record = RunRecord(
        name, plan.storage, run.run_id, dataset.uri, dataset.info.content_hash, recipe.model_dump(mode="json")
    )
    record.save()
    logger.info("run %s (MLflow id %s), checkpoints in %s", name, run.run_id, record.folder)
    run.log_params(record.recipe)
    run.log_json(record.recipe, "recipe.json")
    for split in ("train", "validation"):
        log_split(run, dataset, split)
    return record


def _finish(
    plan: TrainPlan, run: runs.Run, finish: FinishModel, labels: Mapping[str, str], pool: Pool | None
) -> tuple[Finished, str]:
    """The last step, where it belongs; what it tells, and the URI of the version."""
    with tempfile.TemporaryDirectory(prefix="hashtag-model-") as folder:
        finished = build_folder(f"{labels['run_name']}, its last step", finish, Path(folder), pool)
        run.log_metrics(finished.figures)
        run.log_params({"parameters": finished.parameters})
        return finished, register_model(plan, run, Path(folder), finished, {**labels, "k": finished.k})


def _pool(plan: TrainPlan, resources: dict[str, float] | None) -> Pool | None:
    """What the last step runs on: one worker as those of the training are, or this process where its machine is all there is."""
    if is_alone():
        return None
    asked = resources or {"CPU": plan.recipe.training.worker_cpus or CPU_WORKER_CPUS}
    return Pool(1, asked["CPU"], asked.get("GPU"))


@contextmanager
def _resumable(name: str, folder: str, recipe: Recipe) -> Iterator[None]:
    """An interrupt, and a training that MLflow or the storage breaks off, tell how the run goes on, where it had begun."""
    try:
        yield
    except (StorageError, KeyboardInterrupt) as error:
        saved = False
        with suppress(HashtagError):
            saved = storage.exists(storage.join(folder, "run.json"))
        if not saved:
            raise
        if isinstance(error, StorageError):
            raise StorageError(f"{error}; what was trained is kept in {folder}: go on with --resume {name}") from error
        where = f" --set training.storage={recipe.training.storage}" if recipe.training.storage else ""
        raise KeyboardInterrupt(f"go on with `python jobs/train.py --resume {name}{where}`") from None


def make_job(plan: TrainPlan, encoders: Encoders, cache: FeatureCache) -> TrainJob:
    """What a worker needs to train or fit. Where the driver's machine is all there is, the tables are built, and marked as used."""
    recipe, dataset = plan.recipe, plan.dataset
    tokenizer = tokenizer_of(plan, encoders, build=True)
    text = None
    if tokenizer is not None:
        with tempfile.TemporaryDirectory(prefix="hashtag-tokenizer-") as folder:
            tokenizer.save(Path(folder, "tokenizer.json"))
            text = Path(folder, "tokenizer.json").read_text(encoding="utf-8")
    vocabulary = dataset.vocabulary
    outside = [
        len(set(tags or ()) - vocabulary.index.keys())
        for table in dataset.read("validation", ["hashtags"])
        for tags in table["hashtags"].to_pylist()
    ]
    job = TrainJob(
        recipe=recipe,
        family=recipe.model.family,
        options=plan.options,
        spec=input_spec(plan, encoders, tokenizer),
        needs=tuned_needs(plan.needs, recipe.encoders),
        tokenizer_json=text,
        encoder_folder=encoders.text_folder,
        dataset=dataset,
        cache=cache,
        tables=str(tables_folder()),
        outside=np.array(outside, dtype=np.int64),
    )
    if is_alone():  # else the workers do, each node for itself
        check_disk(job)
        for split in ("train", "validation"):
            os.utime(job.table(split).folder)
    return job


def _train_on_ray(
    plan: TrainPlan, job: TrainJob, run: runs.Run, record: RunRecord, resources: dict[str, float]
) -> tuple[Progress, str]:
    """Ray Train until the last epoch; and the URI of the best one's checkpoint."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.config import LoggingConfig

    settings = plan.recipe.training
    filesystem, path = storage.arrow_filesystem(plan.storage)
    log = start_run_log()
    job = TrainJob(**{**vars(job), "log": log, "record_file": record.file, "run_id": record.run_id})
    set_train_environment(settings)
    threads = worker_threads(settings, resources)
    trainer = partial(
        _Trainer,
        lambda: train_worker(job, threads),
        scaling_config=ScalingConfig(
            num_workers=settings.workers, use_gpu="GPU" in resources, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=record.name,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(
                max_failures=settings.max_failures,
                controller_failure_limit=GROUP_START_FAILURES if not grows() else 0,
            ),
            checkpoint_config=CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute=BEST, checkpoint_score_order="max"
            ),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    select = VALIDATED + settings.select_metric
    watch = Watch(log, run, settings.epochs, select, run.last_step("train_loss"))
    with watch, _interrupts_kept():
        result = _run_trainer(trainer, settings.max_failures)
    outcome: WorkerOutcome = result.return_value
    if isinstance(outcome, HashtagError):
        raise outcome
    progress = outcome
    watch.finish(progress.history)
    run.log_figure(curves(progress, select), "curves.png")
    run.set_tags({"precision": progress.precision, "best_epoch": (progress.best_epoch or 0) + 1})
    best, _ = max(result.best_checkpoints, key=lambda pair: pair[1][BEST])
    return progress, storage.join(record.folder, Path(best.path).name)


class _Trainer(TorchTrainer):
    """Without the watcher that removes the workers when it cannot find the controller, where the Ray is our own.

    It looks in whichever Ray of the machine it finds first, so that two trainings at once on one machine end each other;
    and a local Ray ends with its driver anyway.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()
        if os.environ.get("RAY_ADDRESS"):
            return callbacks
        return [callback for callback in callbacks if type(callback).__name__ != "PlacementGroupCleanerCallback"]


def _run_trainer(make_trainer: Callable[[], Any], max_failures: int, begun_anew: int = 0) -> Any:
    """`fit()` of what is made, its errors as ours. A worker that dies just as the workers are told to begin is to Ray an error of its
    controller, which it does not try again: another trainer of the same name goes on from the last checkpoint."""
    from ray.exceptions import RayActorError
    from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

    try:
        return make_trainer().fit()
    except TrainingFailedError as error:
        is_death = isinstance(error, ControllerError) and isinstance(error.controller_failure, RayActorError)
        if is_death and begun_anew < max_failures:
            logger.warning("a worker died as training began, beginning anew: %s", " ".join(str(error).split())[:500])
            return _run_trainer(make_trainer, max_failures, begun_anew + 1)
        causes: list[BaseException] = [error]
        if isinstance(error, WorkerGroupError):
            begun_anew += max_failures
            causes = [getattr(cause, "cause", None) or cause for cause in error.worker_failures.values()]
        for cause in causes:
            if isinstance(cause, HashtagError):
                raise cause from None
        raise TrainingError(
            f"training failed, after {begun_anew} new starts: {type(causes[0]).__name__}: {' '.join(str(causes[0]).split())[:2000]}"
        ) from error


@contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Ray Train takes SIGINT for itself, ends the process by `SystemExit` as if all were well, and does not give it back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, handler)
