"""Parts that several families share: images and captions as vectors, each with a learned vector where it is absent."""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from hashtag_core.data.batches import PostBatch
from hashtag_core.data.tokens import TokenizerSpec
from hashtag_core.models.base import InputSpec, ModelOptions

ABSENT_DEVIATION = 0.02

EMBEDDING_LIMIT = 0.05

FORGET_GATE = 1
"""Of the four that PyTorch stacks: input, forget, cell, output."""


def absent_embedding(size: int) -> nn.Parameter:
    """What stands for a modality that a post does not have; learned. Its name must hold `absent`: it is not decayed."""
    return nn.Parameter(torch.randn(size) * ABSENT_DEVIATION)


def initialise_glorot(module: nn.Module) -> None:
    """Glorot's uniform weights, for each gate on its own; orthogonal recurrent weights, embeddings within 0.05 of 0, biases 0
    and those of forget gates 1. To be given to `Module.apply`.

    In the main the defaults of Keras. PyTorch's own draw smaller weights, and embeddings of deviation 1.
    """
    if isinstance(module, nn.Embedding):
        nn.init.uniform_(module.weight, -EMBEDDING_LIMIT, EMBEDDING_LIMIT)
        if module.padding_idx is not None:
            module.weight.data[module.padding_idx] = 0.0
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LSTM | nn.LSTMCell):
        for name, parameter in module.named_parameters():
            for index, gate in enumerate(parameter.data.chunk(4)):
                if name.startswith("weight_hh"):
                    nn.init.orthogonal_(gate)
                elif name.startswith("weight_ih"):
                    nn.init.xavier_uniform_(gate)
                else:
                    nn.init.constant_(gate, float(index == FORGET_GATE and name.startswith("bias_ih")))


def masked_softmax(scores_BN: Tensor, mask_BN: Tensor) -> Tensor:
    """Softmax over the last axis where the mask is True, in float32; 0 elsewhere, and everywhere in a row without True."""
    lowest = torch.finfo(torch.float32).min
    return torch.softmax(scores_BN.float().masked_fill(~mask_BN, lowest), dim=-1) * mask_BN


class ImageVector(nn.Module):
    """The image encoder's pooled vector through one linear layer, or a learned vector where there is no image.

    With `seen` False there is nowhere an image, and nothing but that vector.
    """

    def __init__(self, spec: InputSpec, size: int, seen: bool = True) -> None:
        super().__init__()
        self.project = nn.Linear(spec.image_dim, size) if seen else None
        self.absent_D = absent_embedding(size)

    def forward(self, batch: PostBatch) -> Tensor:
        """vector_BD."""
        if self.project is None:
            return self.absent_D.expand(len(batch), -1)
        assert batch.image_vector_BD is not None
        return torch.where(batch.image_present_B[:, None], self.project(batch.image_vector_BD), self.absent_D)


@dataclass(frozen=True)
class CaptionStates:
    """What an LSTM made of captions; D is its hidden size."""

    states_BTD: Tensor
    mask_BT: Tensor
    """bool; at least one True a row."""
    last_BD: Tensor
    """The output after the last token."""
    cell_BD: Tensor
    """The memory cell after the last token."""


class CaptionOptions(ModelOptions):
    """Options of the families that read the caption through `CaptionLSTM`."""

    text_input: Literal["words", "encoder"] = "words"
    """`words`: embeddings of the family's own words; `encoder`: the frozen text encoder's token vectors (ours)."""
    max_tokens: int = Field(128, ge=1)
    min_word_count: int = Field(1, ge=1)

    def caption_needs(self) -> set[str]:
        """What of a caption is to be in a batch."""
        if "caption" not in self.inputs:
            return set()
        return {"text_states" if self.text_input == "encoder" else "tokens"}

    def words(self) -> TokenizerSpec | None:
        """The tokenizer of the family's own words, if it has any."""
        read = "tokens" in self.caption_needs()
        return TokenizerSpec("words", self.max_tokens, self.min_word_count) if read else None


class CaptionLSTM(nn.Module):
    """Embedded tokens, or with `embedding` None the text encoder's token vectors, through one LSTM.

    An absent caption is a single step whose output is learned. With `seen` False there is nowhere a caption, and nothing
    but that step.
    """

    def __init__(self, spec: InputSpec, embedding: int | None, hidden: int, seen: bool = True) -> None:
        super().__init__()
        self.embedding: nn.Embedding | None = None
        if seen and embedding is not None:
            self.embedding = nn.Embedding(spec.token_vocabulary_size, embedding, padding_idx=spec.pad_token_id)
        self.lstm = nn.LSTM(embedding or spec.text_dim, hidden, batch_first=True) if seen else None
        self.absent_D = absent_embedding(hidden)

    def forward(self, batch: PostBatch) -> CaptionStates:
        if self.lstm is None:
            absent_BD = self.absent_D.expand(len(batch), -1)
            once_B1 = torch.ones(len(batch), 1, dtype=torch.bool, device=absent_BD.device)
            return CaptionStates(absent_BD[:, None], once_B1, absent_BD, torch.zeros_like(absent_BD))
        words_BTD, mask_BT = self._words(batch)
        lengths_B = mask_BT.sum(1)
        present_B1, steps_B = (lengths_B > 0)[:, None], lengths_B.clamp(min=1)
        packed = pack_padded_sequence(words_BTD, steps_B.cpu(), batch_first=True, enforce_sorted=False)
        outputs, (last_1BD, cell_1BD) = self.lstm(packed)
        states_BTD, _ = pad_packed_sequence(outputs, batch_first=True, total_length=words_BTD.shape[1])
        return CaptionStates(
            torch.where(present_B1[..., None], states_BTD, self.absent_D),
            torch.arange(words_BTD.shape[1], device=steps_B.device) < steps_B[:, None],
            torch.where(present_B1, last_1BD[0], self.absent_D),
            torch.where(present_B1, cell_1BD[0], 0.0),
        )

    def _words(self, batch: PostBatch) -> tuple[Tensor, Tensor]:
        """words_BTD and mask_BT."""
        if self.embedding is None:
            assert batch.text_states_BSD is not None
            assert batch.text_states_mask_BS is not None
            return batch.text_states_BSD, batch.text_states_mask_BS
        assert batch.token_ids_BT is not None
        assert batch.token_mask_BT is not None
        return self.embedding(batch.token_ids_BT), batch.token_mask_BT
