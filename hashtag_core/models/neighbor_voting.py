"""Neighbour voting: each of a picture's visual neighbours votes for its tags, and a tag's share of all votes is taken off.

Xirong Li, Cees G. M. Snoek, Marcel Worring: Learning Social Tag Relevance by Neighbor Voting, IEEE Transactions on
Multimedia 11(7), 2009. A baseline of article 003, there on image features of AMNN.

    relevance(w, I, k) = votes of the k nearest neighbours of I for w  -  Prior(w, k)
    Prior(w, k)        = k |L_w| / |L|,  L the train posts, L_w those that carry w

What differs here: neighbours are by cosine (`post_vectors`), of which a user may give several. The score is
(relevance / k + 1) / 2. With fewer than k neighbours those count; a post without any (no image) takes the prior itself.

(Articles by number: docs/models.md.)
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from hashtag_core.data.batches import PostBatch
from hashtag_core.models.base import FitSource, InputSpec, ModelOptions
from hashtag_core.models.post_memory import PostMemory
from hashtag_core.models.post_vectors import VectorModel, VectorOptions
from hashtag_core.models.registry import register

TINY_AMNN = {
    "attention": "grid",
    "image_dense": 8,
    "image_hidden": 16,
    "min_word_count": 1,
    "embedding": 8,
    "text_hidden": 8,
    "text_dense": 16,
}


class NeighborVotingOptions(VectorOptions):
    neighbours: int = Field(500, ge=1)
    """k."""


@register
class NeighborVoting(VectorModel):
    name: ClassVar[str] = "neighbor_voting"
    paper: ClassVar[str] = "Li et al. 2009: votes of the k nearest neighbours for their tags, less each tag's prior."
    Options: ClassVar[type[ModelOptions]] = NeighborVotingOptions
    examples: ClassVar = {
        "default": {"neighbours": 5},
        "image": {"neighbours": 5, "inputs": ["image"]},
        "tfidf": {"neighbours": 5, "features": "tfidf", "min_word_count": 1},
        "amnn": {"neighbours": 5, "features": "amnn", "amnn": TINY_AMNN},
    }

    prior_V: Tensor

    def __init__(self, options: NeighborVotingOptions, spec: InputSpec) -> None:
        super().__init__(options, spec)
        self.neighbours = options.neighbours
        self.memory = PostMemory(self.vectors.size, spec.vocabulary_size, sparse=options.features == "tfidf")
        self.register_buffer("prior_V", torch.zeros(spec.vocabulary_size))

    def fit(self, source: FitSource, *, seed: int) -> dict[str, float]:
        """Keep the train posts."""
        self.vectors.fit(source)
        self.memory.fill(self.rows(source), source.posts)
        self.prior_V = self.memory.shares()
        return {"posts_kept": float(len(self.memory))}

    def score(self, batch: PostBatch) -> Tensor:
        vectors_BD, known_B = self.vectors(batch)
        votes_BV, voters_B = self.memory.votes_of_nearest(vectors_BD, known_B, self.neighbours)
        share_BV = votes_BV / voters_B.clamp(min=1)[:, None]
        relevance_BV = torch.where(voters_B[:, None] > 0, share_BV - self.prior_V, self.prior_V)
        return (relevance_BV + 1) / 2
