"""What the user has tagged so far, most used first; popularity for a user of whom nothing is known.

Ours, a floor: a family that reads the history must beat it. Of a user's m posts in the history, n_v carry tag v; with
share_v of the train posts that carry it,

    score(v) = (n_v + a * share_v) / (m + a)

which is popularity where m = 0, and the user's own frequencies where m is much larger than a (`prior_posts`). Reads nothing of
the post.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from hashtag_core.data.batches import PostBatch, make_targets
from hashtag_core.models.base import FitSource, FittedModel, InputSpec, Modality, ModelOptions
from hashtag_core.models.registry import register

PRIORS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1e6)
CHOOSING_POSTS = 10_000
"""Train posts with a history by which the prior is chosen, the first ones."""


class UserFrequencyOptions(ModelOptions):
    reads: ClassVar[frozenset[Modality]] = frozenset({"history"})

    inputs: list[Modality] = ["history"]
    history_posts: int = Field(50, ge=1)
    """Posts of the user that are counted, newest first."""
    prior_posts: float | None = Field(None, gt=0)
    """a: how many posts of the user weigh as much as the popularity of the tags; null: the one of PRIORS under which the
    train posts' tags are the most likely, given their own histories."""


@register
class UserFrequency(FittedModel):
    name: ClassVar[str] = "user_frequency"
    paper: ClassVar[str] = "Ours: the user's tags by frequency, smoothed with their popularity."
    Options = UserFrequencyOptions
    examples: ClassVar[Mapping[str, Mapping[str, Any]]] = {"default": {}, "given": {"prior_posts": 1e3}}

    options: UserFrequencyOptions
    share_V: Tensor
    prior: Tensor

    def __init__(self, options: UserFrequencyOptions, spec: InputSpec) -> None:
        super().__init__(options, spec)
        self.register_buffer("share_V", torch.zeros(spec.vocabulary_size))
        self.register_buffer("prior", torch.tensor(options.prior_posts or 1.0))

    @classmethod
    def needs(cls, options: ModelOptions) -> frozenset[str]:
        return frozenset({"history"})

    def fit(self, source: FitSource, *, seed: int) -> dict[str, float]:
        """Count the tags' train posts (a tag repeated within a post counts once), then choose the prior."""
        counts_V = torch.zeros(source.vocabulary_size, dtype=torch.float64)
        posts = with_history = 0
        for batch, tags in source.batches(256):
            posts += len(batch)
            with_history += int(_history_posts(batch).count_nonzero())
            for row in tags:
                counts_V[list(set(row))] += 1
        self.share_V = (counts_V / max(posts, 1)).float()
        if self.options.prior_posts is None:
            self.prior = self._likeliest_prior(source)
        return {"posts_with_history": with_history / max(posts, 1), "prior_posts": float(self.prior)}

    def _likeliest_prior(self, source: FitSource) -> Tensor:
        losses = torch.zeros(len(PRIORS), dtype=torch.float64)
        posts = 0
        for batch, tags in source.batches(256):
            has_history = _history_posts(batch) > 0
            labels_BV = make_targets(tags, source.vocabulary_size).labels_BV[has_history]
            for number, prior in enumerate(PRIORS):
                score_BV = self._smoothed(batch, torch.tensor(prior))[has_history].clamp(1e-7, 1 - 1e-7)
                losses[number] += torch.nn.functional.binary_cross_entropy(
                    score_BV, labels_BV, reduction="sum"
                ).double()
            posts += int(has_history.sum())
            if posts >= CHOOSING_POSTS:
                break
        return torch.tensor(PRIORS[int(losses.argmin())] if posts else 1.0)

    def score(self, batch: PostBatch) -> Tensor:
        """The smoothed share of the user's posts that carry the tag."""
        return self._smoothed(batch, self.prior)

    def _smoothed(self, batch: PostBatch, prior: Tensor) -> Tensor:
        carried_BV = self.share_V.expand(len(batch), -1) * prior
        if batch.history is not None:
            tags_BHL = batch.history.tags_BHL
            row, post, column = ((tags_BHL >= 0) & batch.history.mask_BH[..., None]).nonzero(as_tuple=True)
            ones = torch.ones_like(row, dtype=carried_BV.dtype)
            carried_BV = carried_BV.index_put((row, tags_BHL[row, post, column]), ones, accumulate=True)
        return carried_BV / (_history_posts(batch).to(carried_BV)[:, None] + prior)


def _history_posts(batch: PostBatch) -> Tensor:
    """int64 [B]: posts in each history."""
    if batch.history is None:
        return torch.zeros(len(batch), dtype=torch.int64, device=batch.image_present_B.device)
    return batch.history.mask_BH.sum(dim=1)
