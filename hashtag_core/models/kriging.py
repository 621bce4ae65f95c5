"""Kriging weights: how much each post of a history tells of the post at hand, in closed form.

Shape legend: `hashtag_core.data.batches`. A Gaussian process with the covariance

    k(a, b) = constant + exp((cos(a, b) - 1) / length),   noise on the diagonal

gives, for residuals r_H seen at H posts, the expectation at x: k_xH (K_HH + noise I)^-1 r_H = w_H r_H. The weights w depend
on the posts alone, not on the tag, so that one Cholesky factor a post serves all tags; nothing is trained. `constant` is
what a user's posts share whatever they show; the other term what look-alikes share (exponential covariance; Cressie,
Statistics for Spatial Data, 1993, section 3.2).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hashtag_core.models.ridge import Block


@dataclass(frozen=True)
class Covariance:
    """k of two posts, in units of its second term."""

    constant: float
    length: float
    """Of the exponential, in cosines."""
    noise: float

    def between(self, cosine: Tensor) -> Tensor:
        """k at these cosines."""
        return self.constant + torch.exp((cosine - 1) / self.length)


def joint_unit(blocks: Sequence[Block], axes: Sequence[int], device: torch.device) -> Tensor:
    """Unit vectors [*axes, D] of all modalities side by side, zeros where a post has none."""
    parts = [torch.zeros(*axes, 0, device=device), *[block.unit() for block in blocks]]
    return nn.functional.normalize(torch.cat(parts, dim=-1), dim=-1)


def joint_cosines(post: Sequence[Block], past: Sequence[Block], mask_BH: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of joint vectors: of each post with its history [B, H], and within the history [B, H, H]; 0 where there is none.

    A joint vector of c modalities is sqrt(c) long before it is scaled, and its products are sums over modalities, so that
    none has to be written down.
    """
    cosine_BH, length_BH = (
        torch.zeros_like(mask_BH, dtype=torch.float32),
        torch.zeros_like(mask_BH, dtype=torch.float32),
    )
    cosine_BHH = torch.zeros(*mask_BH.shape, mask_BH.shape[1], device=mask_BH.device)
    length_B = torch.zeros(len(mask_BH), device=mask_BH.device)
    for here, before in zip(post, past, strict=True):
        cosine_BH = cosine_BH + torch.bmm(before.value, here.unit()[..., None])[..., 0] * before.scale
        products_BHH = torch.bmm(before.value, before.value.transpose(1, 2))
        cosine_BHH = cosine_BHH + products_BHH * before.scale[:, :, None] * before.scale[:, None, :]
        length_BH, length_B = length_BH + before.there, length_B + here.there
    scale_BH, scale_B = length_BH.clamp(min=1).rsqrt(), length_B.clamp(min=1).rsqrt()
    return cosine_BH * scale_BH * scale_B[:, None], cosine_BHH * scale_BH[:, :, None] * scale_BH[:, None, :]


def kriging_weights(
    cosine_BH: Tensor, cosine_BHH: Tensor, mask_BH: Tensor, covariance: Covariance
) -> tuple[Tensor, Tensor]:
    """w_BH, 0 where there is no post, and explained_B: the share of the variance at the post that its history explains.

    A post without any vector is like no other: its cosine with itself counts as 1 all the same.
    """
    eye_HH = torch.eye(mask_BH.shape[1], dtype=torch.bool, device=mask_BH.device)
    both_BHH = mask_BH[:, :, None] & mask_BH[:, None, :]
    k_BHH = covariance.between(torch.where(eye_HH, 1.0, cosine_BHH)).masked_fill(~both_BHH, 0.0)
    k_BHH = k_BHH + torch.where(eye_HH & both_BHH, covariance.noise, 0.0) + torch.where(eye_HH & ~both_BHH, 1.0, 0.0)
    k_BH = covariance.between(cosine_BH).masked_fill(~mask_BH, 0.0)
    factor_BHH = torch.linalg.cholesky(k_BHH)
    weights_BH = torch.cholesky_solve(k_BH[..., None], factor_BHH)[..., 0]
    return weights_BH, (weights_BH * k_BH).sum(1) / (covariance.constant + 1)
