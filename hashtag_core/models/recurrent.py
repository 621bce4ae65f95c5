"""Parts that the recurrent families share: images and captions with their absence, and tags taught and written step by step."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from hashtag_core.data.batches import PostBatch
from hashtag_core.models.base import InputSpec

State = TypeVar("State")

ABSENT_DEVIATION = 0.02


def absent_embedding(size: int) -> nn.Parameter:
    """What stands for a modality that a post does not have; learned. Its name must hold `absent`: it is not decayed."""
    return nn.Parameter(torch.randn(size) * ABSENT_DEVIATION)


def masked_softmax(scores_BN: Tensor, mask_BN: Tensor) -> Tensor:
    """Softmax over the last axis where the mask is True, in float32; 0 elsewhere, and everywhere in a row without True."""
    weights_BN = torch.softmax(scores_BN.float().masked_fill(~mask_BN, -torch.inf), dim=-1)
    return weights_BN.nan_to_num(0.0) if not mask_BN.any(-1).all() else weights_BN


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


class CaptionLSTM(nn.Module):
    """Embedded tokens through one LSTM. An absent caption is a single step whose output is learned."""

    def __init__(self, spec: InputSpec, embedding_size: int, hidden_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        rows = max(spec.token_vocabulary_size, spec.pad_token_id + 1)
        self.embedding = nn.Embedding(rows, embedding_size, padding_idx=spec.pad_token_id)
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(embedding_size, hidden_size, batch_first=True)
        self.absent_D = absent_embedding(hidden_size)
        self.absent_cell_D = absent_embedding(hidden_size)

    def forward(self, batch: PostBatch) -> tuple[Tensor, Tensor]:
        """states_BTD and mask_BT, with at least one True a row."""
        if batch.token_ids_BT is None or batch.token_mask_BT is None:
            absent_B1D = self.absent_D.expand(len(batch), 1, -1)
            return absent_B1D, torch.ones(absent_B1D.shape[:2], dtype=torch.bool, device=absent_B1D.device)
        states_BTD, _ = self.lstm(self.dropout(self.embedding(batch.token_ids_BT)))
        absent_B = ~batch.token_mask_BT.any(1)
        mask_BT = batch.token_mask_BT.clone()
        mask_BT[:, 0] |= absent_B
        return torch.where(absent_B[:, None, None], self.absent_D, states_BTD), mask_BT

    def last(self, batch: PostBatch) -> Tensor:
        """The output after the last token, last_BD."""
        states_BTD, mask_BT = self(batch)
        return states_BTD[torch.arange(len(batch), device=states_BTD.device), mask_BT.sum(1) - 1]
