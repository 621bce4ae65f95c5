"""A table in memory and a model of one layer, small enough to follow by hand."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from hashtag_core.config import TrainingSection
from hashtag_core.data.batches import FeaturizedPosts, PostBatch, Targets
from hashtag_core.models.base import InputSpec, ModelOptions, NeuralModel
from hashtag_core.training.loader import BatchLoader, Reading
from hashtag_core.training.loop import TrainingLoop

IMAGE_DIM, TEXT_DIM, TAGS = 6, 4, 5
NEEDS = frozenset({"image_vector", "text_vector"})


class MemoryTable:
    """Posts whose tags are a function of their vectors."""

    def __init__(self, posts: int, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.image = random.normal(size=(posts, IMAGE_DIM)).astype(np.float16)
        self.text = random.normal(size=(posts, TEXT_DIM)).astype(np.float16)
        self.tags: Sequence[Sequence[int]] = [
            [int(np.argmax(image[:TAGS])), int(np.argmin(image[:TAGS]))] for image in self.image
        ]
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.image)

    def rows(self, indices: np.ndarray) -> FeaturizedPosts:
        self.read += indices.tolist()
        return FeaturizedPosts(
            post_ids=[f"p{row}" for row in indices],
            user_ids=[None] * len(indices),
            captions=["a caption"] * len(indices),
            image_present=np.ones(len(indices), bool),
            text_present=np.ones(len(indices), bool),
            arrays={"image_vector": self.image[indices], "text_vector": self.text[indices]},
        )


class ToyModel(NeuralModel):
    name = "toy"
    paper = "none"
    objective = "multi_label"

    def __init__(self, dropout: float = 0.0, unused: bool = False) -> None:
        super().__init__(ModelOptions(), InputSpec(TAGS, IMAGE_DIM, TEXT_DIM))
        self.image_absent_D = nn.Parameter(torch.zeros(1, IMAGE_DIM))
        self.hidden = nn.Linear(IMAGE_DIM + TEXT_DIM, 8)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, TAGS)
        self.spare = nn.Linear(1, 1) if unused else None

    def pretrained_parameters(self) -> set[str]:
        return {"hidden.weight", "hidden.bias"}

    def logits(self, batch: PostBatch) -> Tensor:
        image = torch.where(batch.image_present_B[:, None], batch.image_vector_BD, self.image_absent_D)
        hidden = torch.tanh(self.hidden(torch.cat([image, batch.text_vector_BD], 1)))
        return self.head(self.norm(self.dropout(hidden)))

    def loss(self, batch: PostBatch, targets: Targets) -> Tensor:
        logits_BV = self.logits(batch).float()
        return nn.functional.binary_cross_entropy_with_logits(logits_BV, targets.labels_BV, reduction="sum") / len(
            batch
        )

    def score(self, batch: PostBatch) -> Tensor:
        return torch.sigmoid(self.logits(batch))


class Blocks(nn.Module):
    """An encoder of two blocks over the captions' vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(TEXT_DIM, TEXT_DIM), nn.Tanh()) for _ in range(2))

    def forward(self, batch: PostBatch) -> PostBatch:
        vector_BD = batch.text_vector_BD
        for layer in self.layers:
            vector_BD = layer(vector_BD)
        return dataclasses.replace(batch, text_vector_BD=vector_BD)

    def rate_scales(self) -> dict[str, float]:
        return {}

    def levels(self) -> dict[str, int]:
        return {name: 1 - int(name.split(".")[1]) for name, _ in self.named_parameters()}


def settings(**values: object) -> TrainingSection:
    return TrainingSection(**({"epochs": 3, "batch_size": 8, "precision": "float32", "learning_rate": 0.01} | values))


def reading() -> Reading:
    return Reading(TAGS, NEEDS)


def make_loop(section: TrainingSection, table: MemoryTable, model: ToyModel | None = None, **options) -> TrainingLoop:
    torch.manual_seed(section.seed)
    loader = BatchLoader(table, reading(), section)
    quality = lambda model, loop: {"quality": float(loop.progress.epoch)}  # noqa: E731
    return TrainingLoop(
        model or ToyModel(dropout=0.2), section, loader, options.pop("validate", quality), "quality", **options
    )


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
