"""The same list for every post: tags by the number of train posts that carry them.

Ours, the floor of floors. Reads nothing of the post.
"""

from typing import ClassVar

import torch
from torch import Tensor

from hashtag_core.data.batches import PostBatch
from hashtag_core.models.base import FitSource, FittedModel, InputSpec, ModelOptions
from hashtag_core.models.registry import register


@register
class Popularity(FittedModel):
    name: ClassVar[str] = "popularity"
    paper: ClassVar[str] = "Ours: tags by train frequency, the same for every post."

    share_V: Tensor

    def __init__(self, options: ModelOptions, spec: InputSpec) -> None:
        super().__init__(options, spec)
        self.register_buffer("share_V", torch.zeros(spec.vocabulary_size))

    def fit(self, source: FitSource, *, seed: int) -> dict[str, float]:
        """Count; a tag repeated within a post counts once."""
        counts_V = torch.zeros(source.vocabulary_size, dtype=torch.float64)
        posts = 0
        for batch, tags in source.batches(4096):
            posts += len(batch)
            for row in tags:
                counts_V[list(set(row))] += 1
        self.share_V = (counts_V / max(posts, 1)).float()
        return {"tags_per_post": float(counts_V.sum()) / max(posts, 1)}

    def score(self, batch: PostBatch) -> Tensor:
        """The share of train posts that carry the tag."""
        return self.share_V.expand(len(batch), -1)
