"""Scores to ranked tags, the same in every run. Shape legend: `hashtag_core.data.batches`; K is the length of the list."""

import torch
from torch import Tensor


def top_tags(scores_BV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best tags of each post: indices_BK (int64) and their scores_BK, not increasing.

    Ties go to the lower index, also at the border of the list (`torch.topk` promises neither); the vocabulary is sorted
    by falling train count and name, so that is the more frequent tag. K is the smaller of `k` and V.
    """
    width = min(k, scores_BV.shape[1])
    if width == 0:
        return torch.zeros(len(scores_BV), 0, dtype=torch.int64), scores_BV[:, :0]
    last_B1 = scores_BV.topk(width, dim=1, sorted=True).values[:, -1:]
    above_BV = scores_BV > last_B1
    level_BV = scores_BV == last_B1
    room_B1 = width - above_BV.sum(dim=1, keepdim=True)
    kept_BV = above_BV | (level_BV & (level_BV.cumsum(dim=1, dtype=torch.int32) <= room_B1))
    indices_BK = kept_BV.nonzero()[:, 1].reshape(-1, width)
    scores_BK, order_BK = scores_BV.gather(1, indices_BK).sort(dim=1, descending=True, stable=True)
    return indices_BK.gather(1, order_BK), scores_BK
