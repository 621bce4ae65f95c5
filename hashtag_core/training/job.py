"""All that a process needs to train one model of a recipe, and the loop that it makes of it."""

import fcntl
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hashtag_core.config import Recipe
from hashtag_core.data.dataset import Dataset, Split
from hashtag_core.data.features import FeatureCache, FeatureTable, build_feature_table
from hashtag_core.data.history import HistoryRule
from hashtag_core.data.history_batch import open_history
from hashtag_core.data.tokens import CaptionTokenizer
from hashtag_core.encoders import load_encoders
from hashtag_core.errors import ConfigError
from hashtag_core.models.base import BuiltOnModel, FittedModel, InputSpec, ModelOptions, NeuralModel, TagModel
from hashtag_core.models.registry import create_model
from hashtag_core.models.tuned import with_encoder
from hashtag_core.training.checkpoint import Progress
from hashtag_core.training.loader import BatchLoader, PostTable, Reading, Share, TableFitSource
from hashtag_core.training.loop import TrainingLoop, Validate

logger = logging.getLogger(__name__)

SPARE_DISK_BYTES = 1 << 30
"""Left free on a node's disk beside its tables."""
VALIDATED = "validation_"
"""What figures of the validation split begin with."""


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
        with node_lock(Path(self.tables)):
            table = build_feature_table(self.dataset, split, self.cache, self.needs, vocabulary, self.tables)
            if rule is not None:
                table.history = open_history(self.dataset, split, rule, self.cache, vocabulary, self.tables)
        return table

    def train_table(self) -> PostTable:
        """What is learned from: the train split, or `training.train_share` of it."""
        table, settings = self.table("train"), self.recipe.training
        return table if settings.train_share == 1 else Share(table, settings.train_share, settings.seed)


def make_loop(
    job: TrainJob,
    device: torch.device,
    validate: Validate,
    *,
    rank: int = 0,
    world: int = 1,
    fresh: bool = True,
    on_checkpoint: Callable[[TrainingLoop], None] | None = None,
    on_step: Callable[[Progress, int], None] | None = None,
) -> TrainingLoop:
    """The loop of one rank; with `fresh` False its model waits for a checkpoint, and begins with nothing."""
    settings = job.recipe.training
    reading = job.reading()
    table = job.train_table()
    loader = BatchLoader(table, reading, settings, rank=rank, world=world, pin_memory=device.type == "cuda")
    torch.manual_seed(settings.seed)
    model = job.model()
    if not isinstance(model, NeuralModel):
        raise TypeError(f"{job.family} is not trained by gradient")
    counts_V = tag_counts(table.tags, len(job.dataset.vocabulary))
    model.learn_counts(counts_V, len(table))
    if fresh:
        model.initialise(job.encoder_folder, job.tokenizer())
        if settings.output_bias_start == "tag_frequencies":
            model.begin_with(counts_V, len(table))
        if rank == 0:
            model.prepare(TableFitSource(table, reading), seed=settings.seed)
    return TrainingLoop(
        model,
        settings,
        loader,
        validate,
        VALIDATED + settings.select_metric,
        device=device,
        on_checkpoint=on_checkpoint,
        on_step=on_step,
        unfreeze_epochs=job.recipe.encoders.unfreeze_epochs,
    )


def fit_model(
    job: TrainJob, tag_text: np.ndarray | None = None, base: TagModel | None = None
) -> tuple[FittedModel, dict[str, float]]:
    """A model of a family that is fitted once, and what its fitting tells; calibrated, with figures of that. `tag_text`: the tags'
    own words [V, D_t], for a family that reads them. `base`: the model that it is built on, for one that is."""
    model = create_model(job.family, job.spec, job.options, job.dataset.vocabulary.tags)
    if tag_text is not None:
        model.take_tag_text(torch.from_numpy(tag_text))
    if not isinstance(model, FittedModel):
        raise TypeError(f"{job.family} is not fitted once")
    torch.manual_seed(job.recipe.training.seed)
    started = time.monotonic()
    if base is not None and isinstance(model, BuiltOnModel):
        model.take_base(base)
    table = job.train_table()
    figures = model.fit(TableFitSource(table, job.reading()), seed=job.recipe.training.seed)
    shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
    logger.info("fitted %s on %d posts in %.1f s  %s", job.family, len(table), time.monotonic() - started, shown)
    model.eval()
    with torch.no_grad():
        calibrated = model.calibrate(TableFitSource(job.table("validation"), job.reading()))
    return model, {**figures, **calibrated}


def check_disk(job: TrainJob) -> None:
    """ConfigError where the tables would not fit the disk of this node; counted as if no content were shared."""
    Path(job.tables).mkdir(parents=True, exist_ok=True)
    posts = sum(job.dataset.info.posts[split] for split in ("train", "validation"))
    tokens = job.recipe.encoders.max_tokens
    numbers = sum(int(np.prod(kind.shape)) * (tokens if kind.ragged else 1) for kind in job.cache.kinds.values())
    need, free = 2 * posts * numbers, shutil.disk_usage(job.tables).free
    if need + SPARE_DISK_BYTES > free and not list(Path(job.tables).glob("train-*")):
        raise ConfigError(
            f"{job.tables}: features of {posts} posts take up to {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; "
            "TMPDIR names another disk"
        )


def tag_counts(tags: Sequence[Sequence[int]], vocabulary_size: int) -> torch.Tensor:
    """counts_V: posts that have each tag."""
    found = np.fromiter((tag for row in tags for tag in set(row)), np.int64)
    return torch.from_numpy(np.bincount(found, minlength=vocabulary_size))


@contextmanager
def node_lock(folder: Path) -> Iterator[None]:
    """One process of this node at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
