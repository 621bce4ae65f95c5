"""The loss of the families that judge each tag alone: binary cross-entropy, and what helps tags that few posts have.

With p = sigmoid(z) of a tag's logit z, y whether the post has it, n of N train posts with it, V tags; summed over the tags, the
mean over the posts, like the losses of `objectives`.

    bce            - y log p - (1 - y) log(1 - p)
    asymmetric     - y (1 - p)^g+ log p - (1 - y) q^g- log(1 - q),  q = max(p - m, 0)
                   T. Ridnik, E. Ben-Baruch and others: Asymmetric Loss For Multi-Label Classification, ICCV 2021: easy negatives,
                   of which a post has V less a few, count little, and those below the margin m nothing
    class_balance  each tag's part times w_v = (1 - b) / (1 - b^n), scaled to a mean of 1 over the tags
                   Y. Cui, M. Jia and others: Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019
    logit_adjustment  z + t log(n / (N - n)) in place of z, in the loss alone
                   A. K. Menon and others: Long-Tail Learning via Logit Adjustment, ICLR 2021, for one softmax; with a sigmoid a
                   tag the log-odds stand for the log-share (ours). What the model learns is then how much more likely than usual
                   a tag is, and that is what it scores by
    label_smoothing   y (1 - e) + e / 2 in place of y (C. Szegedy and others: Rethinking the Inception Architecture, CVPR 2016)

They can be combined. None changes a score of a given model; a model learned with `asymmetric` or `logit_adjustment` gives no
probabilities, only an order.
"""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from hashtag_core.models.base import ModelOptions
from hashtag_core.models.objectives import UNSEEN, multi_label_loss


class LongTailOptions(ModelOptions):
    """Options of the families that judge each tag alone."""

    tag_loss: Literal["bce", "asymmetric"] = "bce"
    focus_positive: float = Field(0.0, ge=0)
    """g+ of `asymmetric`: how much less an easy positive counts."""
    focus_negative: float = Field(4.0, ge=0)
    """g- of `asymmetric`."""
    negative_margin: float = Field(0.05, ge=0, lt=1)
    """m of `asymmetric`: a negative below this probability counts nothing."""
    class_balance: float | None = Field(None, gt=0, lt=1)
    """b, 0.999 or 0.9999 in its paper; null: all tags weigh alike."""
    logit_adjustment: float = Field(0.0, ge=0)
    """t, 1 in its paper; 0: none."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """e."""

    @property
    def judges_each(self) -> bool:
        """Whether a tag is judged alone: where it is not, there is nothing for these options to change."""
        return getattr(self, "loss", "bce") == "bce" and getattr(self, "heads", "both") != "generate"

    @model_validator(mode="after")
    def _has_its_loss(self) -> Self:
        changed = [name for name in LongTailOptions.model_fields if name != "inputs" and name in self.model_fields_set]
        changed = [name for name in changed if getattr(self, name) != LongTailOptions.model_fields[name].default]
        if changed and not self.judges_each:
            raise ValueError(
                f"{changed[0]}: this is of a loss that judges each tag alone, and there is none (loss, heads)"
            )
        if self.tag_loss != "asymmetric":
            idle = [name for name in changed if name in ("focus_positive", "focus_negative", "negative_margin")]
            if idle:
                raise ValueError(f"{idle[0]} is of tag_loss = 'asymmetric'")
        return self


class MultiLabelLoss(nn.Module):
    """Logits and labels to a scalar. What it learns of the train posts is no part of the weights."""

    weight_V: Tensor
    log_odds_V: Tensor

    def __init__(self, options: LongTailOptions, tags: int) -> None:
        super().__init__()
        self.settings = options
        self.register_buffer("weight_V", torch.ones(tags), persistent=False)
        self.register_buffer("log_odds_V", torch.zeros(tags), persistent=False)

    def learn_counts(self, counts_V: Tensor, posts: int) -> None:
        """How many of the train posts have each tag; called before each start of training."""
        seen_V = counts_V.double().clamp(min=1)
        if self.settings.class_balance is not None:
            beta = self.settings.class_balance
            weight_V = (1 - beta) / (1 - beta**seen_V)
            self.weight_V.copy_(weight_V / weight_V.mean())
        self.log_odds_V.copy_(torch.logit((counts_V.double() + UNSEEN) / (posts + 2 * UNSEEN)))

    def forward(self, logits_BV: Tensor, labels_BV: Tensor) -> Tensor:
        """The loss, summed over the tags, the mean over the posts, in float32."""
        options = self.settings
        logits_BV = logits_BV.float()
        if options.logit_adjustment:
            logits_BV = logits_BV + options.logit_adjustment * self.log_odds_V
        if options.label_smoothing:
            labels_BV = labels_BV * (1 - options.label_smoothing) + options.label_smoothing / 2
        if options.tag_loss == "asymmetric":
            p_BV = torch.sigmoid(logits_BV)
            q_BV = (p_BV - options.negative_margin).clamp(min=0)
            positive_BV = labels_BV * (1 - p_BV) ** options.focus_positive * nn.functional.logsigmoid(logits_BV)
            negative_BV = (1 - labels_BV) * q_BV**options.focus_negative * torch.log1p(-q_BV.clamp(max=1 - 1e-7))
            loss_BV = -(positive_BV + negative_BV)
        elif options.class_balance is None:
            return multi_label_loss(logits_BV, labels_BV)
        else:
            loss_BV = nn.functional.binary_cross_entropy_with_logits(logits_BV, labels_BV, reduction="none")
        if options.class_balance is not None:
            loss_BV = loss_BV * self.weight_V
        return loss_BV.sum() / len(labels_BV)
