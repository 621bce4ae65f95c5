"""Intervals by bootstrap over users: posts of one user are alike, so they are drawn together.

The percentile bootstrap (Efron 1979) over per-user sums; `f1_at_k` is formed from the resampled means of precision and
recall, as the metric is. Two models are compared on the same draws (the paired bootstrap).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hashtag_core.evaluation.metrics import Floats, user_codes, user_sums, with_f1

DRAWS_AT_ONCE = 64


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
    values, draws = _resampled([scores], users, samples, seed)[0]
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
    both = [{name: scores[name] for name in names} for scores in (first, second)]
    (values_a, draws_a), (values_b, draws_b) = _resampled(both, users, samples, seed)
    tail = 100 * (1 - confidence) / 2
    out = {}
    for name in draws_a:
        difference = draws_a[name] - draws_b[name]
        beyond = 1 + min(int((difference <= 0).sum()), int((difference >= 0).sum()))
        out[name] = Difference(
            float(values_a[name] - values_b[name]), *_bounds(difference, tail), min(1.0, 2 * beyond / (samples + 1))
        )
    return out


def _bounds(draws: NDArray, tail: float) -> tuple[float, float]:
    low, high = np.percentile(draws, [tail, 100 - tail])
    return float(low), float(high)


def _resampled(
    models: Sequence[Mapping[str, Floats]], users: Sequence[str | None], samples: int, seed: int
) -> list[tuple[dict[str, Any], dict[str, Floats]]]:
    """For each model the plain means and, by metric, the means of every draw, f1 among both."""
    codes = user_codes(users)
    sums = [user_sums(scores, codes)[0] for scores in models]
    sizes = user_sums({}, codes)[1]
    drawn: list[list[Floats]] = [[] for _ in models]
    for times_SU in _draws(len(sizes), samples, seed):
        posts_S1 = (times_SU @ sizes)[:, None]
        for means, sums_UM in zip(drawn, sums, strict=True):
            means.append(times_SU @ sums_UM / posts_S1)
    out = []
    for scores, means in zip(models, drawn, strict=True):
        table = np.concatenate(means)
        plain = {name: np.float64(values.mean()) for name, values in scores.items()}
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
