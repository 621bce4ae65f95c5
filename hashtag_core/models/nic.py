"""Neural image caption (NIC, Show and Tell), taught to write hashtags: the image is the LSTM's first word. Image alone.

Oriol Vinyals, Alexander Toshev, Samy Bengio, Dumitru Erhan: Show and Tell: A Neural Image Caption Generator, CVPR 2015,
https://arxiv.org/abs/1411.4555. A baseline of article 003.

    x_-1    = CNN(I)                      (10)  through one linear layer
    x_t     = W_e S_t                     (11)
    p_{t+1} = softmax(LSTM(x_t))          (12), LSTM as (4)-(9)
    L       = - sum_t log p_t(S_t)        (13)

What differs here: S_t are hashtags, S_0 a start sign; a list has no tag twice, and is searched greedily unless
`decoding = "beam"` asks for the paper's beam (of 20); one model, no ensemble. The network is frozen, its
vector cached; article 003 trains end to end. A missing image is a learned vector.

(Articles by number: docs/models.md.)
"""

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from hashtag_core.data.batches import PostBatch
from hashtag_core.models.base import InputSpec, ModelOptions
from hashtag_core.models.layers import ImageVector, initialise_glorot
from hashtag_core.models.objectives import Output
from hashtag_core.models.registry import register
from hashtag_core.models.sequence import SequenceModel, SequenceOptions, SignEmbedding

TINY = {"hidden": 24, "decode_steps": 5, "dropout": 0.1}


class NicOptions(SequenceOptions):
    reads: ClassVar = frozenset({"image"})

    hidden: int = Field(512, ge=1)
    """Of the LSTM, of the embedded tags and of the projected image."""
    dropout: float = Field(0.3, ge=0, lt=1)


@register
class Nic(SequenceModel):
    name: ClassVar[str] = "nic"
    paper: ClassVar[str] = (
        "Vinyals et al. 2015 (Show and Tell): the image starts an LSTM that writes tags. Image alone."
    )
    Options: ClassVar[type[ModelOptions]] = NicOptions
    examples: ClassVar = {
        "default": TINY,
        "marginal": TINY | {"ranking": "marginal"},
        "beam": TINY | {"decoding": "beam", "beam_width": 3},
    }

    def __init__(self, options: NicOptions, spec: InputSpec) -> None:
        super().__init__(options, spec)
        size = options.hidden
        self.image = ImageVector(spec, size)
        self.signs = SignEmbedding(spec.vocabulary_size, size)
        self.lstm = nn.LSTMCell(size, size)
        self.dropout = nn.Dropout(options.dropout)
        self.write = nn.Linear(size, spec.vocabulary_size + 1)
        self.apply(initialise_glorot)

    @classmethod
    def needs(cls, options: ModelOptions) -> frozenset[str]:
        return frozenset({"image_vector"})

    def outputs(self) -> Sequence[tuple[nn.Linear, Output]]:
        return [(self.write, "next")]

    def start(self, batch: PostBatch) -> tuple[Tensor, Tensor]:
        """Hidden state and memory cell after the image (10)."""
        hidden_BD, cell_BD = self.lstm(self.dropout(self.image(batch)))
        return hidden_BD, cell_BD

    def step(self, previous_B: Tensor | None, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(11) and (12)."""
        sign_BD = self.dropout(self.signs.after(previous_B, len(state[0])))
        hidden_BD, cell_BD = self.lstm(sign_BD, state)
        return self.write(self.dropout(hidden_BD)), (hidden_BD, cell_BD)
