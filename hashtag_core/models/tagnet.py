"""TAGNet: posts that look alike share hashtags, so each post is read beside the train posts that look like it.

Yu-Chi Chen, Kuan-Ting Lai, Dong Liu, Ming-Syan Chen: TAGNet: Triplet-Attention Graph Networks for Hashtag Recommendation,
IEEE Transactions on Circuits and Systems for Video Technology 2021, https://doi.org/10.1109/TCSVT.2021.3074599, as article
002 and its own abstract describe it. They name a graph of visual similarity, the influence vector of a user from the user's
earlier posts, a triplet attention over image, text and user, and an aggregated graph convolution; the equations are ours:

    v, t = tanh(W LayerNorm(x) + b)                                    x: pooled vector of the image, of the caption
    u    = mean_l e(tag l of the user's earlier posts)                 influence of the user
    M'   = M + softmax(M W_q (M W_k)^T / sqrt(D)) M W_m                M = [v, t, u], a row each: triplet attention
    x_i  = ReLU(W_x [v' ; t' ; u'] + b)                                the node of post i
    a_ij = softmax_j(cos(image i, image j) / tau)                      j: the k train posts that look most like i
    h_i  = ReLU(W_s x_i + W_n sum_j a_ij x_j + b)                      aggregated graph convolution
    y    = sigmoid(W [x_i ; h_i] + b),  binary cross-entropy summed over tags

What differs here: the article's graph holds the posts to be tagged too. Here it holds up to `graph_posts` train posts, kept
with the model, so that a post is scored alike in any company; the search is an exact product on the model's device. A post
is joined to none of the same user: their histories hold the very tags that it is to be given. A missing image (no
neighbour either), caption or history is a learned vector. Of a history the `influence_tags` newest tags count.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from hashtag_core.data.batches import HistoryBatch, PostBatch, Targets
from hashtag_core.models.base import FitSource, InputSpec, ModelOptions, NeuralModel
from hashtag_core.models.layers import absent_embedding, masked_softmax
from hashtag_core.models.long_tail import LongTailOptions, MultiLabelLoss
from hashtag_core.models.objectives import Output
from hashtag_core.models.registry import register

BATCH_POSTS = 256
TINY = {"hidden": 16, "graph_posts": 40, "neighbours": 4, "influence_tags": 6, "dropout": 0.1}


class TagnetOptions(LongTailOptions):
    hidden: int = Field(512, ge=1)
    """D."""
    neighbours: int = Field(10, ge=1)
    """k."""
    temperature: float = Field(0.1, gt=0)
    """tau."""
    graph_posts: int = Field(20_000, ge=1)
    """Train posts in the graph; of more, that many are drawn."""
    history_posts: int = Field(5, ge=1)
    """Earlier posts of the user that are read, at most."""
    influence_tags: int = Field(50, ge=1)
    dropout: float = Field(0.5, ge=0, lt=1)


class VisualGraph(nn.Module):
    """What is kept of N train posts, the first `filled` of them: pooled vectors, tags of their histories, owners."""

    image_NX: Tensor
    text_NX: Tensor
    said_N: Tensor
    tags_NM: Tensor
    owner_N: Tensor
    filled: Tensor

    def __init__(self, posts: int, image_dim: int, text_dim: int, tags: int) -> None:
        super().__init__()
        self.register_buffer("image_NX", torch.zeros(posts, image_dim, dtype=torch.float16))
        self.register_buffer("text_NX", torch.zeros(posts, text_dim, dtype=torch.float16))
        self.register_buffer("said_N", torch.zeros(posts, dtype=torch.bool))
        self.register_buffer("tags_NM", torch.full((posts, tags), -1, dtype=torch.int32))
        self.register_buffer("owner_N", torch.zeros(posts, dtype=torch.int64))
        self.register_buffer("filled", torch.tensor(0))

    def fill(self, source: FitSource, *, seed: int) -> None:
        """Keep the posts that have an image; where there are more than N, a sample of them. Two passes."""
        seen = [batch.image_present_B.numpy() for batch, _ in source.batches(BATCH_POSTS)]
        rows = np.flatnonzero(np.concatenate([np.zeros(0, bool), *seen]))
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[: len(self.owner_N)])
        start = kept = 0
        for batch, _ in source.batches(BATCH_POSTS):
            here = rows[(rows >= start) & (rows < start + len(batch))] - start
            position = slice(kept, kept + len(here))
            self.image_NX[position] = _given(batch.image_vector_BD)[here].half()
            if batch.text_vector_BD is not None:
                self.text_NX[position] = batch.text_vector_BD[here].half()
            self.said_N[position] = batch.text_present_B[here]
            self.tags_NM[position] = newest_tags(batch.history, len(batch), self.tags_NM.shape[1])[here].int()
            self.owner_N[position] = owners(batch)[here]
            start, kept = start + len(batch), kept + len(here)
        self.filled.fill_(kept)

    def nearest(self, batch: PostBatch, k: int) -> tuple[Tensor, Tensor]:
        """Rows of the k posts of other owners that look most like each post, and their cosines; -inf is no post."""
        device = self.owner_N.device
        with torch.autocast(device.type, enabled=False):
            images_NX = nn.functional.normalize(self.image_NX.float(), dim=1)
            cosine_BN = nn.functional.normalize(_given(batch.image_vector_BD).float(), dim=1) @ images_NX.t()
        joined_BN = owners(batch).to(device)[:, None] != self.owner_N
        joined_BN &= torch.arange(len(self.owner_N), device=device) < self.filled
        joined_BN &= batch.image_present_B[:, None]
        best = cosine_BN.masked_fill(~joined_BN, -math.inf).topk(min(k, len(self.owner_N)), dim=1)
        return best.indices, best.values


@register
class Tagnet(NeuralModel):
    name: ClassVar[str] = "tagnet"
    paper: ClassVar[str] = (
        "Chen et al. 2021 (TAGNet): triplet attention over image, text and user, on a graph of posts that look alike."
    )
    objective: ClassVar = "multi_label"
    Options: ClassVar[type[ModelOptions]] = TagnetOptions
    examples: ClassVar = {
        "default": TINY,
        "image": TINY | {"inputs": ["image", "history"]},
        "caption": TINY | {"inputs": ["caption", "history"]},
        "content": TINY | {"inputs": ["image", "caption"]},
    }

    def __init__(self, options: TagnetOptions, spec: InputSpec) -> None:
        super().__init__(options, spec)
        self.settings = options
        hidden, tags = options.hidden, spec.vocabulary_size
        image_dim = spec.image_dim if "image" in options.inputs else 0
        text_dim = spec.text_dim if "caption" in options.inputs else 0
        reads_history = "history" in options.inputs
        self.graph = VisualGraph(
            options.graph_posts if image_dim else 0, image_dim, text_dim, options.influence_tags if reads_history else 0
        )
        self.see, self.read = _projection(image_dim, hidden), _projection(text_dim, hidden)
        self.influence = nn.Embedding(tags, hidden) if reads_history else None
        self.absent_image_D, self.absent_text_D = absent_embedding(hidden), absent_embedding(hidden)
        self.absent_user_D, self.absent_neighbours_D = absent_embedding(hidden), absent_embedding(hidden)
        self.query, self.key, self.message = (nn.Linear(hidden, hidden, bias=False) for _ in range(3))
        self.node = nn.Linear(3 * hidden, hidden)
        self.own, self.others = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden, bias=False)
        self.dropout = nn.Dropout(options.dropout)
        self.classify = nn.Linear(2 * hidden, tags)
        self.judge = MultiLabelLoss(options, tags)

    @classmethod
    def needs(cls, options: ModelOptions) -> frozenset[str]:
        fields = {"image": "image_vector", "caption": "text_vector", "history": "history"}
        return frozenset(fields[modality] for modality in options.inputs)

    def outputs(self) -> Sequence[tuple[nn.Linear, Output]]:
        return [(self.classify, "each")]

    def prepare(self, source: FitSource, *, seed: int) -> None:
        """Draw the posts of the graph."""
        if len(self.graph.owner_N):
            self.graph.fill(source, seed=seed)

    def nodes(
        self, image_MX: Tensor | None, seen_M: Tensor, text_MX: Tensor | None, said_M: Tensor, tags_MT: Tensor
    ) -> Tensor:
        """x_MD of M posts."""
        visual_MD = self.absent_image_D.expand(len(seen_M), -1)
        if self.see is not None:
            visual_MD = torch.where(seen_M[:, None], self.see(_given(image_MX)), visual_MD)
        textual_MD = self.absent_text_D.expand(len(said_M), -1)
        if self.read is not None:
            textual_MD = torch.where(said_M[:, None], self.read(_given(text_MX)), textual_MD)
        user_MD = self.absent_user_D.expand(len(tags_MT), -1)
        if self.influence is not None:
            known_MT = tags_MT >= 0
            share_MT = known_MT / known_MT.sum(1, keepdim=True).clamp(min=1)
            mean_MD = nn.functional.embedding_bag(
                tags_MT.clamp(min=0), self.influence.weight, mode="sum", per_sample_weights=share_MT
            )
            user_MD = torch.where(known_MT.any(1, keepdim=True), mean_MD, user_MD)
        triplet_M3D = torch.stack([visual_MD, textual_MD, user_MD], dim=1)
        x_MD: Tensor = torch.relu(self.node(self.attend(triplet_M3D).flatten(1)))
        return x_MD

    def attend(self, triplet_M3D: Tensor) -> Tensor:
        """M' of M."""
        scores_M33 = self.query(triplet_M3D) @ self.key(triplet_M3D).transpose(1, 2) / math.sqrt(triplet_M3D.shape[2])
        mixed_M3D: Tensor = triplet_M3D + torch.softmax(scores_M33.float(), dim=-1) @ self.message(triplet_M3D)
        return mixed_M3D

    def neighbourhood(self, batch: PostBatch) -> Tensor:
        """sum_j a_ij x_j as BD, a learned vector for a post that looks like none."""
        nothing_BD = self.absent_neighbours_D.expand(len(batch), -1)
        graph = self.graph
        if not len(graph.owner_N):
            return nothing_BD
        rows_BK, cosine_BK = graph.nearest(batch, self.settings.neighbours)
        joined_BK = cosine_BK > -math.inf
        rows_M = rows_BK.flatten()
        x_MD = self.nodes(
            graph.image_NX[rows_M].float(),
            torch.ones_like(rows_M, dtype=torch.bool),
            graph.text_NX[rows_M].float(),
            graph.said_N[rows_M],
            graph.tags_NM[rows_M].long(),
        )
        share_BK = masked_softmax(cosine_BK / self.settings.temperature, joined_BK)
        sum_BD = (share_BK[..., None] * x_MD.view(*rows_BK.shape, -1)).sum(1)
        return torch.where(joined_BK.any(1, keepdim=True), sum_BD, nothing_BD)

    def logits(self, batch: PostBatch) -> Tensor:
        """logits_BV."""
        tags_BT = newest_tags(batch.history, len(batch), self.settings.influence_tags).to(self.absent_user_D.device)
        x_BD = self.nodes(
            batch.image_vector_BD, batch.image_present_B, batch.text_vector_BD, batch.text_present_B, tags_BT
        )
        h_BD = torch.relu(self.own(x_BD) + self.others(self.neighbourhood(batch)))
        logits_BV: Tensor = self.classify(self.dropout(torch.cat([x_BD, h_BD], dim=1)))
        return logits_BV

    def loss(self, batch: PostBatch, targets: Targets) -> Tensor:
        loss: Tensor = self.judge(self.logits(batch), targets.labels_BV)
        return loss

    def score(self, batch: PostBatch) -> Tensor:
        """Probability of each tag."""
        return torch.sigmoid(self.logits(batch).float())


