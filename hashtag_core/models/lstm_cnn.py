"""LSTM-CNN concatenation: one vector of the caption, one of the image, side by side.

A baseline of articles 000 and 001 (https://doi.org/10.1186/s40537-023-00824-2): the LSTM's and VGG's vectors are projected
to the same dimension and concatenated for hashtag prediction.

    p = sigmoid(W [W_t h_T ; W_v v] + b)

What differs here: the article gives no size; all sizes are ours. The LSTM's vector is its output after the last word. A
missing caption or image is a learned vector. The loss is article 001's, binary cross-entropy summed over the tags.
`text_input = "encoder"` reads the frozen text encoder's token vectors in place of words of its own (ours).

(Articles by number: docs/models.md.)
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from hashtag_core.data.batches import PostBatch, Targets
from hashtag_core.data.tokens import TokenizerSpec
from hashtag_core.models.base import InputSpec, ModelOptions, NeuralModel
from hashtag_core.models.layers import CaptionLSTM, CaptionOptions, ImageVector
from hashtag_core.models.long_tail import LongTailOptions, MultiLabelLoss
from hashtag_core.models.objectives import Output
from hashtag_core.models.registry import register

TINY = {"embedding": 16, "hidden": 16, "projection": 16, "dropout": 0.1}


class LstmCnnOptions(CaptionOptions, LongTailOptions):
    reads: ClassVar = frozenset({"image", "caption"})

    embedding: int = Field(300, ge=1)
    hidden: int = Field(512, ge=1)
    projection: int = Field(512, ge=1)
    dropout: float = Field(0.5, ge=0, lt=1)


@register
class LstmCnn(NeuralModel):
    name: ClassVar[str] = "lstm_cnn"
    paper: ClassVar[str] = (
        "Baseline of LXMERT4Hashtag (2023): LSTM and VGG vectors projected to one size, concatenated; sigmoid."
    )
    objective: ClassVar = "multi_label"
    Options: ClassVar[type[ModelOptions]] = LstmCnnOptions
    examples: ClassVar = {
        "default": TINY,
        "image": TINY | {"inputs": ["image"]},
        "caption": TINY | {"inputs": ["caption"]},
        "encoder": TINY | {"text_input": "encoder"},
    }

    def __init__(self, options: LstmCnnOptions, spec: InputSpec) -> None:
        super().__init__(options, spec)
        own = options.embedding if options.text_input == "words" else None
        self.caption = CaptionLSTM(spec, own, options.hidden, "caption" in options.inputs)
        self.project = nn.Linear(options.hidden, options.projection)
        self.image = ImageVector(spec, options.projection, "image" in options.inputs)
        self.dropout = nn.Dropout(options.dropout)
        self.classify = nn.Linear(2 * options.projection, spec.vocabulary_size)
        self.judge = MultiLabelLoss(options, spec.vocabulary_size)

    @classmethod
    def needs(cls, options: ModelOptions) -> frozenset[str]:
        assert isinstance(options, LstmCnnOptions)
        return frozenset(options.caption_needs() | ({"image_vector"} if "image" in options.inputs else set()))

    @classmethod
    def tokenizer(cls, options: ModelOptions) -> TokenizerSpec | None:
        assert isinstance(options, LstmCnnOptions)
        return options.words()

    def outputs(self) -> Sequence[tuple[nn.Linear, Output]]:
        return [(self.classify, "each")]

    def logits(self, batch: PostBatch) -> Tensor:
        """logits_BV."""
        text_BD = self.project(self.caption(batch).last_BD)
        logits_BV: Tensor = self.classify(self.dropout(torch.cat([text_BD, self.image(batch)], dim=1)))
        return logits_BV

    def loss(self, batch: PostBatch, targets: Targets) -> Tensor:
        loss: Tensor = self.judge(self.logits(batch), targets.labels_BV)
        return loss

    def score(self, batch: PostBatch) -> Tensor:
        """The probability of each tag."""
        return torch.sigmoid(self.logits(batch).float())
