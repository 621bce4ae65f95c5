"""What the families that write tags one after another share: options, teaching, and search."""

from abc import abstractmethod
from typing import Any, ClassVar, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from hashtag_core.data.batches import END, PostBatch, Targets
from hashtag_core.models.base import InputSpec, ModelOptions, NeuralModel
from hashtag_core.models.decoding import Decoding, Ranking, Step, search, sequence_scores
from hashtag_core.models.objectives import sequence_loss

State = TypeVar("State")


def teach(step: Step[State], state: State, sequence_BL: Tensor, forcing: float = 1.0) -> tuple[Tensor, State]:
    """logits_BLU of every step, and the state after the last.

    A step is shown the true tag before it, or, with the chance `1 - forcing` (drawn anew for each step, the same for all
    posts of the batch), the sign that the model itself found likeliest.
    """
    shown_BL = sequence_BL.clamp(min=END)
    previous_B: Tensor | None = None
    logits: list[Tensor] = []
    for true_B in shown_BL.unbind(1):
        logits_BU, state = step(previous_B, state)
        logits.append(logits_BU)
        is_forced = forcing >= 1 or float(torch.rand(())) < forcing
        previous_B = true_B if is_forced else logits_BU.detach().argmax(-1)
    return torch.stack(logits, dim=1), state


class SequenceOptions(ModelOptions):
    """Options of the families that write tags one after another."""

    decode_steps: int = Field(10, ge=1)
    """Tags that are decoded; all others rank below them."""
    ranking: Ranking = "greedy"
    """`greedy`: in the order of generation; `marginal`: by the chance to be among the tags decoded."""
    decoding: Decoding = "greedy"
    """`greedy`: the likeliest unused tag at each step; `beam`: the best of the lists that `decoding.beam_decode` keeps."""
    beam_width: int = Field(5, ge=1, le=100)
    """Lists that beam search keeps."""


def decode_scores(step: Step[State], state: State, vocabulary_size: int, options: SequenceOptions) -> Tensor:
    """scores_BV in [0, 1] by the search and the ranking of the options (`decoding.beam_decode`, `decoding.sequence_scores`)."""
    width = options.beam_width if options.decoding == "beam" else 1
    return sequence_scores(search(step, state, vocabulary_size, options.decode_steps, width), options.ranking)


class SequenceModel(NeuralModel):
    """A family that writes tags one after another: it gives `start` and `step`, and is taught and searched through them."""

    objective: ClassVar = "sequence"
    forcing: float = 1.0
    """Chance that a step in training is shown the true tag before it, not the model's own."""

    def __init__(self, options: SequenceOptions, spec: InputSpec) -> None:
        super().__init__(options, spec)
        self._search = options

    @abstractmethod
    def start(self, batch: PostBatch) -> Any:
        """What the first step is given of the posts."""

    @abstractmethod
    def step(self, previous_B: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        """One step of the decoder: logits_BU and the next state. `previous_B` is the sign before, None at the start."""

    def loss(self, batch: PostBatch, targets: Targets) -> Tensor:
        forcing = self.forcing if self.training else 1.0
        logits_BLU, _ = teach(self.step, self.start(batch), targets.sequence_BL, forcing)
        return sequence_loss(logits_BLU, targets.sequence_BL)

    def score(self, batch: PostBatch) -> Tensor:
        """What the search finds, as one ranked list."""
        return decode_scores(self.step, self.start(batch), self.spec.vocabulary_size, self._search)


class SignEmbedding(nn.Embedding):
    """Embeddings of the U = V + 1 signs, and one more for the start."""

    def __init__(self, vocabulary_size: int, size: int) -> None:
        super().__init__(vocabulary_size + 2, size)

    def after(self, previous_B: Tensor | None, posts: int) -> Tensor:
        """The sign before each step, embedded: sign_BD."""
        if previous_B is None:
            return self.weight[-1].expand(posts, -1)
        sign_BD: Tensor = self(previous_B)
        return sign_BD
