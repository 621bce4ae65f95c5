"""Systems against each other on the same posts: paired differences from the kept lists, and the most that any could reach.

A system that was trained with several seeds is the mean of them: each post's precision and recall are averaged over the
seeds before users are drawn.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol, TypeVar, cast

import numpy as np
import pyarrow.parquet as pq

from hashtag_core import storage
from hashtag_core.errors import ConfigError
from hashtag_core.evaluation import metrics
from hashtag_core.evaluation.board_record import Claim, ComparedPair, SystemState
from hashtag_core.evaluation.ground_truth import Truth, image_mask, slices_of
from hashtag_core.evaluation.metrics import Booleans, Floats, Judged, judge_tags, post_scores, with_f1
from hashtag_core.evaluation.significance import Difference, every_pair, holm, paired_difference, slice_contrast
from hashtag_core.leaderboard.plan import LeaderboardPlan, Pair

DIGITS = 5
KS = (1, 2, 3, 5, 7, 10)
"""List lengths that the first system is compared with the others at, as far as the report has them."""


T = TypeVar("T")


def with_control(plan: LeaderboardPlan, control: str | None) -> LeaderboardPlan:
    """The plan, with the system whose differences from each other one are the board's question. ConfigError where it is none of it."""
    names = [entry.name for entry in plan.entries if not entry.curve_of and not entry.seed_of]
    if control is not None and control not in names:
        raise ConfigError(f"control: no system {control!r} on this board; there are {', '.join(names)}")
    return replace(plan, control=control)


