"""What each training worker does: open the features, build or restore the model, run the loop, report to Ray Train."""

import fcntl
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch

from hashtag_core.config import Recipe
from hashtag_core.data.batches import make_targets
from hashtag_core.data.dataset import Dataset, Split
from hashtag_core.data.features import FeatureCache, FeatureTable, build_feature_table
from hashtag_core.data.history import HistoryRule
from hashtag_core.data.history_batch import open_history
from hashtag_core.data.tokens import CaptionTokenizer
from hashtag_core.distributed.train_resources import check_storage
from hashtag_core.encoders import load_encoders
from hashtag_core.errors import HashtagError, StorageError, TrainingError
from hashtag_core.evaluation.metrics import Protocol, index_metrics, judge
from hashtag_core.models.base import InputSpec, ModelOptions, NeuralModel, TagModel
from hashtag_core.models.registry import create_model
from hashtag_core.models.tuned import with_encoder
from hashtag_core.recommend.ranking import top_tags
from hashtag_core.training.checkpoint import Progress
from hashtag_core.training.loader import BatchLoader, PostTable, Reading, Share, TableFitSource, in_order
from hashtag_core.training.loop import TrainingLoop, gather, rank, sum_over_ranks, world_size
from hashtag_core.training.selection import BEST_F1, epoch_ks

STEP_REPORT_S = 0.5
SCORE_POSTS = 64
PREFIX = "validation_"
BEST = "best_epoch_or_minus_one"
"""What Ray Train orders checkpoints by: the epoch where it is the best so far, else -1, so that the highest is ours."""


@dataclass(frozen=True)
class TrainJob:
    """All that a worker needs to know; it crosses to the workers by pickle."""

    recipe: Recipe
    family: str
    options: ModelOptions
    spec: InputSpec
    needs: frozenset[str]
    tokenizer_json: str | None
    encoder_folder: str | None
    """Transformers folder that a model may take pretrained weights from."""
    dataset: Dataset
    cache: FeatureCache
    tables: str
    """Folder on each node's own disk."""
    outside: np.ndarray
    """True tags outside the vocabulary of each validation post."""
    record_file: str = ""
    """`run.json` of the run, beside its checkpoints, and the run's id: what a worker knows the folder by."""
    run_id: str = ""
    log: Any = None
    """A `progress.RunLog`."""

    def reading(self) -> Reading:
        """How rows become batches."""
        return Reading(self.spec.vocabulary_size, self.needs, tuple(self.options.inputs), self.tokenizer())

    def model(self) -> TagModel:
        """A new model, behind the parts of its encoders that are trained with it."""
        model = create_model(self.family, self.spec, self.options, self.dataset.vocabulary.tags)
        if self.recipe.encoders.finetune == "none":
            return model
        return with_encoder(model, load_encoders(self.recipe.encoders, type(model).needs(self.options), "cpu").tops())

    def tokenizer(self) -> CaptionTokenizer | None:
        """The family's tokenizer, from the text of its file."""
        if self.tokenizer_json is None:
            return None
        with tempfile.TemporaryDirectory(prefix="hashtag-tokenizer-") as folder:
            path = Path(folder, "tokenizer.json")
            path.write_text(self.tokenizer_json, encoding="utf-8")
            return CaptionTokenizer.from_file(path)

    def table(self, split: Split) -> FeatureTable:
        """The split's features on this node's disk, built from the cache by the first process of the node that asks; with
        the posts' histories for a family that reads them."""
        vocabulary = self.dataset.vocabulary
        rule = HistoryRule.of(self.needs, self.options, self.recipe.history)
        with _node_lock(Path(self.tables)):
            table = build_feature_table(self.dataset, split, self.cache, self.needs, vocabulary, self.tables)
            if rule is not None:
                table.history = open_history(self.dataset, split, rule, self.cache, vocabulary, self.tables)
        return table

    def train_table(self) -> PostTable:
        """What is learned from: the train split, or `training.train_share` of it."""
        table, settings = self.table("train"), self.recipe.training
        return table if settings.train_share == 1 else Share(table, settings.train_share, settings.seed)


