"""One logistic regression over kinds of evidence, whose weights depend on the post: a calibrated, additive combination.

Shape legend: `hashtag_core.data.batches`; N posts, C kinds of evidence, J facts of a post.

    logit p_nv = sum_c evidence_cnv sum_j W_cj facts_nj + sum_j o_j facts_nj + t_v

is linear in W, o and t, so that its likelihood, with a quadratic penalty, has one maximum. Every pair of a post and a tag
counts, so the probabilities are those of the posts that it is fitted on, which must not be those that the evidence was
learned from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ITERATIONS = 100


@dataclass(frozen=True)
class Mixture:
    """W, o and t."""

    weights_CJ: Tensor
    offset_J: Tensor
    tag_offset_V: Tensor


@dataclass(frozen=True)
class MixtureData:
    """What a mixture is fitted on: N posts whose evidence is out of fold, and how much each counts."""

    evidence: Sequence[Tensor]
    """C tensors [N, V]."""
    facts_NJ: Tensor
    labels_NV: Tensor
    weight_N: Tensor


def fit_mixture(data: MixtureData, *, penalty: float, tag_penalty: float | None, prior_kind: int) -> Mixture:
    """The penalised maximum of the likelihood, by L-BFGS.

    `penalty` is of W and o, for evidence scaled to a standard deviation of 1, `tag_penalty` of t, both in units of a post; without
    one, t stays 0. `prior_kind` is the kind that is the logit of the tags' popularity: the search begins at it alone.
    """
    scale_C = torch.stack([part.std(correction=0) for part in data.evidence]).clamp(min=1e-6)
    weights_CJ = torch.zeros(len(data.evidence), data.facts_NJ.shape[1])
    weights_CJ[prior_kind, 0] = scale_C[prior_kind]
    parameters = [weights_CJ, torch.zeros(data.facts_NJ.shape[1]), torch.zeros(data.labels_NV.shape[1])]
    parameters = [parameter.requires_grad_() for parameter in parameters]
    penalties = [penalty, penalty, tag_penalty or 0.0]
    optimizer = torch.optim.LBFGS(parameters, max_iter=ITERATIONS, history_size=20, line_search_fn="strong_wolfe")

    @torch.no_grad()
    def closure() -> Tensor:
        loss, gradients = _loss_and_gradients(data, scale_C, parameters)
        if tag_penalty is None:
            gradients[2].zero_()
        for parameter, gradient, strength in zip(parameters, gradients, penalties, strict=True):
            loss = loss + strength / 2 * parameter.square().sum()
            parameter.grad = (gradient + strength * parameter) / len(data.facts_NJ)
        return loss / len(data.facts_NJ)

    if len(data.facts_NJ):
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    weights_CJ, offset_J, tag_offset_V = (parameter.detach() for parameter in parameters)
    return Mixture(weights_CJ / scale_C[:, None], offset_J, tag_offset_V)


def _loss_and_gradients(
    data: MixtureData, scale_C: Tensor, parameters: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """By hand, one kind of evidence after the other: autograd would hold a copy of each."""
    weights_CJ, offset_J, tag_offset_V = parameters
    weights_NC = data.facts_NJ @ (weights_CJ / scale_C[:, None]).t()
    logits_NV = (data.facts_NJ @ offset_J)[:, None] + tag_offset_V
    for index, part_NV in enumerate(data.evidence):
        logits_NV.addcmul_(part_NV, weights_NC[:, index : index + 1])
    losses_NV = nn.functional.binary_cross_entropy_with_logits(logits_NV, data.labels_NV, reduction="none")
    error_NV = logits_NV.sigmoid_().sub_(data.labels_NV).mul_(data.weight_N[:, None])
    pull_NC = torch.stack([torch.linalg.vecdot(part, error_NV, dim=1) for part in data.evidence], dim=1)
    gradient_CJ = (pull_NC.t() @ data.facts_NJ) / scale_C[:, None]
    return losses_NV.sum(1) @ data.weight_N, [gradient_CJ, error_NV.sum(1) @ data.facts_NJ, error_NV.sum(0)]


TRUST_PENALTY = 300.0


def fit_trust(parts: Sequence[Tensor], labels_NV: Tensor) -> Tensor:
    """float32 [C]: by how much each part of the logits of N other posts is to be multiplied, when users are not those of the
    mixture and times have changed. `parts`: C tensors [N, V] that add up to the logits.

    The maximum of the likelihood under a quadratic penalty that holds them to 1: few posts change little.
    """
    data = MixtureData(parts, torch.ones(len(labels_NV), 1), labels_NV, torch.ones(len(labels_NV)))
    trust_C1 = torch.ones(len(parts), 1).requires_grad_()
    still = [torch.zeros(1), torch.zeros(labels_NV.shape[1])]
    optimizer = torch.optim.LBFGS([trust_C1], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    @torch.no_grad()
    def closure() -> Tensor:
        loss, (gradient_C1, *_) = _loss_and_gradients(data, torch.ones(len(parts)), [trust_C1, *still])
        trust_C1.grad = gradient_C1 + TRUST_PENALTY * (trust_C1 - 1)
        return loss + TRUST_PENALTY / 2 * (trust_C1 - 1).square().sum()

    if len(labels_NV):
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return trust_C1.detach()[:, 0]


SHOWN = 10
"""Tags of a post that are looked at when it is asked how sure a model may be."""
SURENESS_PENALTY = 10.0


def fit_sureness(logits_NK: Tensor, right_NK: Tensor, weight_N: Tensor) -> tuple[float, float]:
    """Platt's slope and offset for the logits of the tags that posts were given first: what makes their sigmoid the share that
    is right. The best of many chances look better than they are, and times change; the ranking stays as it is.

    `weight_N`: how much each post counts. A quadratic penalty holds them to (1, 0): few posts change little. The slope is at least 0.1.
    """
    slope_offset = torch.tensor([1.0, 0.0]).requires_grad_()
    optimizer = torch.optim.LBFGS([slope_offset], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        given_NK = logits_NK * slope_offset[0] + slope_offset[1]
        losses_NK = nn.functional.binary_cross_entropy_with_logits(given_NK, right_NK, reduction="none")
        loss = (losses_NK.sum(1) * weight_N).sum()
        loss = loss + SURENESS_PENALTY / 2 * ((slope_offset[0] - 1).square() + slope_offset[1].square())
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    if logits_NK.numel():
        with torch.enable_grad():
            optimizer.step(closure)  # type: ignore[no-untyped-call]
    slope, offset = slope_offset.detach().tolist()
    return max(slope, 0.1), offset
