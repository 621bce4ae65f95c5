"""Multi-label classification on ResNet-50: one sigmoid a tag, nothing of the order of tags. Image alone.

The baseline "MLC-ResNet 50" of Qi Yang et al.: AMNN (article 003, https://doi.org/10.1109/TCSS.2020.2986778), after Kaiming
He et al.: Deep Residual Learning for Image Recognition, CVPR 2016. The loss is binary cross-entropy over all tags.

    head_on = "resnet":  p = sigmoid(W v + b), v the encoder's pooled vector
    head_on = "amnn":    p = sigmoid(W X_f + b), X_f AMNN's image encoder (eq. 1-8); the article calls it end-to-end AMNN + multi-label

What differs here: the encoder is frozen (its features are cached), so only the head is taught; the article trains end to
end. A missing image is a learned vector.

(Articles by number: docs/models.md.)
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from hashtag_core.data.batches import PostBatch, Targets
from hashtag_core.models.amnn import AmnnOptions, ImageEncoder
from hashtag_core.models.base import InputSpec, ModelOptions, NeuralModel
from hashtag_core.models.layers import absent_embedding
from hashtag_core.models.long_tail import LongTailOptions, MultiLabelLoss
from hashtag_core.models.objectives import Output
from hashtag_core.models.registry import register

TINY = {"image_dense": 32, "image_hidden": 32, "image_steps": 16, "dropout": 0.0}


class ResnetMultilabelOptions(LongTailOptions):
    reads: ClassVar = frozenset({"image"})

    head_on: Literal["resnet", "amnn"] = "resnet"
    dropout: float = Field(0.5, ge=0, lt=1)
    attention: Literal["literal", "grid"] = "literal"
    """`amnn`: as in family amnn, like the three that follow."""
    image_dense: int = Field(128, ge=1)
    image_hidden: int = Field(256, ge=1)
    image_steps: int = Field(256, ge=1)


class PooledImage(nn.Module):
    """The encoder's pooled vector, or a learned one where there is no image."""

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.out = spec.image_dim
        self.absent_D = absent_embedding(self.out)

    def forward(self, batch: PostBatch) -> Tensor:
        """vector_BD."""
        assert batch.image_vector_BD is not None
        return torch.where(batch.image_present_B[:, None], batch.image_vector_BD, self.absent_D)


@register
class ResnetMultilabel(NeuralModel):
    name: ClassVar[str] = "resnet_multilabel"
    paper: ClassVar[str] = "Baseline of AMNN (2020): ResNet-50, one sigmoid a tag. Image alone."
    objective: ClassVar = "multi_label"
    Options: ClassVar[type[ModelOptions]] = ResnetMultilabelOptions
    examples: ClassVar = {
        "default": TINY,
        "amnn": TINY | {"head_on": "amnn"},
        "amnn_grid": TINY | {"head_on": "amnn", "attention": "grid"},
    }

    def __init__(self, options: ResnetMultilabelOptions, spec: InputSpec) -> None:
        super().__init__(options, spec)
        self.image: PooledImage | ImageEncoder = (
            PooledImage(spec) if options.head_on == "resnet" else ImageEncoder(_amnn(options), spec)
        )
        self.dropout = nn.Dropout(options.dropout)
        self.classify = nn.Linear(self.image.out, spec.vocabulary_size)
        self.judge = MultiLabelLoss(options, spec.vocabulary_size)

    @classmethod
    def needs(cls, options: ModelOptions) -> frozenset[str]:
        assert isinstance(options, ResnetMultilabelOptions)
        on_grid = options.head_on == "amnn" and options.attention == "grid"
        return frozenset({"image_grid" if on_grid else "image_vector"})

    def outputs(self) -> Sequence[tuple[nn.Linear, Output]]:
        return [(self.classify, "each")]

    def logits(self, batch: PostBatch) -> Tensor:
        """logits_BV."""
        logits_BV: Tensor = self.classify(self.dropout(self.image(batch)))
        return logits_BV

    def loss(self, batch: PostBatch, targets: Targets) -> Tensor:
        loss: Tensor = self.judge(self.logits(batch), targets.labels_BV)
        return loss

    def score(self, batch: PostBatch) -> Tensor:
        """The probability of each tag."""
        return torch.sigmoid(self.logits(batch).float())


def _amnn(options: ResnetMultilabelOptions) -> AmnnOptions:
    return AmnnOptions(
        inputs=["image"],
        attention=options.attention,
        dropout=options.dropout,
        image_dense=options.image_dense,
        image_hidden=options.image_hidden,
        image_steps=options.image_steps,
    )
