"""Show, attend and tell, taught to write hashtags: each tag looks at the image anew. Image alone.

Kelvin Xu, Jimmy Ba, Ryan Kiros, Kyunghyun Cho, Aaron Courville, Ruslan Salakhutdinov, Richard Zemel, Yoshua Bengio: Show,
Attend and Tell: Neural Image Caption Generation with Visual Attention, ICML 2015, https://arxiv.org/abs/1502.03044. A
baseline of article 003. The soft (deterministic) attention:

    h_t, c_t from LSTM(E y_{t-1}, h_{t-1}, z_t)                             (1)-(3)
    e_ti  = f_att(a_i, h_{t-1}) = w tanh(W_a a_i + W_h h_{t-1})            (4)
    alpha = softmax(e_t)                                                   (5)
    z_t   = beta_t sum_i alpha_ti a_i,   beta_t = sigmoid(f_beta(h_{t-1})) (13) and section 4.2.1
    p(y_t) ~ exp(L_o (E y_{t-1} + L_h h_t + L_z z_t))                      (7)
    L_d   = - log p(y | a) + lambda sum_i (1 - sum_t alpha_ti)^2           (14)
    c_0 = tanh(f_init,c(mean a)),  h_0 = tanh(f_init,h(mean a))

What differs here: y are hashtags, none twice, searched greedily unless `decoding = "beam"`; the annotations a_i are the
frozen encoder's regions, and one learned vector all over where there is no image. The paper names no sizes: these are those of
the implementation that article 003 ran, lambda the paper's.

(Articles by number: docs/models.md.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from hashtag_core.data.batches import PADDING, PostBatch, Targets
from hashtag_core.models.base import InputSpec, ModelOptions
from hashtag_core.models.decoding import greedy_decode
from hashtag_core.models.layers import absent_embedding, initialise_glorot
from hashtag_core.models.objectives import Output, sequence_loss
from hashtag_core.models.registry import register
from hashtag_core.models.sequence import SequenceModel, SequenceOptions, SignEmbedding, teach

TINY = {"embedding": 16, "hidden": 24, "attention_units": 16, "decode_steps": 5, "dropout": 0.1, "coverage": 0.01}


LOOKS = 5
"""Steps of the decoder whose looks are told."""


class ShowAttendTellOptions(SequenceOptions):
    reads: ClassVar = frozenset({"image"})

    embedding: int = Field(512, ge=1)
    hidden: int = Field(512, ge=1)
    attention_units: int = Field(512, ge=1)
    dropout: float = Field(0.5, ge=0, lt=1)
    coverage: float = Field(1.0, ge=0)
    """lambda of (14): every region is to be looked at about once."""


@dataclass(frozen=True)
class Gaze:
    """State between steps."""

    regions_BRD: Tensor
    keys_BRA: Tensor
    """W_a a_i, the same at every step."""
    hidden_BH: Tensor
    cell_BH: Tensor
    alphas: tuple[Tensor, ...] = ()
    """alpha_BR of the steps so far."""


@register
class ShowAttendTell(SequenceModel):
    name: ClassVar[str] = "show_attend_tell"
    paper: ClassVar[str] = "Xu et al. 2015: an LSTM writes tags, soft attention over the regions at each. Image alone."
    Options: ClassVar[type[ModelOptions]] = ShowAttendTellOptions
    examples: ClassVar = {
        "default": TINY,
        "beam": TINY | {"decoding": "beam", "beam_width": 3, "ranking": "marginal"},
    }

    def __init__(self, options: ShowAttendTellOptions, spec: InputSpec) -> None:
        super().__init__(options, spec)
        self._coverage = options.coverage
        embedded, hidden, attention = options.embedding, options.hidden, options.attention_units
        size = spec.image_dim
        self.absent_D = absent_embedding(size)
        self.initial_hidden, self.initial_cell = nn.Linear(size, hidden), nn.Linear(size, hidden)
        self.region_key = nn.Linear(size, attention, bias=False)
        self.hidden_key = nn.Linear(hidden, attention)
        self.look = nn.Linear(attention, 1, bias=False)
        self.gate = nn.Linear(hidden, 1)
        self.signs = SignEmbedding(spec.vocabulary_size, embedded)
        self.lstm = nn.LSTMCell(embedded + size, hidden)
        self.from_hidden, self.from_context = nn.Linear(hidden, embedded), nn.Linear(size, embedded, bias=False)
        self.write = nn.Linear(embedded, spec.vocabulary_size + 1)
        self.dropout = nn.Dropout(options.dropout)
        self.apply(initialise_glorot)

    @classmethod
    def needs(cls, options: ModelOptions) -> frozenset[str]:
        return frozenset({"image_grid"})

    def outputs(self) -> Sequence[tuple[nn.Linear, Output]]:
        return [(self.write, "next")]

    def start(self, batch: PostBatch) -> Gaze:
        """h_0 and c_0."""
        assert batch.image_grid_BRD is not None
        regions_BRD = torch.where(batch.image_present_B[:, None, None], batch.image_grid_BRD, self.absent_D)
        mean_BD = regions_BRD.mean(1)
        hidden_BH, cell_BH = torch.tanh(self.initial_hidden(mean_BD)), torch.tanh(self.initial_cell(mean_BD))
        return Gaze(regions_BRD, self.region_key(regions_BRD), hidden_BH, cell_BH)

    def attend(self, gaze: Gaze) -> tuple[Tensor, Tensor]:
        """z_BD and alpha_BR, (4), (5) and (13)."""
        scores_BR = self.look(torch.tanh(gaze.keys_BRA + self.hidden_key(gaze.hidden_BH)[:, None])).squeeze(-1)
        alpha_BR = torch.softmax(scores_BR.float(), dim=-1)
        context_BD = (alpha_BR[..., None] * gaze.regions_BRD).sum(1)
        return torch.sigmoid(self.gate(gaze.hidden_BH)) * context_BD, alpha_BR

    def step(self, previous_B: Tensor | None, state: Gaze) -> tuple[Tensor, Gaze]:
        """One tag: look, move, write (7)."""
        context_BD, alpha_BR = self.attend(state)
        sign_BE = self.signs.after(previous_B, len(context_BD))
        hidden_BH, cell_BH = self.lstm(torch.cat([sign_BE, context_BD], dim=1), (state.hidden_BH, state.cell_BH))
        written_BE = sign_BE + self.from_hidden(self.dropout(hidden_BH)) + self.from_context(context_BD)
        logits_BU = self.write(self.dropout(written_BE))
        return logits_BU, Gaze(state.regions_BRD, state.keys_BRA, hidden_BH, cell_BH, (*state.alphas, alpha_BR))

    def looks_at(self, batch: PostBatch) -> Tensor | None:
        """The mean of alpha_BR over the first steps of greedy search."""
        after: list[Gaze] = []

        def watched(previous_B: Tensor | None, gaze: Gaze) -> tuple[Tensor, Gaze]:
            logits_BU, moved = self.step(previous_B, gaze)
            after[:] = [moved]
            return logits_BU, moved

        greedy_decode(watched, self.start(batch), self.spec.vocabulary_size, LOOKS)
        return torch.stack(after[0].alphas).mean(0)

    def loss(self, batch: PostBatch, targets: Targets) -> Tensor:
        """(14), the mean over the posts; steps after the end are not looked at."""
        logits_BLU, gaze = teach(self.step, self.start(batch), targets.sequence_BL)
        real_BL1 = (targets.sequence_BL != PADDING)[..., None]
        looked_BR = (torch.stack(gaze.alphas, dim=1) * real_BL1).sum(1)
        coverage = ((1 - looked_BR) ** 2).sum(1).mean()
        return sequence_loss(logits_BLU, targets.sequence_BL) + self._coverage * coverage
