"""Scores to ranked tags, the same in every run. Shape legend: `hashtag_core.data.batches`; K is the length of the list."""

import numpy as np
import torch
from torch import Tensor


def popularity_logits(counts_V: np.ndarray, posts: int) -> Tensor:
    """float32 [V]: log of each tag's share of the train posts, less that of the mean use of a tag (each use counts once).

    A tag that no train post has counts as half a post.
    """
    if not len(counts_V):
        return torch.zeros(0)
    log_V = np.log((counts_V + 0.5) / (posts + 1))
    weights = np.asarray(counts_V, dtype=np.float64) if np.any(counts_V) else np.ones(len(counts_V))
    return torch.from_numpy((log_V - np.average(log_V, weights=weights)).astype(np.float32))


def less_popular(scores_BV: Tensor, popularity_V: Tensor, diversity: float) -> Tensor:
    """The scores as if popular tags were less so: odds divided by popularity to the power `diversity` (a shift of the prior;
    Saerens, Latinne & Decaestecker 2002). Of a tag that is as popular as the mean use of one the score stays.

    0 changes nothing; at 1 a tag counts by how much more likely the post makes it than it is anywhere.
    """
    if not diversity:
        return scores_BV
    return torch.sigmoid(torch.logit(scores_BV, eps=1e-7) - diversity * popularity_V)


def top_tags(scores_BV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best tags of each post: indices_BK (int64) and their scores_BK, not increasing.

    Ties go to the lower index, also at the border of the list (`torch.topk` promises neither); the vocabulary is sorted
    by falling train count and name, so that is the more frequent tag. K is the smaller of `k` and V.
    """
    width = min(k, scores_BV.shape[1])
    if width == 0:
        return torch.zeros(len(scores_BV), 0, dtype=torch.int64), scores_BV[:, :0]
    # One pass finds the list of each post and the score that comes after it. Which tags are in the list is then decided, but for
    # posts where those two are equal: of these all tags are looked at again.
    best = scores_BV.topk(min(width + 1, scores_BV.shape[1]), dim=1, sorted=True)
    indices_BK = best.indices[:, :width].sort(dim=1).values
    tied_B = best.values[:, width - 1] == best.values[:, -1] if best.values.shape[1] > width else None
    if tied_B is not None and tied_B.any():
        indices_BK[tied_B] = _with_first_of_ties(scores_BV[tied_B], best.values[tied_B, width - 1 : width], width)
    scores_BK, order_BK = scores_BV.gather(1, indices_BK).sort(dim=1, descending=True, stable=True)
    return indices_BK.gather(1, order_BK), scores_BK


def _with_first_of_ties(scores_BV: Tensor, last_B1: Tensor, width: int) -> Tensor:
    """Rising indices [B, width] of all tags above the last score of each list, and of the first of those that have it."""
    above_BV = scores_BV > last_B1
    level_BV = scores_BV == last_B1
    room_B1 = width - above_BV.sum(dim=1, keepdim=True)
    kept_BV = above_BV | (level_BV & (level_BV.cumsum(dim=1, dtype=torch.int32) <= room_B1))
    return kept_BV.nonzero()[:, 1].reshape(-1, width)
