"""A prepared and encoded dataset in this process: `regression_kriging` fitted and asked without Ray and MLflow's registry.

Shape legend: `hashtag_core.data.batches`. What bench_regression_kriging.py measures with.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from hashtag_core.config import read_recipe
from hashtag_core.data.batches import PostBatch
from hashtag_core.data.dataset import Dataset, Split
from hashtag_core.data.feature_cache import cache_root
from hashtag_core.data.vocabulary import Vocabulary
from hashtag_core.distributed.train import make_job
from hashtag_core.encoders import Encoders, load_encoders
from hashtag_core.evaluation.metrics import Judged, index_metrics, judge
from hashtag_core.models import create_model
from hashtag_core.models.registry import parse_options
from hashtag_core.models.regression_kriging import RegressionKriging
from hashtag_core.recommend.ranking import top_tags
from hashtag_core.training.job import TrainJob
from hashtag_core.training.loader import PostTable, TableFitSource, in_order
from hashtag_core.training.plan import plan_training

RECIPE = Path(__file__).parents[2] / "jobs" / "recipes" / "regression_kriging_small.toml"
BATCH = 256


@dataclass(frozen=True)
class Rows:
    """Some rows of a table, as a table."""

    table: PostTable
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def tags(self) -> list[Sequence[int]]:
        """Of each row."""
        return [self.table.tags[int(row)] for row in self.index]

    def rows(self, indices: np.ndarray):  # type: ignore[no-untyped-def]
        return self.table.rows(self.index[indices])


@dataclass(frozen=True)
class Study:
    """A dataset whose features are cached, and a vocabulary, its own or another."""

    job: TrainJob
    encoders: Encoders
    vocabulary: Vocabulary

    @classmethod
    def open(cls, dataset_uri: str) -> "Study":
        """The dataset of a board (`leaderboard/NAME/dataset`), on which `regression_kriging` has run: it is encoded then."""
        asked = Dataset.open(dataset_uri).info.config
        order = "earlier" if asked["split"]["kind"] == "by_time" else "other"
        plan = plan_training(read_recipe(RECIPE, [f"history.order={order!r}"]), dataset_uri)
        encoders = load_encoders(plan.recipe.encoders, plan.needs, "cpu")
        cache = encoders.open_cache(cache_root(plan.dataset.uri, plan.recipe.encoders))
        return cls(make_job(plan, encoders, cache), encoders, plan.dataset.vocabulary)

    def with_vocabulary(self, vocabulary: Vocabulary) -> "Study":
        """The same posts, whose tags outside the vocabulary are not known."""
        dataset = copy.copy(self.job.dataset)
        dataset.__dict__["vocabulary"] = vocabulary  # where the cached property keeps it
        spec = replace(self.job.spec, vocabulary_size=len(vocabulary))
        return Study(replace(self.job, dataset=dataset, spec=spec), self.encoders, vocabulary)

    def words(self, tags: Sequence[str]) -> torch.Tensor:
        """Unit vectors [V, T] of what the tags say."""
        return torch.nn.functional.normalize(torch.from_numpy(self.encoders.encode_tags(tags)).float(), dim=1)

    def fit(self, table: PostTable | None = None, *, seed: int = 0, **options: object) -> RegressionKriging:
        """A model of the train split, or of a table, calibrated on the validation split."""
        given = parse_options("regression_kriging", {**self.job.options.model_dump(), **options})
        model = create_model("regression_kriging", self.job.spec, given, self.vocabulary.tags)
        assert isinstance(model, RegressionKriging)
        if model.reads_tag_text(given):
            model.take_tag_text(self.words(self.vocabulary.tags))
        model.fit(TableFitSource(self.job.table("train") if table is None else table, self.job.reading()), seed=seed)
        model.eval()
        with torch.no_grad():
            model.calibrate(TableFitSource(self.job.table("validation"), self.job.reading()))
        return model

    def batches(self, table: PostTable, history_posts: int | None = None) -> Iterator[PostBatch]:
        """The posts in order; of their histories the newest alone where a number is given."""
        for _, batch in in_order(table, self.job.reading(), BATCH):
            if history_posts is not None and batch.history is not None:
                mask_BH = batch.history.mask_BH.clone()
                mask_BH[:, history_posts:] = False
                batch = replace(batch, history=replace(batch.history, mask_BH=mask_BH))  # noqa: PLW2901
            yield batch

    def scores(self, model: RegressionKriging, table: PostTable, history_posts: int | None = None) -> torch.Tensor:
        """scores_NV of all posts of a table."""
        with torch.inference_mode():
            return torch.cat([model.score(batch) for batch in self.batches(table, history_posts)])

    def outside(self, split: Split) -> np.ndarray:
        """True tags outside the vocabulary of each post."""
        tables = self.job.dataset.read(split, ["hashtags"])
        rows = [tags or () for table in tables for tags in table["hashtags"].to_pylist()]
        return np.array([len(set(tags) - self.vocabulary.index.keys()) for tags in rows], dtype=np.int64)


def judged(scores_NV: torch.Tensor, tags: Sequence[Sequence[int]], outside_N: np.ndarray, k: int = 10) -> Judged:
    """The first k tags of each post against the truth."""
    return judge(top_tags(scores_NV, k)[0].numpy(), tags, scores_NV.shape[1], outside_N)


def f1(judged_: Judged, k: int = 5) -> float:
    """F1@k, protocol headline."""
    users = ["" for _ in judged_.truth_N]
    return index_metrics(judged_, [k], "headline", users, np.ones(judged_.vocabulary_size))[f"f1_at_{k}"]
