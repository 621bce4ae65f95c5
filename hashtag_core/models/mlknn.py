"""ML-kNN: how many of a post's neighbours carry a tag, and what that count says of it by Bayes' rule.

Min-Ling Zhang, Zhi-Hua Zhou: ML-kNN: A Lazy Learning Approach to Multi-Label Learning, Pattern Recognition 40(7), 2007.
A baseline of article 003, there on the text.

    P(H_1)       = (s + posts that carry the tag) / (2 s + posts)
    P(E_j | H_b) = (s + c_b[j]) / (s (k + 1) + sum_j c_b[j])
    score        = P(H_1) P(E_C | H_1) / sum_b P(H_b) P(E_C | H_b)

c_1[j] (c_0[j]) counts the train posts with (without) the tag of whose k neighbours, themselves excluded, j carry it; C
is that number for the post at hand.

What differs here: neighbours are by cosine (`post_vectors`). c is counted over at most `counted_posts` train posts,
drawn at random; their neighbours are sought among all. A post of which nothing is known scores P(H_1).

(Articles by number: docs/models.md.)
"""

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hashtag_core.data.batches import PostBatch
from hashtag_core.models.base import FitSource, InputSpec, ModelOptions
from hashtag_core.models.neighbor_voting import TINY_AMNN
from hashtag_core.models.post_memory import PostMemory
from hashtag_core.models.post_vectors import BATCH, VectorModel, VectorOptions
from hashtag_core.models.registry import register


class MlknnOptions(VectorOptions):
    neighbours: int = Field(5, ge=1)
    """k (5 in article 003)."""
    smoothing: float = Field(1.0, gt=0)
    """s."""
    counted_posts: int = Field(50_000, ge=1)


@register
class Mlknn(VectorModel):
    name: ClassVar[str] = "mlknn"
    paper: ClassVar[str] = "Zhang and Zhou 2007 (ML-kNN): Bayes' rule on how many of the k neighbours carry a tag."
    Options: ClassVar[type[ModelOptions]] = MlknnOptions
    examples: ClassVar = {
        "default": {},
        "tfidf": {"features": "tfidf", "min_word_count": 1},
        "amnn": {"features": "amnn", "amnn": TINY_AMNN},
    }

    prior_V: Tensor
    posterior_JV: Tensor

    def __init__(self, options: MlknnOptions, spec: InputSpec) -> None:
        super().__init__(options, spec)
        self.settings = options
        self.memory = PostMemory(self.vectors.size, spec.vocabulary_size, sparse=options.features == "tfidf")
        self.register_buffer("prior_V", torch.zeros(spec.vocabulary_size))
        self.register_buffer("posterior_JV", torch.zeros(options.neighbours + 1, spec.vocabulary_size))
        """Score of each tag that j of the neighbours carry."""

    def fit(self, source: FitSource, *, seed: int) -> dict[str, float]:
        """Keep the train posts, then count over them."""
        memory, smoothing = self.memory, self.settings.smoothing
        self.vectors.fit(source)
        memory.fill(self.rows(source), source.posts)
        counted = np.random.default_rng(seed).permutation(len(memory))[: self.settings.counted_posts]
        with_JV, without_JV = self._counts(np.sort(counted))
        self.prior_V = (smoothing + memory.shares() * len(memory)) / (2 * smoothing + len(memory))
        self.posterior_JV = self._posterior(with_JV, without_JV, smoothing)
        return {"posts_kept": float(len(memory)), "posts_counted": float(len(counted))}

    def _counts(self, posts: np.ndarray) -> tuple[Tensor, Tensor]:
        """c_1 and c_0 over those posts, [k + 1, V]."""
        k = self.settings.neighbours
        counts = np.zeros((2, k + 1, self.spec.vocabulary_size))
        for start in range(0, len(posts), BATCH):
            rows_Q = posts[start : start + BATCH]
            found_QK = self.memory.nearest(self.memory.stored(rows_Q), k + 1)
            dropped_QK = found_QK == rows_Q[:, None]
            dropped_QK[~dropped_QK.any(axis=1), -1] = True  # copies of the post hid it
            votes_QV = self.memory.votes(found_QK[~dropped_QK].reshape(len(rows_Q), k))
            carries_QV = self.memory.votes(rows_Q[:, None]) > 0
            for j in range(k + 1):
                counts[0, j] += ((votes_QV == j) & carries_QV).sum(axis=0)
                counts[1, j] += ((votes_QV == j) & ~carries_QV).sum(axis=0)
        with_JV, without_JV = torch.from_numpy(counts)
        return with_JV, without_JV

    def _posterior(self, with_JV: Tensor, without_JV: Tensor, smoothing: float) -> Tensor:
        joint = [
            prior_V * (smoothing + counts_JV) / (smoothing * len(counts_JV) + counts_JV.sum(0))
            for prior_V, counts_JV in ((self.prior_V, with_JV), (1 - self.prior_V, without_JV))
        ]
        return (joint[0] / (joint[0] + joint[1])).float()

    def score(self, batch: PostBatch) -> Tensor:
        vectors_BD, known_B = self.vectors(batch)
        votes_BV, _ = self.memory.votes_of_nearest(vectors_BD, known_B, self.settings.neighbours)
        return torch.where(known_B[:, None], self.posterior_JV.gather(0, votes_BV), self.prior_V)
