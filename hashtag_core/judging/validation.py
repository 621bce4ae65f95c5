"""A model on the validation split, while it is trained and when it is done: lists of tags, loss, metrics."""

import re
from collections.abc import Iterator

import numpy as np
import torch

from hashtag_core.config import Recipe
from hashtag_core.data.batches import make_targets
from hashtag_core.data.dataset import Dataset
from hashtag_core.data.features import FeatureTable
from hashtag_core.evaluation.metrics import PROTOCOLS, Protocol, index_metrics, judge
from hashtag_core.models.base import NeuralModel, TagModel
from hashtag_core.recommend.ranking import top_tags
from hashtag_core.training.job import VALIDATED, TrainJob
from hashtag_core.training.loader import Reading, in_order
from hashtag_core.training.loop import TrainingLoop
from hashtag_core.training.ranks import gather, rank, sum_over_ranks, world_size
from hashtag_core.training.selection import BEST_F1, epoch_ks

SCORE_POSTS = 64


class Validation:
    """Loss and ranking metrics on the validation split, each rank on its share, the same figures on all."""

    def __init__(self, job: TrainJob) -> None:
        self.table, self.reading, self.outside = job.table("validation"), job.reading(), job.outside
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
            f"{VALIDATED}loss": sum_over_ranks(loss, loop.device) / len(self.table),
            **{VALIDATED + name: figures[name] for name in dict.fromkeys([self.settings.select_metric, *wanted])},
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
    return {
        protocol: index_metrics(
            judged,
            recipe.evaluation.ks,
            protocol,
            table.column("user_id"),
            vocabulary.counts / max(vocabulary.posts, 1),
        )
        for protocol in PROTOCOLS
    }
