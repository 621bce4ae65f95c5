"""Parts that several families share: images and captions as vectors, each with a learned vector where it is absent."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from hashtag_core.data.batches import PostBatch
from hashtag_core.models.base import InputSpec

ABSENT_DEVIATION = 0.02


def absent_embedding(size: int) -> nn.Parameter:
    """What stands for a modality that a post does not have; learned. Its name must hold `absent`: it is not decayed."""
    return nn.Parameter(torch.randn(size) * ABSENT_DEVIATION)


def masked_softmax(scores_BN: Tensor, mask_BN: Tensor) -> Tensor:
    """Softmax over the last axis where the mask is True, in float32; 0 elsewhere, and everywhere in a row without True."""
    lowest = torch.finfo(torch.float32).min
    return torch.softmax(scores_BN.float().masked_fill(~mask_BN, lowest), dim=-1) * mask_BN


class ImageVector(nn.Module):
    """The image encoder's pooled vector through one linear layer, or a learned vector where there is no image."""

    def __init__(self, spec: InputSpec, size: int) -> None:
        super().__init__()
        self.project = nn.Linear(spec.image_dim, size) if spec.image_dim else None
        self.absent_D = absent_embedding(size)

    def forward(self, batch: PostBatch) -> Tensor:
        """vector_BD."""
        if self.project is None or batch.image_vector_BD is None:
            return self.absent_D.expand(len(batch), -1)
        return torch.where(batch.image_present_B[:, None], self.project(batch.image_vector_BD), self.absent_D)


class ImageGrid(nn.Module):
    """One vector a region, as they are or through one linear layer; a post without an image has one learned vector all over."""

    def __init__(self, spec: InputSpec, size: int | None = None) -> None:
        super().__init__()
        self.size = size or max(spec.image_dim, 1)
        self.project = nn.Linear(spec.image_dim, size) if size and spec.image_dim else None
        self.absent_D = absent_embedding(self.size)

    def forward(self, batch: PostBatch) -> Tensor:
        """regions_BRD; R is 1 where the model sees no images at all."""
        grid_BRD = batch.image_grid_BRD
        if grid_BRD is None:
            return self.absent_D.expand(len(batch), 1, -1)
        if self.project is not None:
            grid_BRD = self.project(grid_BRD)
        return torch.where(batch.image_present_B[:, None, None], grid_BRD, self.absent_D)


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


class CaptionLSTM(nn.Module):
    """Embedded tokens through one LSTM. An absent caption is a single step whose output is learned."""

    def __init__(self, spec: InputSpec, embedding_size: int, hidden_size: int) -> None:
        super().__init__()
        rows = max(spec.token_vocabulary_size, spec.pad_token_id + 1)
        self.embedding = nn.Embedding(rows, embedding_size, padding_idx=spec.pad_token_id)
        self.lstm = nn.LSTM(embedding_size, hidden_size, batch_first=True)
        self.absent_D = absent_embedding(hidden_size)

    def forward(self, batch: PostBatch) -> CaptionStates:
        if batch.token_ids_BT is None or batch.token_mask_BT is None:
            absent_BD = self.absent_D.expand(len(batch), -1)
            seen_B1 = torch.ones(len(batch), 1, dtype=torch.bool, device=absent_BD.device)
            return CaptionStates(absent_BD[:, None], seen_B1, absent_BD, torch.zeros_like(absent_BD))
        words_BTD = self.embed(batch.token_ids_BT)
        present_B = batch.token_mask_BT.any(1)
        lengths_B = batch.token_mask_BT.sum(1).clamp(min=1)
        packed = pack_padded_sequence(words_BTD, lengths_B.cpu(), batch_first=True, enforce_sorted=False)
        outputs, (last_1BD, cell_1BD) = self.lstm(packed)
        states_BTD, _ = pad_packed_sequence(outputs, batch_first=True, total_length=words_BTD.shape[1])
        steps_T = torch.arange(words_BTD.shape[1], device=lengths_B.device)
        return CaptionStates(
            torch.where(present_B[:, None, None], states_BTD, self.absent_D),
            steps_T < lengths_B[:, None],
            torch.where(present_B[:, None], last_1BD[0], self.absent_D),
            torch.where(present_B[:, None], cell_1BD[0], 0.0),
        )

    def embed(self, token_ids_BT: Tensor) -> Tensor:
        """What the LSTM reads of each token."""
        words_BTD: Tensor = self.embedding(token_ids_BT)
        return words_BTD
