"""Metrics of ranked hashtags.

R is a post's recommended list cut at k, G the set of its true tags. Three protocols say which posts count and what G is;
a figure is never shown without its protocol:

    headline  posts with a true tag;                    G = all true tags, inside the vocabulary or not
    papers    posts with a true tag in the vocabulary;  G = the true tags in the vocabulary (articles 000, 002 and 003
              prune their tags first)
    floor     posts with a true tag in the vocabulary;  G = all true tags

Names and formulas, per post, then the mean over posts:

    precision_at_k           |R ∩ G| / k: a place that is empty or repeats a tag is a miss
    recall_at_k              |R ∩ G| / |G|
    f1_at_k                  harmonic mean of the two means (the articles' way)
    f1_per_post_at_k         mean of 2 |R ∩ G| / (k + |G|), which is each post's own F1
    hit_rate_at_k            1 if R ∩ G is not empty: the "accuracy" of AMNN and HARRISON
    mean_hits_at_k           |R ∩ G|: the "accuracy" of LXMERT4Hashtag, may pass 1
    ndcg_at_k                binary gain, discount 1 / log2(1 + place), ideal = the first min(k, |G|) places (Järvelin &
                             Kekäläinen 2002)
    mean_average_precision   sum over hits of the precision at the hit's place, / |G|, over the list as long as the largest
                             k (trec_eval's map_cut, ranx's map)
    *_user_macro             the mean over a user's posts, then over users, of precision, recall and hit rate; f1 is the
                             harmonic mean of the two means. A post without a user is its own user.
    coverage                 share of the vocabulary that is recommended at all, over the list as long as the largest k
    gini                     of how often each tag of the vocabulary is recommended there: 0 all alike, towards 1 few tags
    novelty                  mean over recommended places of -log2(share of train posts with that tag)

Without a post that counts every figure is 0 and `posts` says so.

(Articles by number: docs/models.md.)
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, TypeVar, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Protocol = Literal["headline", "papers", "floor"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)

Floats = NDArray[np.float64]
Mean = TypeVar("Mean", float, Floats)
"""A mean over posts, or an array of resampled ones."""
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

BATCH_OF_004 = 16
"""Posts a batch in article 004, over which it averages BLEU."""


@dataclass(frozen=True)
class Judged:
    """N ranked lists of K places against the truth."""

    ranked_NK: Integers
    """Vocabulary indices, best first; -1 an empty place, V and above a tag outside the vocabulary."""
    hits_NK: Booleans
    """The tag in this place is true and stands nowhere before."""
    truth_N: Integers
    """Distinct true tags."""
    known_N: Integers
    """Distinct true tags in the vocabulary."""
    vocabulary_size: int

    def selected(self, protocol: Protocol) -> Booleans:
        """Which posts count."""
        return (self.truth_N if protocol == "headline" else self.known_N) > 0

    def widened(self, width: int) -> "Judged":
        """The same with lists of exactly `width` places: cut, or filled with empty ones."""
        missing = max(width - self.ranked_NK.shape[1], 0)
        return Judged(
            np.pad(self.ranked_NK, ((0, 0), (0, missing)), constant_values=-1)[:, :width],
            np.pad(self.hits_NK, ((0, 0), (0, missing)))[:, :width],
            self.truth_N,
            self.known_N,
            self.vocabulary_size,
        )


def judge(
    ranked_NK: ArrayLike, truth: Sequence[Sequence[int]], vocabulary_size: int, outside_N: ArrayLike | None = None
) -> Judged:
    """Judge lists of vocabulary indices.

    `truth` holds each post's vocabulary indices, repeats allowed. True tags outside the vocabulary are either ids of V
    and above in it, or counted in `outside_N` (distinct ones a post), where no list can hold them.
    """
    ranked = np.asarray(ranked_NK, dtype=np.int64)
    if ranked.ndim != 2 or len(ranked) != len(truth):
        raise ValueError(f"expected {len(truth)} ranked lists, found an array of shape {ranked.shape}")
    lengths = np.fromiter(map(len, truth), dtype=np.int64, count=len(truth))
    tags = np.fromiter(chain.from_iterable(truth), dtype=np.int64, count=int(lengths.sum()))
    rows = np.repeat(np.arange(len(truth), dtype=np.int64), lengths)
    width = max(vocabulary_size, int(tags.max(initial=-1)) + 1, int(ranked.max(initial=-1)) + 1)
    keys = np.unique(rows * width + tags)
    truth_N = np.bincount(keys // width, minlength=len(truth)) if width else np.zeros(len(truth), dtype=np.int64)
    inside = keys[keys % width < vocabulary_size] if width else keys
    known_N = np.bincount(inside // width, minlength=len(truth)) if width else truth_N
    if outside_N is not None:
        truth_N = truth_N + np.asarray(outside_N, dtype=np.int64)
    sought = np.arange(len(truth), dtype=np.int64)[:, None] * width + ranked
    found_at = np.searchsorted(keys, sought)
    hits = (
        (ranked >= 0) & (keys[np.minimum(found_at, len(keys) - 1)] == sought)
        if len(keys)
        else np.zeros_like(ranked, dtype=bool)
    )
    for later in range(1, ranked.shape[1]):
        hits[:, later] &= ~(ranked[:, :later] == ranked[:, later : later + 1]).any(axis=1)
    return Judged(ranked, hits, truth_N, known_N, vocabulary_size)


def judge_tags(
    recommended: Sequence[Sequence[str]], truth: Sequence[Sequence[str]], vocabulary: Sequence[str]
) -> Judged:
    """Judge lists of tags by name; a tag outside the vocabulary, recommended or true, is one like any other."""
    if len(recommended) != len(truth):
        raise ValueError(f"{len(recommended)} lists for {len(truth)} posts")
    ids = {tag: index for index, tag in enumerate(vocabulary)}
    size = len(ids)
    ranked = np.full((len(recommended), max(map(len, recommended), default=0)), -1, dtype=np.int64)
    for row, tags in enumerate(recommended):
        ranked[row, : len(tags)] = [ids.setdefault(tag, len(ids)) for tag in tags]
    return judge(ranked, [[ids.setdefault(tag, len(ids)) for tag in tags] for tags in truth], size)


def post_scores(judged: Judged, ks: Iterable[int], protocol: Protocol) -> dict[str, Floats]:
    """Each counting post's own figure, by metric: those whose mean over posts is the metric."""
    cuts = np.array(_checked(ks), dtype=np.int64)
    judged = judged.widened(int(cuts.max()))
    chosen = judged.selected(protocol)
    hits_NK = judged.hits_NK[chosen]
    truth_N1 = judged.truth_N[chosen, None]
    if protocol == "papers":
        hits_NK = hits_NK & (judged.ranked_NK[chosen] < judged.vocabulary_size)
        truth_N1 = judged.known_N[chosen, None]
    places = np.arange(1, hits_NK.shape[1] + 1)
    discounts = 1 / np.log2(places + 1)
    found_NK = hits_NK.cumsum(axis=1)
    found = found_NK[:, cuts - 1].astype(np.float64)
    ideal = discounts.cumsum()[np.minimum(cuts, truth_N1) - 1]
    by_metric = {
        "precision": found / cuts,
        "recall": found / truth_N1,
        "f1_per_post": 2 * found / (cuts + truth_N1),
        "hit_rate": (found > 0).astype(np.float64),
        "mean_hits": found,
        "ndcg": (hits_NK * discounts).cumsum(axis=1)[:, cuts - 1] / ideal,
    }
    scores = {f"{name}_at_{k}": values[:, i] for name, values in by_metric.items() for i, k in enumerate(cuts)}
    scores["mean_average_precision"] = (hits_NK * found_NK / places).sum(axis=1) / truth_N1[:, 0]
    return scores


