"""Co-attention network (CoA): the caption finds the regions that matter, these find the words that matter.

Qi Zhang, Jiawen Wang, Haoran Huang, Xuanjing Huang, Yeyun Gong: Hashtag Recommendation for Multimodal Microblog Using
Co-Attention Network, IJCAI 2017, https://doi.org/10.24963/ijcai.2017/478. A baseline of articles 000-003.

    v_i  = tanh(W_I r_i + b_I)                                 a region
    h_j  = LSTM(x_1 .. x_j)                                    a word
    p_I  = softmax(w_I tanh(W_vI v_i (+) W_vT mean_j h_j))     text-guided visual attention, v~_I = sum_i p_I,i v_i
    p_T  = softmax(w_T tanh(W_uI v~_I (+) W_uT h_j))           image-guided textual attention, v~_T = sum_j p_T,j h_j
    p    = softmax(W dropout(v~_I + v~_T) + b),  J = - sum_y log p_y

What differs here: `(+)` is a sum (`joining = "sum"`, default). Read as a concatenation, which is an option, the guide
adds the same number to the score of every region and the softmax cancels it: each attention is then blind to the other
modality. A missing image or caption is a learned vector. `loss = "bce"` judges each tag alone.
`text_input = "encoder"` reads the frozen text encoder's token vectors as x_j (ours).

(Articles by number: docs/models.md.)
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from hashtag_core.data.batches import PostBatch, Targets
from hashtag_core.data.tokens import TokenizerSpec
from hashtag_core.models.base import InputSpec, ModelOptions, NeuralModel
from hashtag_core.models.layers import CaptionLSTM, CaptionOptions, CaptionStates, absent_embedding, masked_softmax
from hashtag_core.models.long_tail import LongTailOptions, MultiLabelLoss
from hashtag_core.models.objectives import Output, softmax_loss
from hashtag_core.models.registry import register

TINY = {"embedding": 16, "hidden": 16, "attention_units": 8, "dropout": 0.1}


class CoAttentionOptions(CaptionOptions, LongTailOptions):
    reads: ClassVar = frozenset({"image", "caption"})

    embedding: int = Field(200, ge=1)
    hidden: int = Field(200, ge=1)
    """Of the LSTM and of a region."""
    attention_units: int = Field(100, ge=1)
    dropout: float = Field(0.5, ge=0, lt=1)
    joining: Literal["sum", "concatenate"] = "sum"
    loss: Literal["softmax", "bce"] = "softmax"


class GuidedAttention(nn.Module):
    """softmax(w tanh(W_x x_i (+) W_g g)) over the items, and the sum of the items so weighted.

    A bias on the scores would be cancelled by the softmax.
    """

    def __init__(self, size: int, attention_units: int, joining: Literal["sum", "concatenate"]) -> None:
        super().__init__()
        self.items = nn.Linear(size, attention_units, bias=False)
        self.guide = nn.Linear(size, attention_units, bias=False)
        self.joining = joining
        self.score = nn.Linear(attention_units * (2 if joining == "concatenate" else 1), 1, bias=False)

    def forward(self, items_BND: Tensor, guide_BD: Tensor, mask_BN: Tensor) -> tuple[Tensor, Tensor]:
        """attended_BD and weights_BN."""
        items_BNA, guide_B1A = self.items(items_BND), self.guide(guide_BD)[:, None]
        if self.joining == "sum":
            joined_BNA = items_BNA + guide_B1A
        else:
            joined_BNA = torch.cat([items_BNA, guide_B1A.expand_as(items_BNA)], dim=-1)
        weights_BN = masked_softmax(self.score(torch.tanh(joined_BNA)).squeeze(-1), mask_BN)
        return (weights_BN[..., None] * items_BND).sum(1), weights_BN


@register
class CoAttention(NeuralModel):
    name: ClassVar[str] = "co_attention"
    paper: ClassVar[str] = (
        "Zhang et al. 2017 (CoA): text-guided visual, then image-guided textual attention; one softmax."
    )
    objective: ClassVar = "softmax"
    Options: ClassVar[type[ModelOptions]] = CoAttentionOptions
    examples: ClassVar = {
        "default": TINY,
        "concatenate": TINY | {"joining": "concatenate", "loss": "bce"},
        "image": TINY | {"inputs": ["image"]},
        "caption": TINY | {"inputs": ["caption"]},
        "encoder": TINY | {"text_input": "encoder"},
    }

    def __init__(self, options: CoAttentionOptions, spec: InputSpec) -> None:
        super().__init__(options, spec)
        self._bce = options.loss == "bce"
        sees, reads = "image" in options.inputs, "caption" in options.inputs
        size, units = options.hidden, options.attention_units
        own = options.embedding if options.text_input == "words" else None
        self.caption = CaptionLSTM(spec, own, size, reads)
        self.regions = nn.Linear(spec.image_dim, size) if sees else None
        self.absent_region_D = absent_embedding(size)
        self.visual = GuidedAttention(size, units, options.joining) if sees else None
        self.textual = GuidedAttention(size, units, options.joining) if reads else None
        self.dropout = nn.Dropout(options.dropout)
        self.classify = nn.Linear(options.hidden, spec.vocabulary_size)
        self.judge = MultiLabelLoss(options, spec.vocabulary_size)

    @classmethod
    def needs(cls, options: ModelOptions) -> frozenset[str]:
        assert isinstance(options, CoAttentionOptions)
        return frozenset(options.caption_needs() | ({"image_grid"} if "image" in options.inputs else set()))

    @classmethod
    def tokenizer(cls, options: ModelOptions) -> TokenizerSpec | None:
        assert isinstance(options, CoAttentionOptions)
        return options.words()

    def outputs(self) -> Sequence[tuple[nn.Linear, Output]]:
        return [(self.classify, "each" if self._bce else "one")]

    def logits(self, batch: PostBatch) -> Tensor:
        """logits_BV."""
        text, mean_BD = self._read(batch)
        text_BD, image_BD = mean_BD, self.absent_region_D.expand_as(mean_BD)
        if self.visual is not None:
            seen_BD, _ = self._look(batch, mean_BD)
            image_BD = torch.where(batch.image_present_B[:, None], seen_BD, image_BD)
        if self.textual is not None:
            text_BD, _ = self.textual(text.states_BTD, image_BD, text.mask_BT)
        logits_BV: Tensor = self.classify(self.dropout(image_BD + text_BD))
        return logits_BV

    def _read(self, batch: PostBatch) -> tuple[CaptionStates, Tensor]:
        """The caption's states, and their mean, mean_BD."""
        text = self.caption(batch)
        share_BT1 = (text.mask_BT / text.mask_BT.sum(1, keepdim=True))[..., None]
        return text, (share_BT1 * text.states_BTD).sum(1)

    def _look(self, batch: PostBatch, guide_BD: Tensor) -> tuple[Tensor, Tensor]:
        """seen_BD and weights_BR."""
        assert self.regions is not None
        assert self.visual is not None
        assert batch.image_grid_BRD is not None
        regions_BRD = torch.tanh(self.regions(batch.image_grid_BRD))
        every_BR = torch.ones_like(regions_BRD[..., 0], dtype=torch.bool)
        seen: tuple[Tensor, Tensor] = self.visual(regions_BRD, guide_BD, every_BR)
        return seen

    def looks_at(self, batch: PostBatch) -> Tensor | None:
        """The text-guided attention."""
        return None if self.visual is None else self._look(batch, self._read(batch)[1])[1]

    def loss(self, batch: PostBatch, targets: Targets) -> Tensor:
        objective = self.judge if self._bce else softmax_loss
        loss: Tensor = objective(self.logits(batch), targets.labels_BV)
        return loss

    def score(self, batch: PostBatch) -> Tensor:
        """Share of the softmax, or with `bce` the probability of each tag."""
        logits_BV = self.logits(batch).float()
        return torch.sigmoid(logits_BV) if self._bce else torch.softmax(logits_BV, dim=-1)
