"""Where a tag's score comes from: parts of its logit that add up to it exactly.

Shape legend: `hashtag_core.data.batches`; T tags asked about a post, K neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Explanation:
    """The score of tag t of post b is sigmoid of `total`, the sum of all that stands here."""

    base_BT: Tensor
    """What any post is given: popularity, and what is known of it without looking."""
    parts_BT: dict[str, Tensor]
    """`image`, `caption`, `tag_text` (the tag's own words beside the caption), as far as the model reads them."""
    history_BTH: Tensor
    """Of each post of the history; 0 where there is none."""
    neighbours_BTK: Tensor
    neighbour_ids: Sequence[Sequence[str]]
    """Post ids of each post's neighbours, as far as there are any."""

    def total(self) -> Tensor:
        """The logits [B, T]: the sum."""
        parts = torch.stack([self.base_BT, *self.parts_BT.values()]).sum(0)
        return parts + self.history_BTH.sum(2) + self.neighbours_BTK.sum(2)


def carried(tags_BHL: Tensor, tags_BT: Tensor) -> Tensor:
    """[B, T, H]: 1 where post h carries tag t."""
    return (tags_BHL[:, None] == tags_BT[:, :, None, None]).any(dim=3).float()