def rounded(value: T) -> T:
    """Floats at `DIGITS` places, at any depth: what a reader can use, in a file that can be kept with the code."""
    return cast(T, _rounded(value))


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, Mapping):
        return {name: _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


class Part(Protocol):
    """A fold that was judged, or the whole board: see `systems.Systems`."""

    plan: LeaderboardPlan
    truth: Truth
    states: dict[str, SystemState]


class Comparison:
    """Paired differences of systems on the same posts, from their kept lists, each read once.

    The posts are those of all parts, one after the other; each part's lists are judged by its own vocabulary.
    """

    def __init__(self, plan: LeaderboardPlan, parts: Sequence[Part], done: set[str]) -> None:
        self.plan, self.parts, self.done = plan, parts, done
        self._judged: dict[str, Judged] = {}
        self.users = [user for part in parts for user in part.truth.users]
        found = [_slices(part.truth, plan.recipe.history.order) for part in parts]
        names = list(dict.fromkeys(name for slices in found for name in slices))
        self.slices = {name: np.concatenate([slices[name] for slices in found]) for name in names}

    def judged(self, name: str) -> Judged:
        """The system's lists, judged again."""
        if name not in self._judged:
            self._judged[name] = pooled([self._judged_in(part, name) for part in self.parts])
        return self._judged[name]

    def _judged_in(self, part: Part, name: str) -> Judged:
        entry = next(entry for entry in part.plan.entries if entry.name == name)
        with storage.open_input(part.plan.ranked(entry)) as source:
            table = pq.read_table(source, columns=["hashtags", "true_hashtags"])
        lists, true = table["hashtags"].to_pylist(), table["true_hashtags"].to_pylist()
        return judge_tags(lists, true, part.truth.dataset.vocabulary.tags)

    def pair(
        self,
        first: str,
        second: str,
        metric: str,
        protocol: metrics.Protocol = "headline",
        chosen: str = "all",
        against: str | None = None,
    ) -> Difference | None:
        """`first` less `second`; None where one is not done or there is no such post."""
        if not {first, second} <= self.done:
            return None
        k = int(re.search(r"_at_(\d+)", metric)[1]) if "_at_" in metric else max(self.plan.recipe.evaluation.ks)  # type: ignore[index]
        counts = self.judged(first).selected(protocol)
        scores = [self.scores(name, [k], protocol) for name in (first, second)]
        users = [user for user, kept in zip(self.users, counts, strict=True) if kept]
        inside = self.slices[chosen][counts]
        settings = (self.plan.recipe.evaluation.bootstrap_samples, self.plan.recipe.evaluation.seed)
        if against is not None:
            found = slice_contrast(scores[0], scores[1], users, inside, self.slices[against][counts], *settings)
        else:
            parts: list[dict[str, Floats]] = [
                {name: values[inside] for name, values in part.items()} for part in scores
            ]
            found = paired_difference(parts[0], parts[1], _where(users, inside), *settings)
        return found.get(metric)

    def claim(self, pair: Pair) -> Claim:
        """The pair as the report shows it: `difference` with its interval, or what is `missing`."""
        row: Claim = {
            "claim": pair.claim,
            "first": pair.first,
            "second": pair.second,
            "slice": pair.slice,
            "against": pair.against,
            "metric": pair.metric,
            "protocol": pair.protocol,
        }
        missing = [name for name in (pair.first, pair.second) if name not in self.done]
        if missing:
            return {**row, "missing": f"{' and '.join(missing)} not done"}
        found = self.pair(pair.first, pair.second, pair.metric, pair.protocol, pair.slice, pair.against)
        posts = int((self.slices[pair.slice] & self.judged(pair.first).selected(pair.protocol)).sum())
        if not found:
            return {**row, "posts": posts, "missing": "no such post"}
        return {**row, "posts": posts, "difference": rounded(found.as_record())}

    def scores(self, name: str, ks: Sequence[int], protocol: metrics.Protocol) -> dict[str, Floats]:
        """`post_scores` of a system, the mean over its seeds."""
        seeds = [name, *[e.name for e in self.plan.entries if e.seed_of == name and e.name in self.done]]
        found = [post_scores(self.judged(seed), ks, protocol) for seed in seeds]
        return {metric: np.mean([scores[metric] for scores in found], axis=0) for metric in found[0]}

    def everyone(
        self, names: Sequence[str], ks: Sequence[int], protocol: metrics.Protocol = "headline"
    ) -> list[ComparedPair]:
        """Every two of these systems by F1 at each k: `first`, `second`, `k`, their figures (`first_value`, `second_value`, over all
        seeds), the difference with its interval, its p-value and `p_holm`, which is corrected for all pairs of that k; with a
        control also its p-values corrected for its own pairs (Demsar 2006, 3.2.2: one asks less often, and finds more)."""
        rows: list[ComparedPair] = []
        if len(names) < 2:
            return rows
        counts = self.judged(names[0]).selected(protocol)
        users = [user for user, kept in zip(self.users, counts, strict=True) if kept]
        settings = self.plan.recipe.evaluation
        for k in ks:
            wanted = (f"precision_at_{k}", f"recall_at_{k}")
            scored = {name: self.scores(name, [k], protocol) for name in names}
            scores = {name: {metric: found[metric] for metric in wanted} for name, found in scored.items()}
            pairs = every_pair(scores, users, f"f1_at_{k}", settings.bootstrap_samples, settings.seed)
            corrected = holm([difference.p_value for difference in pairs.values()])
            asked = {pair: difference.p_value for pair, difference in pairs.items() if self.plan.control in pair}
            of_control = dict(zip(asked, holm(list(asked.values())), strict=True))
            figures = {
                name: rounded(float(with_f1({m: np.float64(v.mean()) for m, v in of_system.items()})[f"f1_at_{k}"]))
                for name, of_system in scores.items()
            }
            for ((one, two), difference), p in zip(pairs.items(), corrected, strict=True):
                found = rounded(difference.as_record())
                row: ComparedPair = {
                    "first": one,
                    "second": two,
                    "k": k,
                    "first_value": figures[one],
                    "second_value": figures[two],
                    "value": found["value"],
                    "low": found["low"],
                    "high": found["high"],
                    "p_value": found["p_value"],
                    "p_holm": rounded(p),
                }
                if (one, two) in of_control:
                    row["p_holm_control"] = rounded(of_control[one, two])
                rows.append(row)
        return rows

    def ceiling(self, name: str, ks: Sequence[int], protocol: metrics.Protocol = "headline") -> dict[str, float]:
        """The most that lists of the vocabulary can reach, all true tags of it first: precision, recall and F1 at each k.
        `name` is any system: what is asked of it is the truth alone."""
        judged = self.judged(name)
        counts = judged.selected(protocol)
        known_N, truth_N = judged.known_N[counts], judged.truth_N[counts]
        sought_N = known_N if protocol == "papers" else truth_N
        means: dict[str, float] = {}
        for k in ks if len(known_N) else ():
            hits_N = np.minimum(known_N, k)
            means[f"precision_at_{k}"] = float((hits_N / k).mean())
            means[f"recall_at_{k}"] = float((hits_N / sought_N).mean())
        return {metric: float(value) for metric, value in with_f1(means).items()}


def pooled(parts: Sequence[Judged]) -> Judged:
    """The posts of all parts, in turn. Each part has a vocabulary of its own, so that ids mean something within it alone: all that
    is kept of them is whether they are in it."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.ranked_NK.shape[1] for part in parts)
    size = max(part.vocabulary_size for part in parts)
    wide = [part.widened(width) for part in parts]
    ranked = [
        np.where(part.ranked_NK >= part.vocabulary_size, part.ranked_NK + size - part.vocabulary_size, part.ranked_NK)
        for part in wide
    ]
    return Judged(
        np.concatenate(ranked),
        np.concatenate([part.hits_NK for part in wide]),
        np.concatenate([part.truth_N for part in wide]),
        np.concatenate([part.known_N for part in wide]),
        size,
    )


def _slices(truth: Truth, order: Literal["earlier", "other"]) -> dict[str, Booleans]:
    return {"all": np.ones(len(truth.tags), bool), **slices_of(truth, image_mask(truth), order)}


def _where(users: Sequence[str | None], mask: Booleans) -> list[str | None]:
    return [user for user, kept in zip(users, mask, strict=True) if kept]
