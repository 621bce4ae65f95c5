"""From a decoder of tag sequences to one ranked list with a score for every tag.

U = V + 1 signs: `batches.END` and the tags. A family gives a `Step`; what the state holds is its own affair.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from hashtag_core.data.batches import END

State = TypeVar("State")

Step = Callable[[Tensor | None, State], tuple[Tensor, State]]
"""`(sign of the step before, as B, or None at the start; state) -> (logits_BU, next state)`."""

Ranking = Literal["greedy", "marginal"]


@dataclass(frozen=True)
class Decoded:
    """What greedy search found."""

    tags_BK: Tensor
    """int64; vocabulary indices in the order of generation, no repeats, END never among them."""
    probabilities_BK: Tensor
    """What the model gave each of them at its step, END and repeats competing."""
    inclusion_BV: Tensor
    """The chance that a tag is among the K drawn: 1 - prod_t (1 - alive_t P_t(tag)), alive_t that END has not come before."""


def greedy_decode(step: Step[State], state: State, vocabulary_size: int, steps: int) -> Decoded:
    """The likeliest unused tag at each of `min(steps, V)` steps (article 003: repeated tags are sifted out).

    Where the model would end, the list is still filled, with the best tag; END only lowers what follows.
    """
    previous: Tensor | None = None
    tags, probabilities = [], []
    taken_BV = absent_BV = alive_B1 = None
    for _ in range(min(steps, vocabulary_size)):
        logits_BU, state = step(previous, state)
        shares_BU = torch.softmax(logits_BU.float(), dim=-1)
        shares_BV = shares_BU[:, END + 1 :]
        if taken_BV is None or absent_BV is None or alive_B1 is None:
            taken_BV = torch.zeros_like(shares_BV, dtype=torch.bool)
            absent_BV = torch.ones_like(shares_BV)
            alive_B1 = torch.ones_like(shares_BV[:, :1])
        best_B1 = shares_BV.masked_fill(taken_BV, -1.0).argmax(dim=-1, keepdim=True)
        tags.append(best_B1)
        probabilities.append(shares_BV.gather(1, best_B1))
        taken_BV = taken_BV.scatter(1, best_B1, True)
        absent_BV = absent_BV * (1 - alive_B1 * shares_BV)
        alive_B1 = alive_B1 * (1 - shares_BU[:, END : END + 1])
        previous = best_B1[:, 0] + 1
    if absent_BV is None:
        raise ValueError("decoding needs at least one step and one tag")
    return Decoded(torch.cat(tags, 1), torch.cat(probabilities, 1), 1 - absent_BV)


def sequence_scores(decoded: Decoded, ranking: Ranking) -> Tensor:
    """scores_BV in [0, 1].

    `greedy`: the generated tags in the order of generation (a tag scores its probability, or just under the tag before
    it where that is less), then all others by their chance of inclusion, below. `marginal`: all by that chance.
    """
    if ranking == "marginal":
        return decoded.inclusion_BV
    shrink = 1 - 1e-6
    falling = [decoded.probabilities_BK[:, :1]]
    for column in decoded.probabilities_BK[:, 1:, None].unbind(dim=1):
        falling.append(torch.minimum(column, falling[-1] * shrink))
    rest_BV = decoded.inclusion_BV * falling[-1] * shrink
    return rest_BV.scatter(1, decoded.tags_BK, torch.cat(falling, dim=1))
