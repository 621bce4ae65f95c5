"""The losses that families are taught by. Each is a sum over a post's tags or steps and a mean over the posts."""

from torch import Tensor, nn

from hashtag_core.data.batches import PADDING


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
