"""The losses that families are taught by. Each is a sum over a post's tags or steps and a mean over the posts.

(Articles by number: docs/models.md.)
"""

from typing import Literal

import torch
from torch import Tensor, nn

from hashtag_core.data.batches import PADDING

Output = Literal["each", "one", "next"]
"""What the logits of a layer stand for: the odds of each tag, the shares of one softmax over the tags, or those over END and
the tags at a step of a sequence."""

UNSEEN = 0.5
"""Added to every count, so that a tag that no train post has is not impossible."""


def prior_logits(output: Output, counts_V: Tensor, posts: int) -> Tensor:
    """Logits that tell no post from another: of V tags, or of U = V + 1 signs for `next`, as often as the train posts have them.

    `each`: log-odds of (count + 0.5) / (posts + 1). `one`, `next`: log-share among all tags, and for `next` as many END as posts.
    """
    counts = counts_V.float() + UNSEEN
    if output == "each":
        return torch.logit(counts / (posts + 2 * UNSEEN))
    if output == "next":
        counts = torch.cat([counts.new_tensor([posts + UNSEEN]), counts])
    return (counts / counts.sum()).log()


def multi_label_loss(logits_BV: Tensor, labels_BV: Tensor) -> Tensor:
    """Binary cross-entropy with logits, summed over the tags (article 001). A post without tags has V negatives."""
    return nn.functional.binary_cross_entropy_with_logits(logits_BV.float(), labels_BV, reduction="sum") / len(
        labels_BV
    )


def softmax_loss(logits_BV: Tensor, labels_BV: Tensor) -> Tensor:
    """`- sum_v y_v log p_v` of one softmax over all tags (Zhang 2017). A post without tags contributes 0."""
    return -(labels_BV * nn.functional.log_softmax(logits_BV.float(), dim=-1)).sum() / len(labels_BV)


def sequence_loss(logits_BLU: Tensor, sequence_BL: Tensor) -> Tensor:
    """`- sum_t log p(H_t | ...)` (article 003, eq. 19), END included; U = V + 1 signs. A post without tags is taught to end."""
    total = nn.functional.cross_entropy(
        logits_BLU.float().flatten(0, 1), sequence_BL.flatten(), ignore_index=PADDING, reduction="sum"
    )
    return total / len(sequence_BL)
