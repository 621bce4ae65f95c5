"""From a decoder of tag sequences to one ranked list with a score for every tag.

U = V + 1 signs: `batches.END` and the tags. A family gives a `Step`; what the state holds is its own affair (beam search needs
posts as the first axis of every tensor in it).

(Articles by number: docs/models.md.)
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor

from hashtag_core.data.batches import END

State = TypeVar("State")

Step = Callable[[Tensor | None, State], tuple[Tensor, State]]
"""`(sign of the step before, as B, or None at the start; state) -> (logits_BU, next state)`."""

Ranking = Literal["greedy", "marginal"]

Decoding = Literal["greedy", "beam"]

LEAST_COUNTED = 1e-6
"""What a tag counts at the least that stands after a sure end: so the likeliest fill the list, and not the first of the vocabulary."""


@dataclass(frozen=True)
class Decoded:
    """What a search found."""

    tags_BK: Tensor
    """int64; vocabulary indices in the order of generation, no repeats, END never among them."""
    probabilities_BK: Tensor
    """What the model gave each of them at its step, END and repeats competing."""
    inclusion_BV: Tensor
    """The chance that a tag is among the K drawn: 1 - prod_t (1 - alive_t P_t(tag)), alive_t that END has not come before.
    After a beam search the mean of that over its lists, each with its share of their probability."""


def search(step: Step[State], state: State, vocabulary_size: int, steps: int, beam_width: int = 1) -> Decoded:
    """`greedy_decode` for a beam of 1, else `beam_decode`."""
    if beam_width == 1:
        return greedy_decode(step, state, vocabulary_size, steps)
    return beam_decode(step, state, vocabulary_size, steps, beam_width)


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


def beam_decode(step: Step[State], state: State, vocabulary_size: int, steps: int, beam_width: int) -> Decoded:
    """The best list y_1 .. y_K of distinct tags, K = min(steps, V), that a beam of `beam_width` lists finds:

        quality(y) = sum_t alive_t log P_t(y_t | y_<t) / sum_t alive_t     alive_t = prod_{s<t} (1 - P_s(END | y_<s))

    the mean log-probability of its tags, each counted by the chance that the model has not ended before it. So lists are
    compared without favour for short ones (length-normalised, Wu et al. 2016, with the length that the model expects), and
    what fills a list after its likely end hardly counts (`LEAST_COUNTED`; the sums are float64, in which that is not lost). A beam of 1 is greedy search; one of V! / (V - K)! lists is exact.
    A list's share in `inclusion_BV` is softmax(sum_t alive_t log P_t(y_t | y_<t)) over the beam.

    B * `beam_width` rows go through each step. ValueError for no step or no tag.
    """
    kept = min(steps, vocabulary_size)
    if kept < 1:
        raise ValueError("decoding needs at least one step and one tag")
    previous: Tensor | None = None
    lists: _Lists | None = None
    for t in range(kept):
        logits_NU, state = step(previous, state)
        shares_NU = torch.softmax(logits_NU.float(), dim=-1)
        if lists is None:
            lists = _Lists.empty(shares_NU)
        posts, width = lists.sums_BW.shape
        shares_BWV = shares_NU[:, END + 1 :].view(posts, width, -1)
        logs_BWV = shares_BWV.clamp(min=torch.finfo(torch.float32).tiny).log()
        counts_BW = lists.alive_BW.double().clamp(min=LEAST_COUNTED)
        sums_BWV = lists.sums_BW[..., None] + counts_BW[..., None] * logs_BWV
        counted_BW = lists.counted_BW + counts_BW
        quality_BWV = (sums_BWV / counted_BW[..., None]).masked_fill(lists.taken_BWV, -math.inf)
        best_BW = quality_BWV.flatten(1).topk(min(beam_width, width * (vocabulary_size - t)), dim=1).indices
        parent_BW, tag_BW = best_BW // vocabulary_size, best_BW % vocabulary_size
        rows_N = (parent_BW + width * torch.arange(posts, device=parent_BW.device)[:, None]).flatten()
        absent_BWV = lists.absent_BWV * (1 - lists.alive_BW[..., None] * shares_BWV)
        ended_BW = shares_NU[:, END].view(posts, width)
        lists = _Lists(
            tags_BWK=torch.cat([_take(lists.tags_BWK, parent_BW), tag_BW[..., None]], dim=2),
            probabilities_BWK=torch.cat(
                [_take(lists.probabilities_BWK, parent_BW), shares_BWV.flatten(1).gather(1, best_BW)[..., None]], dim=2
            ),
            sums_BW=sums_BWV.flatten(1).gather(1, best_BW),
            counted_BW=_take(counted_BW, parent_BW),
            alive_BW=_take(lists.alive_BW * (1 - ended_BW), parent_BW),
            taken_BWV=_take(lists.taken_BWV, parent_BW).scatter(2, tag_BW[..., None], True),
            absent_BWV=_take(absent_BWV, parent_BW),
        )
        state = select_rows(state, rows_N)
        previous = tag_BW.flatten() + 1
    assert lists is not None
    weights_BW1 = torch.softmax(lists.sums_BW, dim=1).float()[..., None]
    inclusion_BV = 1 - (weights_BW1 * lists.absent_BWV).sum(1)
    return Decoded(lists.tags_BWK[:, 0], lists.probabilities_BWK[:, 0], inclusion_BV.clamp(0.0, 1.0))


@dataclass(frozen=True)
class _Lists:
    """The beam: W lists a post, best first, of the K tags so far."""

    tags_BWK: Tensor
    probabilities_BWK: Tensor
    sums_BW: Tensor
    counted_BW: Tensor
    alive_BW: Tensor
    taken_BWV: Tensor
    absent_BWV: Tensor

    @classmethod
    def empty(cls, shares_BU: Tensor) -> "_Lists":
        nothing_BW1 = shares_BU.new_zeros(len(shares_BU), 1, 1)
        none_BWV = torch.zeros_like(shares_BU[:, None, END + 1 :])
        zero_BW = nothing_BW1[..., 0]
        return cls(
            nothing_BW1[..., :0].long(),
            nothing_BW1[..., :0],
            zero_BW.double(),
            zero_BW.double(),
            zero_BW + 1,
            none_BWV > 0,
            none_BWV + 1,
        )


def select_rows(state: State, rows_N: Tensor) -> State:
    """A decoder's state with those rows of each of its tensors, in that order."""
    return map_rows(lambda values: values[rows_N], state)


def map_rows(change: Callable[..., Tensor], state: State, *others: State) -> State:
    """`change` of each tensor of a state, and of those at the same place in others like it; what is no tensor stays."""
    if isinstance(state, Tensor):
        return cast(State, change(state, *others))
    if isinstance(state, tuple):
        parts = [map_rows(change, *part) for part in zip(state, *cast(Any, others), strict=True)]
        return cast(State, type(state)(*parts) if hasattr(state, "_fields") else tuple(parts))
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        names = [item.name for item in dataclasses.fields(state)]
        values = {name: map_rows(change, *(getattr(one, name) for one in (state, *others))) for name in names}
        return cast(State, dataclasses.replace(state, **values))
    return state


def _take(values_BW: Tensor, parent_BW: Tensor) -> Tensor:
    """Of each post, the lists at `parent_BW`."""
    posts_B1 = torch.arange(len(parent_BW), device=parent_BW.device)[:, None]
    return values_BW[posts_B1, parent_BW]


def sequence_scores(decoded: Decoded, ranking: Ranking) -> Tensor:
    """scores_BV in [0, 1].

    `greedy`: the list's tags in the order of generation (a tag scores its probability, or just under the tag before
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