def train_worker(job: TrainJob) -> dict[str, Any]:
    """The training function of Ray Train.

    Returns {"progress": ...} or, for an error that a fresh worker would meet again, {"error": ...}: raised, it would be
    taken for a lost worker and tried again. All ranks return alike, since none may wait for one that has gone.
    """
    # Ray Train tells every report through the root logger; the driver shows the epochs.
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("hashtag_core").setLevel(logging.INFO)
    loop: TrainingLoop | None = None
    fault: HashtagError | None = None
    try:
        loop = _make_loop(job)
    except StorageError:
        raise  # it may answer the next worker
    except HashtagError as error:
        fault = error
    faults = [found for found in gather(fault) if found is not None]
    if faults or loop is None:
        return {"error": faults[0]}
    try:
        return {"progress": loop.run()}
    except TrainingError as error:
        return {"error": error}


def _make_loop(job: TrainJob) -> TrainingLoop:
    """Tables, model and optimizer of this worker, at the position of the last checkpoint."""
    context = ray.train.get_context()
    check_storage(job.record_file, job.run_id)
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // context.get_local_world_size()))
    device = ray.train.torch.get_device()
    settings = job.recipe.training
    reading = job.reading()
    table = job.train_table()
    loader = BatchLoader(
        table,
        reading,
        settings,
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        pin_memory=device.type == "cuda",
    )
    torch.manual_seed(settings.seed)
    model = job.model()
    if not isinstance(model, NeuralModel):
        raise TypeError(f"{job.family} is not trained by gradient")
    checkpoint = ray.train.get_checkpoint()
    counts_V = tag_counts(table.tags, len(job.dataset.vocabulary))
    model.learn_counts(counts_V, len(table))
    if checkpoint is None:
        model.initialise(job.encoder_folder, job.tokenizer())
        if settings.output_bias_start == "tag_frequencies":
            model.begin_with(counts_V, len(table))
        if context.get_world_rank() == 0:
            model.prepare(TableFitSource(table, reading), seed=settings.seed)
    loop = TrainingLoop(
        model,
        settings,
        loader,
        Validation(job, job.table("validation"), reading),
        PREFIX + settings.select_metric,
        device=device,
        on_checkpoint=lambda loop: _report(job, loop),
        on_step=_StepReport(job) if context.get_world_rank() == 0 else None,
    )
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            loop.restore(Path(folder))
    return loop


def tag_counts(tags: Sequence[Sequence[int]], vocabulary_size: int) -> torch.Tensor:
    """counts_V: posts that have each tag."""
    found = np.fromiter((tag for row in tags for tag in set(row)), np.int64)
    return torch.from_numpy(np.bincount(found, minlength=vocabulary_size))


class Validation:
    """Loss and ranking metrics on the validation split, each rank on its share, the same figures on all."""

    def __init__(self, job: TrainJob, table: FeatureTable, reading: Reading) -> None:
        self.table, self.reading, self.outside = table, reading, job.outside
        self.settings, self.ks = job.recipe.training, epoch_ks(job.recipe)

    def __call__(self, model: NeuralModel, loop: TrainingLoop) -> dict[str, float]:
        tags = self.table.tags
        loss = 0.0
        found = [np.zeros((0, 1 + min(max(self.ks), self.reading.vocabulary_size)), np.int64)]
        share = in_order(self.table, self.reading, SCORE_POSTS, rank=rank(), world=world_size())
        for rows, batch in share:
            posts = batch.to(loop.device)
            targets = make_targets(
                [tags[int(row)] for row in rows], self.reading.vocabulary_size, self.settings.max_tags
            )
            with loop.autocast():
                loss += float(model.loss(posts, targets.to(loop.device))) * len(rows)
                scores_BV = model.score(posts).float()
            ranked_BK, _ = top_tags(scores_BV, max(self.ks))
            found.append(np.concatenate([rows[:, None], ranked_BK.cpu().numpy()], axis=1))
        all_found = np.concatenate(gather(np.concatenate(found)))
        ranked = np.zeros((len(self.table), all_found.shape[1] - 1), np.int64)
        ranked[all_found[:, 0]] = all_found[:, 1:]
        figures = index_metrics(
            judge(ranked, tags, self.reading.vocabulary_size, self.outside), self.ks, self.settings.select_protocol
        )
        figures[BEST_F1] = max(figures[f"f1_at_{k}"] for k in self.ks)
        wanted = [name for name in figures if re.search(rf"^(precision|recall|f1|hit_rate)_at_{max(self.ks)}$", name)]
        return {
            f"{PREFIX}loss": sum_over_ranks(loss, loop.device) / len(self.table),
            **{PREFIX + name: figures[name] for name in dict.fromkeys([self.settings.select_metric, *wanted])},
        }