def newest_tags(history: HistoryBatch | None, posts: int, most: int) -> Tensor:
    """tags_BT, T = `most`: the known tags of each history, of the newest post first, filled with -1."""
    if history is None:
        return torch.full((posts, most), -1)
    tags_BN = history.tags_BHL.masked_fill(~history.mask_BH[..., None], -1).flatten(1)
    first_BN = (tags_BN < 0).int().argsort(dim=1, stable=True)
    found_BN = tags_BN.gather(1, first_BN)[:, :most]
    return nn.functional.pad(found_BN, (0, most - found_BN.shape[1]), value=-1)


def owners(batch: PostBatch) -> Tensor:
    """int64 of B: whom each post belongs to, its user or, where there is none, itself; two are alike by chance once in 2^64."""
    names = [
        f"user {user}" if user else f"post {post}" for user, post in zip(batch.user_ids, batch.post_ids, strict=True)
    ]
    return torch.tensor(_hashes(names), dtype=torch.int64)


def _hashes(names: Sequence[str]) -> list[int]:
    return [
        int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big", signed=True) for name in names
    ]


def _projection(size: int, hidden: int) -> nn.Sequential | None:
    return nn.Sequential(nn.LayerNorm(size), nn.Linear(size, hidden), nn.Tanh()) if size else None


def _given(value: Tensor | None) -> Tensor:
    assert value is not None
    return value