def with_f1(means: Mapping[str, Mean]) -> dict[str, Mean]:
    """The same means and, for every `precision_at_k...` beside a `recall_at_k...`, `f1_at_k...`: their harmonic mean, 0
    where both are 0. Works on numbers and on arrays of resampled means alike."""
    out = dict(means)
    for name, precision in means.items():
        if name.startswith("precision_at_"):
            recall = means["recall" + name.removeprefix("precision")]
            total = np.asarray(precision + recall)
            harmonic: object = 2 * precision * recall / np.where(total > 0, total, 1.0)
            out["f1" + name.removeprefix("precision")] = cast(Mean, harmonic)
    return out


def index_metrics(
    judged: Judged,
    ks: Iterable[int],
    protocol: Protocol,
    users: Sequence[str | None] | None = None,
    popularity_V: ArrayLike | None = None,
) -> dict[str, float]:
    """Every metric of this module's head, and `posts`. `popularity_V` is the share of train posts with each tag; the user
    means need `users`, novelty needs `popularity_V`. 50,000 lists of 10 take well under a second."""
    cuts = _checked(ks)
    scores = post_scores(judged, cuts, protocol)
    chosen = judged.selected(protocol)
    posts = int(chosen.sum())
    means = {name: values.mean() if posts else np.float64(0) for name, values in scores.items()}
    if users is not None:
        codes = user_codes(users)[chosen]
        macro = [name for name in scores if name.startswith(("precision_at_", "recall_at_", "hit_rate_at_"))]
        sums, sizes = user_sums({name: scores[name] for name in macro}, codes)
        for column, name in enumerate(macro):
            means[f"{name}_user_macro"] = (sums[:, column] / sizes).mean() if posts else np.float64(0)
    out = {"posts": float(posts), **{name: float(value) for name, value in with_f1(means).items()}}
    ranked = judged.widened(max(cuts)).ranked_NK[chosen]
    return out | _catalogue(
        ranked[(ranked >= 0) & (ranked < judged.vocabulary_size)], judged.vocabulary_size, popularity_V
    )


