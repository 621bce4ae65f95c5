"""How far scores are probabilities: what a model gives a tag against how often the author used it."""

import numpy as np
from numpy.typing import ArrayLike

from hashtag_core.evaluation.metrics import Judged, Protocol


def calibration_error(judged: Judged, scores_NK: ArrayLike, protocol: Protocol, k: int, bins: int = 10) -> float:
    """Expected calibration error of the first `k` tags of every counting post, in [0, 1]: the mean distance between score
    and share of hits over `bins` groups of as many tags each, by rising score (Naeini et al. 2015, Nguyen & O'Connor 2015).

    Places without a tag do not count; 0 where no post counts.
    """
    chosen = judged.selected(protocol)
    given = judged.ranked_NK[chosen, :k] >= 0
    scores = np.asarray(scores_NK, dtype=np.float64)[chosen, :k][given]
    hits = judged.hits_NK[chosen, :k][given].astype(np.float64)
    if not len(scores):
        return 0.0
    order = np.argsort(scores, kind="stable")
    groups = np.array_split(order, min(bins, len(order)))
    return float(sum(len(group) * abs(scores[group].mean() - hits[group].mean()) for group in groups) / len(order))
