"""Intervals by bootstrap over users: posts of one user are alike, so they are drawn together.

The percentile bootstrap (Efron 1979) over per-user sums; `f1_at_k` is formed from the resampled means of precision and
recall, as the metric is. Two models are compared on the same draws (the paired bootstrap).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from hashtag_core.evaluation.metrics import (
    PROTOCOLS,
    Booleans,
    Floats,
    Judged,
    post_scores,
    user_codes,
    user_sums,
    with_f1,
)
from hashtag_core.evaluation.report_record import DifferenceRecord

DRAWS_AT_ONCE = 64
DRAWS_A_PAIR = 50
"""The least p-value of n draws is 2 / (n + 1), and Holm's correction multiplies it by the number of pairs: .04 then."""


@dataclass(frozen=True)
class Interval:
    """A figure and the bounds of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """First model minus second. `p_value`: two-sided, the share of draws on the other side of 0, doubled."""

    p_value: float

    def as_record(self) -> DifferenceRecord:
        """As reports hold it."""
        return {"value": self.value, "low": self.low, "high": self.high, "p_value": self.p_value}


def intervals(
    judged: Judged, users: Sequence[str | None], ks: Sequence[int], samples: int, seed: int
) -> dict[str, dict[str, list[float]]]:
    """[low, high] of every interval, by protocol and metric; `users` [N] of all posts."""
    out: dict[str, dict[str, list[float]]] = {}
    for protocol in PROTOCOLS:
        own = [user for user, kept in zip(users, judged.selected(protocol), strict=True) if kept]
        found = bootstrap(post_scores(judged, ks, protocol), own, samples, seed)
        out[protocol] = {name: [interval.low, interval.high] for name, interval in found.items()}
    return out


def bootstrap(
    scores: Mapping[str, Floats],
    users: Sequence[str | None],
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """The interval of every metric of `metrics.post_scores`, and of f1. `users` are those of the same posts.

    With no draws or no posts there are no intervals: an empty dict.
    """
    if samples < 1 or not len(users):
        return {}
    values, draws = _resampled([(scores, None)], users, samples, seed)[0]
    tail = 100 * (1 - confidence) / 2
    return {name: Interval(float(values[name]), *_bounds(draws[name], tail)) for name in draws}


def paired_difference(
    first: Mapping[str, Floats],
    second: Mapping[str, Floats],
    users: Sequence[str | None],
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Difference]:
    """The difference of every metric that both have, on the same posts in the same order, with its interval."""
    names = [name for name in first if name in second]
    if samples < 1 or not len(users):
        return {}
    both = [({name: scores[name] for name in names}, None) for scores in (first, second)]
    one, other = _resampled(both, users, samples, seed)
    return {
        name: _difference(one[0][name] - other[0][name], one[1][name] - other[1][name], confidence) for name in one[1]
    }


def every_pair(
    scores: Mapping[str, Mapping[str, Floats]],
    users: Sequence[str | None],
    metric: str,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[tuple[str, str], Difference]:
    """The difference of one metric for every two systems, (first, second) in the order given, all on the same draws.

    `scores`: of each system what `metrics.post_scores` gives, on the same posts. At least `DRAWS_A_PAIR` draws a pair are
    taken, so that a p-value can pass `holm` however many pairs there are.
    """
    pairs = list(combinations(scores, 2))
    if samples < 1 or not len(users) or not pairs:
        return {}
    draws = max(samples, DRAWS_A_PAIR * len(pairs))
    found = dict(
        zip(scores, _resampled([(of_model, None) for of_model in scores.values()], users, draws, seed), strict=True)
    )
    return {
        (one, two): _difference(
            found[one][0][metric] - found[two][0][metric], found[one][1][metric] - found[two][1][metric], confidence
        )
        for one, two in pairs
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for having asked so often (Holm 1979): those below a level are significant together at it.

    The i-th smallest of m, from 1 on, is multiplied by m - i + 1; none is below a smaller one's, none above 1.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted


def slice_contrast(
    first: Mapping[str, Floats],
    second: Mapping[str, Floats],
    users: Sequence[str | None],
    inside: Booleans,
    against: Booleans,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Difference]:
    """How much more the first model gains over the second on the posts `inside` than on the posts `against`: the
    difference of two paired differences, each on its own posts, with users drawn once for both.

    A draw without a post of one of the two slices is left out. Empty where a slice has no post.
    """
    names = [name for name in first if name in second]
    if samples < 1 or not inside.any() or not against.any():
        return {}
    pair = [{name: scores[name] for name in names} for scores in (first, second)]
    parts = _resampled([(scores, mask) for mask in (inside, against) for scores in pair], users, samples, seed)
    out = {}
    for name in parts[0][1]:
        value, draws = ((a[name] - b[name]) - (c[name] - d[name]) for a, b, c, d in zip(*parts, strict=True))
        out[name] = _difference(value, draws[np.isfinite(draws)], confidence)
    return out


def _difference(value: float, draws: Floats, confidence: float) -> Difference:
    beyond = 1 + min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    low, high = _bounds(draws, 100 * (1 - confidence) / 2)
    return Difference(float(value), low, high, min(1.0, 2 * beyond / (len(draws) + 1)))


def _bounds(draws: NDArray, tail: float) -> tuple[float, float]:
    low, high = np.percentile(draws, [tail, 100 - tail])
    return float(low), float(high)


def _resampled(
    parts: Sequence[tuple[Mapping[str, Floats], Booleans | None]], users: Sequence[str | None], samples: int, seed: int
) -> list[tuple[dict[str, float], dict[str, Floats]]]:
    """For each part, which is a model's scores and the posts that it is asked about (None: all), the plain means and,
    by metric, the means of every draw, f1 among both. NaN where a draw has none of the posts."""
    codes = user_codes(users)
    totals = []
    for scores, mask in parts:
        counted = np.ones(len(users)) if mask is None else mask.astype(np.float64)
        totals.append(user_sums({**{name: values * counted for name, values in scores.items()}, "": counted}, codes)[0])
    drawn: list[list[Floats]] = [[] for _ in parts]
    for times_SU in _draws(len(totals[0]), samples, seed):
        for means, totals_UM in zip(drawn, totals, strict=True):
            sums_SM = times_SU @ totals_UM
            with np.errstate(invalid="ignore"):
                means.append(sums_SM[:, :-1] / sums_SM[:, -1:])
    out = []
    for (scores, mask), means in zip(parts, drawn, strict=True):
        table = np.concatenate(means)
        chosen = slice(None) if mask is None else mask
        plain = {name: float(values[chosen].mean()) for name, values in scores.items()}
        out.append((with_f1(plain), with_f1({name: table[:, column] for column, name in enumerate(scores)})))
    return out


def _draws(users: int, samples: int, seed: int) -> Iterator[Floats]:
    """How often each user is drawn, by draw, some draws at a time."""
    rng = np.random.default_rng(seed)
    for start in range(0, samples, DRAWS_AT_ONCE):
        rows = min(DRAWS_AT_ONCE, samples - start)
        yield np.stack([np.bincount(rng.integers(0, users, users), minlength=users) for _ in range(rows)]).astype(
            np.float64
        )
