"""Ridge regression on unit text and image vectors by moments: memory does not grow with the posts, folds are differences.

Shape legend: `hashtag_core.data.batches`; D columns: for each block its vector of unit length and whether it is there,
less their train means; F folds. A missing vector is the mean, zeros once centred.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hashtag_core.data.batches import HistoryBatch, PostBatch

BLOCKS = {"caption": "text", "image": "image"}
"""Modality to the name of its fields in a batch; in the order of the columns."""


@dataclass(frozen=True)
class Block:
    """One modality of posts or histories. `value` is as it came, noise where there is none: `scale` is 0 there."""

    value: Tensor
    scale: Tensor
    """What makes it a unit vector."""
    there: Tensor

    def unit(self) -> Tensor:
        """Unit vectors, zeros where there is none."""
        return self.value * self.scale[..., None]


class Columns(nn.Module):
    """Posts as rows of a regression; `fit_means` comes first."""

    mean_D: Tensor

    def __init__(self, sizes: dict[str, int]) -> None:
        """`sizes`: numbers of each block's vector, by its name in `BLOCKS`."""
        super().__init__()
        self.sizes = sizes
        self.register_buffer("mean_D", torch.zeros(sum(size + 1 for size in sizes.values())))

    def spans(self) -> dict[str, slice]:
        """Which columns are each block's, its presence included."""
        found, start = {}, 0
        for name, size in self.sizes.items():
            found[name] = slice(start, start + size + 1)
            start += size + 1
        return found

    def blocks(self, posts: PostBatch | HistoryBatch) -> list["Block"]:
        """Each block of posts [B] or of histories [B, H]."""
        axes, mask = ("BH", posts.mask_BH) if isinstance(posts, HistoryBatch) else ("B", True)
        found = []
        for name in self.sizes:
            value, there = getattr(posts, f"{name}_vector_{axes}D"), getattr(posts, f"{name}_present_{axes}") & mask
            length = torch.linalg.vector_norm(value, dim=-1)
            found.append(Block(value, torch.where(there, 1 / length.clamp(min=1e-12), 0.0), there))
        return found

    def centred(self, blocks: Sequence["Block"], axes: Sequence[int]) -> Tensor:
        """The rows [*axes, D]."""
        parts = [torch.zeros(*axes, 0, device=self.mean_D.device)]
        for block, span in zip(blocks, self.spans().values(), strict=True):
            flag = block.there[..., None].to(block.value.dtype)
            mean_D = self.mean_D[span]
            parts += [block.unit() - flag * mean_D[:-1], flag - mean_D[-1]]
        return torch.cat(parts, dim=-1)

    def weighted(self, blocks: Sequence["Block"], weight_BH: Tensor) -> Tensor:
        """sum_h w_h x_h [B, D] of the centred rows of histories, which are never written down."""
        parts = [torch.zeros(len(weight_BH), 0, device=self.mean_D.device)]
        for block, span in zip(blocks, self.spans().values(), strict=True):
            mean_D = self.mean_D[span]
            held_B1 = (weight_BH * block.there).sum(1, keepdim=True)
            sum_BD = torch.bmm((weight_BH * block.scale)[:, None], block.value)[:, 0]
            parts += [sum_BD - held_B1 * mean_D[:-1], held_B1 - weight_BH.sum(1, keepdim=True) * mean_D[-1]]
        return torch.cat(parts, dim=-1)

    def counted(self, blocks: Sequence["Block"], posts: int) -> Tensor:
        """Of how many of the posts each column's mean is: of those that have the vector, and of all for its presence."""
        found_D = torch.full((len(self.mean_D),), float(posts))
        for block, span in zip(blocks, self.spans().values(), strict=True):
            found_D[span][:-1] = block.there.sum()
        return found_D

    def scale(self, image_weight: float) -> np.ndarray:
        """How long each column is while it is penalised: the image's vector `image_weight`, all others 1."""
        scale_D = np.ones(len(self.mean_D))
        span = self.spans().get("image")
        if span is not None:
            scale_D[span][:-1] = image_weight
        return scale_D


class Moments:
    """X^T X and X^T (Y - prior) of each fold, float64."""

    def __init__(self, folds: int, width: int, tags: int) -> None:
        self.gram_FDD = np.zeros((folds, width, width))
        self.cross_FDV = np.zeros((folds, width, tags))

    def add(self, rows_BD: np.ndarray, residual_BV: np.ndarray, fold_B: np.ndarray) -> None:
        """Some posts more."""
        for fold in np.unique(fold_B):
            mine_BD = rows_BD[fold_B == fold].astype(np.float64)
            self.gram_FDD[fold] += mine_BD.T @ mine_BD
            self.cross_FDV[fold] += mine_BD.T @ residual_BV[fold_B == fold]

    def solve(self, penalty: float, scale_D: np.ndarray, without: int | None = None) -> np.ndarray:
        """weight_DV, float32, for columns that are `scale_D` times as long while they are penalised; `without` leaves a fold out."""
        import scipy.linalg

        gram_DD, cross_DV = self.gram_FDD.sum(0), self.cross_FDV.sum(0)
        if without is not None:
            gram_DD, cross_DV = gram_DD - self.gram_FDD[without], cross_DV - self.cross_FDV[without]
        gram_DD *= scale_D[:, None] * scale_D
        gram_DD[np.diag_indices_from(gram_DD)] += penalty
        weight_DV = scipy.linalg.solve(gram_DD, cross_DV * scale_D[:, None], assume_a="pos")
        return np.asarray(weight_DV * scale_D[:, None], dtype=np.float32)
