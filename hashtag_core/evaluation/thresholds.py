"""Lists cut by confidence instead of length (article 002): every tag whose score reaches a threshold is recommended.

The threshold is chosen where the model is selected, on validation, and used as it stands on the test split.

(Articles by number: docs/models.md.)
"""

from dataclasses import dataclass

import numpy as np

from hashtag_core.evaluation.metrics import Floats, Judged, Protocol
from hashtag_core.evaluation.report_record import ThresholdedRecord

MAX_CANDIDATES = 256


@dataclass(frozen=True)
class Thresholded:
    """Figures of lists cut at `threshold`, within the places that were ranked.

    `precision` is the mean of |R ∩ G| / |R|, 0 for an empty list; `recall` the mean of |R ∩ G| / |G|; `f1` the harmonic
    mean of the two; `mean_length` the mean of |R|.
    """

    threshold: float
    precision: float
    recall: float
    f1: float
    mean_length: float
    posts: int

    def as_record(self, protocol: Protocol) -> ThresholdedRecord:
        """As reports hold it."""
        return {
            "protocol": protocol,
            "threshold": self.threshold,
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
            "mean_length": self.mean_length,
            "posts": self.posts,
        }


def choose_threshold(judged: Judged, scores_NK: Floats, protocol: Protocol) -> float:
    """The threshold of the best f1, the higher one of two that are equal; 0 where no post counts.

    Up to 256 quantiles of the scores that occur are tried.
    """
    scores = np.where(judged.ranked_NK >= 0, np.asarray(scores_NK, dtype=np.float64), -np.inf)
    seen = scores[judged.selected(protocol)]
    seen = seen[np.isfinite(seen)]
    if not len(seen):
        return 0.0
    candidates = np.unique(np.quantile(seen, np.linspace(0, 1, MAX_CANDIDATES), method="nearest"))
    figures = [threshold_metrics(judged, scores_NK, float(candidate), protocol).f1 for candidate in candidates]
    return float(candidates[len(figures) - 1 - int(np.argmax(figures[::-1]))])


def threshold_metrics(judged: Judged, scores_NK: Floats, threshold: float, protocol: Protocol) -> Thresholded:
    """Figures of the lists cut at the threshold."""
    chosen = judged.selected(protocol)
    posts = int(chosen.sum())
    if not posts:
        return Thresholded(threshold, 0.0, 0.0, 0.0, 0.0, 0)
    ranked = judged.ranked_NK[chosen]
    kept = (ranked >= 0) & (np.asarray(scores_NK)[chosen] >= threshold)
    hits = judged.hits_NK[chosen] & kept
    truth = judged.truth_N[chosen]
    if protocol == "papers":
        hits = hits & (ranked < judged.vocabulary_size)
        truth = judged.known_N[chosen]
    found, length = hits.sum(axis=1), kept.sum(axis=1)
    precision = float((found / np.maximum(length, 1)).mean())
    recall = float((found / truth).mean())
    f1 = 2 * precision * recall / (precision + recall) if found.any() else 0.0
    return Thresholded(threshold, precision, recall, f1, float(length.mean()), posts)