def ranking_metrics(
    recommended: Sequence[Sequence[str]],
    truth: Sequence[Sequence[str]],
    vocabulary: Sequence[str],
    ks: Iterable[int],
    protocol: Protocol,
    users: Sequence[str | None] | None = None,
    popularity: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """`index_metrics` of lists of tags by name; `popularity` is the share of train posts with each tag of the vocabulary."""
    shares = None if popularity is None else [popularity.get(tag, 0.0) for tag in vocabulary]
    return index_metrics(judge_tags(recommended, truth, vocabulary), ks, protocol, users, shares)


def user_codes(users: Sequence[str | None]) -> Integers:
    """A number for each post's user; a post without one has its own."""
    codes: dict[object, int] = {}
    return np.fromiter(
        (codes.setdefault(user if user is not None else (row,), len(codes)) for row, user in enumerate(users)),
        dtype=np.int64,
        count=len(users),
    )


def user_sums(scores: Mapping[str, Floats], codes: Integers) -> tuple[Floats, Floats]:
    """sums_UM of every metric over each user's posts, and the number of posts_U; users without a post are left out."""
    _, dense = np.unique(codes, return_inverse=True)
    sizes = np.bincount(dense).astype(np.float64)
    sums = [np.bincount(dense, weights=values, minlength=len(sizes)) for values in scores.values()]
    return np.stack(sums, axis=1) if sums else np.zeros((len(sizes), 0)), sizes


def bleu(hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """`bleu_1` .. `bleu_4` in [0, 1]: corpus BLEU of the recommended sequence against the tags in the author's order.

    Computed by sacrebleu with one tag a token (`tokenize=none`, exponential smoothing, its default). `bleu_n` counts
    n-grams of 1 to n. `bleu_4_batch_mean` is the mean over consecutive batches of 16 posts, as article 004 has it.
    Posts without a true tag are left out; without any post every figure is 0.
    """
    from sacrebleu.metrics import BLEU

    pairs = [
        (" ".join(ours), " ".join(theirs)) for ours, theirs in zip(hypotheses, references, strict=True) if len(theirs)
    ]

    def score(part: list[tuple[str, str]], order: int) -> float:
        ours, theirs = zip(*part, strict=True)
        scorer = BLEU(tokenize="none", max_ngram_order=order, force=True)
        return float(scorer.corpus_score(list(ours), [list(theirs)]).score) / 100

    if not pairs:
        return dict.fromkeys(["bleu_1", "bleu_2", "bleu_3", "bleu_4", "bleu_4_batch_mean"], 0.0)
    out = {f"bleu_{order}": score(pairs, order) for order in range(1, 5)}
    batches = [pairs[start : start + BATCH_OF_004] for start in range(0, len(pairs), BATCH_OF_004)]
    out["bleu_4_batch_mean"] = float(np.mean([score(batch, 4) for batch in batches]))
    return out


def _catalogue(recommended: Integers, vocabulary_size: int, popularity_V: ArrayLike | None) -> dict[str, float]:
    counts = np.sort(np.bincount(recommended, minlength=vocabulary_size)).astype(np.float64)
    total = counts.sum()
    out = {"coverage": 0.0, "gini": 0.0}
    if total:
        order = np.arange(1, vocabulary_size + 1)
        out["coverage"] = float((counts > 0).mean())
        out["gini"] = float((2 * order - vocabulary_size - 1) @ counts / (vocabulary_size * total))
    if popularity_V is not None:
        shares = np.asarray(popularity_V, dtype=np.float64)[recommended]
        shares = shares[shares > 0]
        out["novelty"] = float(-np.log2(shares).mean()) if len(shares) else 0.0
    return out


def _checked(ks: Iterable[int]) -> list[int]:
    cuts = sorted(set(ks))
    if not cuts or cuts[0] < 1:
        raise ValueError(f"ks: expected places from 1 on, found {cuts}")
    return cuts
