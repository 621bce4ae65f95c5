"""Train one model of a recipe on a dataset: features, Ray Train, MLflow, a registered version.

    check -> MLflow run -> features that are missing -> tables -> train or fit -> model folder -> validation -> version

All that can be wrong with recipe, dataset, storage and MLflow is found before the first worker starts.
"""

import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.train.torch import TorchTrainer
from safetensors.torch import load_model

from hashtag_core import storage
from hashtag_core.config import Recipe
from hashtag_core.data.features import FeatureCache
from hashtag_core.data.model_record import EncodersIdentity
from hashtag_core.distributed.features import ensure_features, tables_folder
from hashtag_core.distributed.train_monitor import Watch, start_run_log
from hashtag_core.distributed.train_resources import grows, set_start_timeout, worker_resources
from hashtag_core.distributed.train_worker import BEST, WorkerOutcome, train_worker
from hashtag_core.encoders import Encoders, load_encoders
from hashtag_core.encoders.tops import tuned_needs
from hashtag_core.errors import ConfigError, HashtagError, StorageError, TrainingError
from hashtag_core.evaluation.metrics import Protocol
from hashtag_core.judging.finish_training import curves, model_info, register_model, save_and_evaluate
from hashtag_core.models.base import NeuralModel, TagModel
from hashtag_core.tracking import runs
from hashtag_core.tracking.provenance import source_tags, system_metrics
from hashtag_core.tracking.splits import log_split
from hashtag_core.training.check import check_model, input_spec, tokenizer_of
from hashtag_core.training.checkpoint import WEIGHTS, Progress
from hashtag_core.training.job import VALIDATED, TrainJob, fit_model
from hashtag_core.training.loader import TableFitSource
from hashtag_core.training.plan import TrainPlan, check_base, plan_training
from hashtag_core.training.record import RunRecord, TrainSummary, new_run_name

logger = logging.getLogger(__name__)

GROUP_START_FAILURES = 3
SPARE_DISK_BYTES = 1 << 30


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
        record = RunRecord(
            name, plan.storage, run.run_id, dataset.uri, dataset.info.content_hash, recipe.model_dump(mode="json")
        )
        record.save()
        logger.info("run %s (MLflow id %s), checkpoints in %s", name, run.run_id, record.folder)
        run.log_params(record.recipe)
        run.log_json(record.recipe, "recipe.json")
        for split in ("train", "validation"):
            log_split(run, dataset, split)
        gpus = recipe.training.workers if resources and "GPU" in resources else None
        cache = ensure_features(dataset, recipe.encoders, plan.needs, ("train", "validation"), gpus)
        job = make_job(plan, encoders, cache)
        identity = encoders.identity
        tag_text = tag_text_of(plan, encoders)
        del encoders
        if resources is None:
            model: TagModel
            model, figures = fit_model(job, tag_text, plan.base.model if plan.base is not None else None)
            run.log_metrics(figures)
            progress = None
        else:
            model, progress = _train_on_ray(plan, job, run, record, resources)
        parameters = sum(value.numel() for value in model.state_dict().values())
        run.log_params({"parameters": parameters})
        version, metrics = _register(plan, job, model, run, identity, {**labels, "run_name": name})
        summary = TrainSummary(
            run_id=run.run_id,
            run_name=name,
            model=version,
            metrics=metrics["headline"],
            seconds=round(time.monotonic() - started, 1),
            epochs=progress.epoch if progress else None,
            best_epoch=None if progress is None or progress.best_epoch is None else progress.best_epoch + 1,
            parameters=parameters,
        )
        replace(record, summary=summary).save()
    return summary


def _register(
    plan: TrainPlan,
    job: TrainJob,
    model: TagModel,
    run: runs.Run,
    identity: EncodersIdentity,
    labels: Mapping[str, str],
) -> tuple[str, dict[Protocol, dict[str, float]]]:
    """The version's URI, and the figures of the validation split by protocol."""
    with tempfile.TemporaryDirectory(prefix="hashtag-model-") as folder:
        info = model_info(plan, identity, run.run_id)
        metrics = save_and_evaluate(plan, job, model, Path(folder), info)
        return register_model(plan, run, Path(folder), metrics, {**labels, "k": info["k"]}), metrics


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
    """What a worker needs to train or fit; the tables that it reads are marked as used."""
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
    _check_disk(job)
    for split in ("train", "validation"):
        os.utime(job.table(split).folder)
    return job


def _check_disk(job: TrainJob) -> None:
    """ConfigError where the tables would not fit the disk; counted as if no content were shared."""
    posts = sum(job.dataset.info.posts[split] for split in ("train", "validation"))
    tokens = job.recipe.encoders.max_tokens
    numbers = sum(int(np.prod(kind.shape)) * (tokens if kind.ragged else 1) for kind in job.cache.kinds.values())
    need, free = 2 * posts * numbers, shutil.disk_usage(job.tables).free
    if need + SPARE_DISK_BYTES > free and not list(Path(job.tables).glob("train-*")):
        raise ConfigError(
            f"{job.tables}: features of {posts} posts take up to {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; "
            "TMPDIR names another disk"
        )


def tag_text_of(plan: TrainPlan, encoders: Encoders) -> np.ndarray | None:
    """The tags' own words through the text encoder [V, D_t], for a family that reads them."""
    if not plan.fitted or not plan.family.reads_tag_text(plan.options):
        return None
    return encoders.encode_tags(plan.dataset.vocabulary.tags)


def _train_on_ray(
    plan: TrainPlan, job: TrainJob, run: runs.Run, record: RunRecord, resources: dict[str, float]
) -> tuple[TagModel, Progress]:
    """Ray Train until the last epoch; the model with the weights of the best one, calibrated on the validation split."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.config import LoggingConfig

    settings = plan.recipe.training
    filesystem, path = storage.arrow_filesystem(plan.storage)
    log = start_run_log()
    job = TrainJob(**{**vars(job), "log": log, "record_file": record.file, "run_id": record.run_id})
    set_start_timeout(settings)
    trainer = _Trainer(
        lambda: train_worker(job),
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
    model = job.model()
    with best.as_directory() as folder:
        load_model(model, str(Path(folder, WEIGHTS)))
    if isinstance(model, NeuralModel):
        model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        with torch.no_grad():
            run.log_metrics(model.calibrate(TableFitSource(job.table("validation"), job.reading())))
    return model, progress


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


def _run_trainer(trainer: Any, max_failures: int) -> Any:
    """`trainer.fit()`, its errors as ours."""
    from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

    try:
        return trainer.fit()
    except TrainingFailedError as error:
        causes: list[BaseException] = [error]
        if isinstance(error, WorkerGroupError):
            causes = [getattr(cause, "cause", None) or cause for cause in error.worker_failures.values()]
        for cause in causes:
            if isinstance(cause, HashtagError):
                raise cause from None
        raise TrainingError(
            f"training failed, after {max_failures} new starts: {type(causes[0]).__name__}: {' '.join(str(causes[0]).split())[:2000]}"
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
