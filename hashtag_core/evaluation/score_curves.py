"""What scores are worth: precision and recall over thresholds, and whether a score is the share of hits that it looks like.

N posts, K places. Every figure is micro: over places of lists, not over posts.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hashtag_core.evaluation.metrics import Judged, Protocol
from hashtag_core.evaluation.report_record import BinRecord

POINTS = 50
BINS = 10


@dataclass(frozen=True)
class Bin:
    """Places with a score in one tenth of [0, 1]: their mean score and the share that is true."""

    places: int
    mean_score: float
    hit_share: float

    def as_record(self) -> BinRecord:
        """As reports hold it."""
        return {"places": self.places, "mean_score": self.mean_score, "hit_share": self.hit_share}


def precision_recall(
    judged: Judged, scores_NK: NDArray, protocol: Protocol, points: int = POINTS
) -> list[tuple[float, float, float]]:
    """(threshold, precision, recall) from the highest score down, at most `points` of them, evenly spaced in rank.

    A place counts if its score is at least the threshold; recall is of all true tags of the posts that count, so that it ends
    below 1 where the lists are shorter than the vocabulary. Equal scores stay together. Empty without a place or a true tag.
    """
    scores, hits, truth = _places(judged, scores_NK, protocol)
    if not len(scores) or not truth:
        return []
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], hits[order].cumsum()
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    if len(last) > points:
        last = last[np.unique(np.linspace(0, len(last) - 1, points).round().astype(int))]
    return [(float(scores[at]), float(hits[at] / (at + 1)), float(hits[at] / truth)) for at in last]


def calibration(judged: Judged, scores_NK: NDArray, protocol: Protocol, bins: int = BINS) -> tuple[list[Bin], float]:
    """Bins of equal width that hold a place, and the expected calibration error: the mean over places of
    |mean score - hit share| of their bin (Naeini et al. 2015). The error is 0 without a place."""
    scores, hits, _ = _places(judged, scores_NK, protocol)
    found, error = [], 0.0
    at = np.minimum((scores * bins).astype(int), bins - 1)
    for number in range(bins):
        inside = at == number
        if inside.any():
            one = Bin(int(inside.sum()), float(scores[inside].mean()), float(hits[inside].mean()))
            found.append(one)
            error += one.places / len(scores) * abs(one.mean_score - one.hit_share)
    return found, error


class PairCalibration:
    """The expected calibration error over all pairs of a post and a tag of the vocabulary, from scores that come some posts at a
    time (bins as of `calibration`; posts with a true tag, protocol headline). Nearly all pairs are untrue: what it weighs is
    whether small scores are small enough; that of the first tags of a list is `calibration`'s."""

    def __init__(self, bins: int = BINS) -> None:
        self.bins = bins
        self.seconds = 0.0
        """What it took, which is no part of ranking: for who counts to add to."""
        self._places, self._scores, self._hits = (np.zeros(bins) for _ in range(3))

    def add(self, scores_BV: NDArray, true_BV: NDArray, has_truth_B: NDArray) -> None:
        """Scores in [0, 1], those below 0 left out, which tags are true of each post, and whether any tag is, of these or others."""
        counted = (scores_BV >= 0) & has_truth_B[:, None]
        scores, hits = scores_BV[counted].astype(np.float64), true_BV[counted].astype(np.float64)
        at = np.minimum((scores * self.bins).astype(int), self.bins - 1)
        self._places += np.bincount(at, minlength=self.bins)
        self._scores += np.bincount(at, weights=scores, minlength=self.bins)
        self._hits += np.bincount(at, weights=hits, minlength=self.bins)

    def merge(self, other: "PairCalibration") -> None:
        """Take the pairs of another one, of as many bins."""
        self._places += other._places
        self._scores += other._scores
        self._hits += other._hits
        self.seconds += other.seconds

    @property
    def error(self) -> float:
        """0 without a pair."""
        total = self._places.sum()
        return float(np.abs(self._scores - self._hits).sum() / total) if total else 0.0


def confused_tags(judged: Judged, truth: list[list[int]], k: int, most: int = 15) -> list[tuple[int, int, int, float]]:
    """(true tag, tag given in its place, posts, times as often as by chance), the most telling first.

    A pair is counted in a post where the true tag is not within the first k and the other is, without being true. By chance:
    both would occur as often as they do, but independently. Order: (found - expected) / sqrt(expected); one post is no pair.
    """
    pairs: dict[tuple[int, int], int] = {}
    missed: dict[int, int] = {}
    wrong: dict[int, int] = {}
    for row, tags in enumerate(truth):
        first = [int(tag) for tag in judged.ranked_NK[row, :k] if tag >= 0]
        lost, instead = set(tags) - set(first), set(first) - set(tags)
        if not tags:
            continue
        for tag in lost:
            missed[tag] = missed.get(tag, 0) + 1
        for tag in instead:
            wrong[tag] = wrong.get(tag, 0) + 1
        for pair in ((one, other) for one in lost for other in instead):
            pairs[pair] = pairs.get(pair, 0) + 1
    posts = max(1, sum(1 for tags in truth if tags))
    rows = []
    for (one, other), found in pairs.items():
        expected = missed[one] * wrong[other] / posts
        if found > max(1.0, expected):
            rows.append(((found - expected) / expected**0.5, one, other, found, found / expected))
    rows.sort(key=lambda row: (-row[0], row[1], row[2]))
    return [(one, other, found, lift) for _, one, other, found, lift in rows[:most]]


def _places(judged: Judged, scores_NK: NDArray, protocol: Protocol) -> tuple[NDArray, NDArray, int]:
    """Scores and hits of every filled place of the posts that count, and their true tags."""
    chosen = judged.selected(protocol)
    filled = judged.ranked_NK[chosen] >= 0
    truth = judged.truth_N if protocol != "papers" else judged.known_N
    return scores_NK[chosen][filled].astype(np.float64), judged.hits_NK[chosen][filled], int(truth[chosen].sum())
