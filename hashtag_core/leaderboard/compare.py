"""Systems against each other on the same posts: paired differences from the kept lists, and the most that any could reach.

A system that was trained with several seeds is the mean of them: each post's precision and recall are averaged over the
seeds before users are drawn.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from hashtag_core import storage
from hashtag_core.evaluation.ground_truth import Truth, slices_of
from hashtag_core.evaluation.metrics import Booleans, Floats, Judged, Protocol, judge_tags, post_scores, with_f1
from hashtag_core.evaluation.significance import Difference, every_pair, holm, paired_difference, slice_contrast
from hashtag_core.leaderboard.plan import LeaderboardPlan, Pair

DIGITS = 5
KS = (1, 2, 3, 5, 7, 10)
"""List lengths that the first system is compared with the others at, as far as the report has them."""


def rounded(value: Any) -> Any:
    """Floats at `DIGITS` places: what a reader can use, in a file that can be kept with the code."""
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, Mapping):
        return {name: rounded(item) for name, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


class Comparison:
    """Paired differences of systems on the posts of `truth`, from their kept lists, each read once."""

    def __init__(self, plan: LeaderboardPlan, truth: Truth, done: set[str]) -> None:
        self.plan, self.truth, self.done = plan, truth, done
        self._judged: dict[str, Judged] = {}
        has_image = [
            key is not None
            for table in truth.dataset.read(truth.split, ["image_key"])
            for key in table["image_key"].to_pylist()
        ]
        self.slices = {
            "all": np.ones(len(truth.tags), bool),
            **slices_of(truth, np.array(has_image, bool), plan.recipe.history.order),
        }

    def judged(self, name: str) -> Judged:
        """The system's lists, judged again."""
        if name not in self._judged:
            entry = next(entry for entry in self.plan.entries if entry.name == name)
            with storage.open_input(self.plan.ranked(entry)) as source:
                table = pq.read_table(source, columns=["hashtags", "true_hashtags"])
            lists, true = table["hashtags"].to_pylist(), table["true_hashtags"].to_pylist()
            self._judged[name] = judge_tags(lists, true, self.truth.dataset.vocabulary.tags)
        return self._judged[name]

    def pair(
        self,
        first: str,
        second: str,
        metric: str,
        protocol: Protocol = "headline",
        chosen: str = "all",
        against: str | None = None,
    ) -> Difference | None:
        """`first` less `second`; None where one is not done or there is no such post."""
        if not {first, second} <= self.done:
            return None
        k = int(re.search(r"_at_(\d+)", metric)[1]) if "_at_" in metric else max(self.plan.recipe.evaluation.ks)  # type: ignore[index]
        counts = self.judged(first).selected(protocol)
        scores = [self.scores(name, [k], protocol) for name in (first, second)]
        users = [user for user, kept in zip(self.truth.users, counts, strict=True) if kept]
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

    def claim(self, pair: Pair) -> dict[str, Any]:
        """The pair as the report shows it: `difference` with its interval, or what is `missing`."""
        row = pair.model_dump()
        missing = [name for name in (pair.first, pair.second) if name not in self.done]
        if missing:
            return {**row, "missing": f"{' and '.join(missing)} not done"}
        found = self.pair(pair.first, pair.second, pair.metric, pair.protocol, pair.slice, pair.against)
        posts = int((self.slices[pair.slice] & self.judged(pair.first).selected(pair.protocol)).sum())
        return {
            **row,
            "posts": posts,
            **({"difference": rounded(asdict(found))} if found else {"missing": "no such post"}),
        }

    def scores(self, name: str, ks: Sequence[int], protocol: Protocol) -> dict[str, Floats]:
        """`post_scores` of a system, the mean over its seeds."""
        seeds = [name, *[e.name for e in self.plan.entries if e.seed_of == name and e.name in self.done]]
        found = [post_scores(self.judged(seed), ks, protocol) for seed in seeds]
        return {metric: np.mean([scores[metric] for scores in found], axis=0) for metric in found[0]}

    def everyone(
        self, names: Sequence[str], ks: Sequence[int], protocol: Protocol = "headline"
    ) -> list[dict[str, Any]]:
        """Every two of these systems by F1 at each k: `first`, `second`, `k`, the difference with its interval, its
        p-value and `p_holm`, which is corrected for all pairs of that k."""
        rows: list[dict[str, Any]] = []
        if len(names) < 2:
            return rows
        counts = self.judged(names[0]).selected(protocol)
        users = [user for user, kept in zip(self.truth.users, counts, strict=True) if kept]
        settings = self.plan.recipe.evaluation
        for k in ks:
            wanted = (f"precision_at_{k}", f"recall_at_{k}")
            scores = {name: {m: self.scores(name, [k], protocol)[m] for m in wanted} for name in names}
            found = every_pair(scores, users, f"f1_at_{k}", settings.bootstrap_samples, settings.seed)
            corrected = holm([difference.p_value for difference in found.values()])
            rows += [
                {"first": one, "second": two, "k": k, **rounded(asdict(difference)), "p_holm": rounded(p)}
                for ((one, two), difference), p in zip(found.items(), corrected, strict=True)
            ]
        return rows

    def ceiling(self, name: str, ks: Sequence[int], protocol: Protocol = "headline") -> dict[str, float]:
        """The most that lists of the vocabulary can reach, all true tags of it first: precision, recall and F1 at each k.
        `name` is any system: what is asked of it is the truth alone."""
        judged = self.judged(name)
        counts = judged.selected(protocol)
        known_N, truth_N = judged.known_N[counts], judged.truth_N[counts]
        sought_N = known_N if protocol == "papers" else truth_N
        means: dict[str, Any] = {}
        for k in ks if len(known_N) else ():
            hits_N = np.minimum(known_N, k)
            means[f"precision_at_{k}"] = np.float64((hits_N / k).mean())
            means[f"recall_at_{k}"] = np.float64((hits_N / sought_N).mean())
        return {metric: float(value) for metric, value in with_f1(means).items()}


def _where(users: Sequence[str | None], mask: Booleans) -> list[str | None]:
    return [user for user, kept in zip(users, mask, strict=True) if kept]