def rank_table(
    model: TagModel, table: FeatureTable, reading: Reading, k: int, device: torch.device | str = "cpu"
) -> np.ndarray:
    """Vocabulary indices [posts, K] of the best tags of each row, best first."""
    found = [np.zeros((0, min(k, reading.vocabulary_size)), np.int64)]
    for _, scores_BV in score_table(model, table, reading, device):
        found.append(top_tags(scores_BV, k)[0].cpu().numpy())
    return np.concatenate(found)


def score_table(
    model: TagModel, table: FeatureTable, reading: Reading, device: torch.device | str = "cpu"
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Row numbers and scores_BV (float32, on the device) of all rows in order, a batch at a time."""
    for rows, batch in in_order(table, reading, SCORE_POSTS):
        with torch.inference_mode():
            scores_BV = model.score(batch.to(device)).float()
        yield rows, scores_BV


def validation_metrics(
    ranked: np.ndarray, table: FeatureTable, outside: np.ndarray, dataset: Dataset, recipe: Recipe
) -> dict[Protocol, dict[str, float]]:
    """Every metric of every protocol for the lists of `rank_table`."""
    vocabulary = dataset.vocabulary
    judged = judge(ranked, table.tags, len(vocabulary), outside)
    protocols: tuple[Protocol, ...] = ("headline", "papers", "floor")
    return {
        protocol: index_metrics(
            judged,
            recipe.evaluation.ks,
            protocol,
            table.column("user_id"),
            vocabulary.counts / max(vocabulary.posts, 1),
        )
        for protocol in protocols
    }


def _report(job: TrainJob, loop: TrainingLoop) -> None:
    """Hand a checkpoint to Ray Train (a barrier for all ranks), then the history to the log."""
    progress = loop.progress
    metrics: dict[str, Any] = {
        "epoch": progress.epoch,
        "step": progress.step,
        BEST: progress.best_epoch if loop.improved else -1,
    }
    if rank() != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory(prefix="hashtag-checkpoint-") as folder:
        loop.save(Path(folder, "checkpoint"))
        ray.train.report(
            metrics,
            ray.train.Checkpoint.from_directory(Path(folder, "checkpoint")),
            checkpoint_dir_name=f"epoch-{progress.epoch:04d}-step-{progress.step:06d}",
        )
    if job.log is not None and progress.step == 0:
        job.log.epochs.remote(progress.history)


class _StepReport:
    """Tells the log the position, twice a second at most."""

    def __init__(self, job: TrainJob) -> None:
        self.log, self.told = job.log, 0.0

    def __call__(self, progress: Progress, steps: int) -> None:
        if self.log is not None and (time.monotonic() - self.told > STEP_REPORT_S or progress.step == steps):
            self.told = time.monotonic()
            self.log.step.remote(progress.epoch, progress.step, steps)


@contextmanager
def _node_lock(folder: Path) -> Iterator[None]:
    """One process of this node at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
