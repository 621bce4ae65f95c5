"""A threshold for each tag, chosen on validation: SCutFBR.1 (Yang 2001, "A study of thresholding strategies for text
categorization"; the F1 below which it falls back, `fbr`, as in Fan & Lin 2007, "A study on threshold selection for
multi-label classification").

Shape legend: B posts of a batch, V tags, P pairs of a post and one of its true tags, C candidates (the distinct scores of
each tag among its own posts).

A tag's threshold is the score from which on giving it has the best F1, the higher score where two are equal. That is
always the score of a post that has the tag: between two of those only false alarms differ. So a first reading takes the
scores of the true pairs, a second one counts how many posts reach them, and memory is that of P numbers and one batch.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hashtag_core.evaluation.metrics import Booleans, Floats, Integers

Scores = NDArray[np.float32]
Batches = Callable[[], Iterable[tuple[Integers, Scores]]]
"""Row numbers and scores_BV in [0, 1] of the posts, a batch at a time; called twice, with the same scores both times."""

FBR = 0.1
MIN_POSTS = 3


@dataclass(frozen=True)
class TagThresholds:
    """What was chosen for each tag."""

    least_V: Scores
    """The least score; NaN for a tag that none of the posts has, of which nothing is known."""
    f1_V: Floats
    """The best F1 of the tag on these posts, 0 for one that none of them has."""
    raised_V: Booleans
    """Where the threshold is not that of the best F1, but the tag's highest score."""


def choose_tag_thresholds(
    scored: Batches,
    truth: Sequence[Sequence[int]],
    vocabulary_size: int,
    fbr: float = FBR,
    min_posts: int = MIN_POSTS,
) -> TagThresholds:
    """The threshold of each tag. `truth`: the vocabulary indices of every row's tags, repeats allowed.

    A best F1 below `fbr`, or one found on fewer than `min_posts` posts with the tag, is no ground to give the tag freely:
    the threshold is then the highest score that any post has for it, so that it is given only where the model is as sure
    as it has ever been, and above 0 in any case. A tag that no post has gets none: without evidence it is left as it is.
    """
    tags: list[Integers] = [np.zeros(0, np.int64)]
    scores: list[Scores] = [np.zeros(0, np.float32)]
    highest_V = np.zeros(vocabulary_size, np.float32)
    for rows, scores_BV in scored():
        highest_V = np.maximum(highest_V, scores_BV.max(axis=0, initial=0))
        for row, scores_V in zip(rows, scores_BV, strict=True):
            tags.append(np.unique(np.asarray(truth[int(row)], np.int64)))
            scores.append(scores_V[tags[-1]])
    tags_P, scores_P = np.concatenate(tags), np.concatenate(scores)
    keys_C, pairs_C, hits_C = np.unique(_keys(tags_P, scores_P), return_index=True, return_counts=True)
    tags_C, scores_C = tags_P[pairs_C], scores_P[pairs_C]
    begin_V, end_V = (np.searchsorted(tags_C, np.arange(vocabulary_size), side) for side in ("left", "right"))
    known_V = begin_V < end_V
    lowest_V = np.full(vocabulary_size, np.inf, np.float32)
    lowest_V[known_V] = scores_C[begin_V[known_V]]
    given_C = np.zeros(len(keys_C), np.int64)
    for _, scores_BV in scored():
        posts, reached = np.nonzero(scores_BV >= lowest_V)
        places = np.searchsorted(keys_C, _keys(reached, scores_BV[posts, reached]), "right") - 1
        given_C += np.bincount(places, minlength=len(keys_C))
    posts_V = np.bincount(tags_P, minlength=vocabulary_size)
    found_C, given_C = (_upwards(counts, end_V[tags_C]) for counts in (hits_C, given_C))
    f1_C = 2 * found_C / (given_C + posts_V[tags_C])
    best = np.lexsort((scores_C, f1_C, tags_C))[end_V[known_V] - 1]
    least_V, f1_V = np.full(vocabulary_size, np.nan, np.float32), np.zeros(vocabulary_size)
    least_V[known_V], f1_V[known_V] = scores_C[best], f1_C[best]
    raised_V = known_V & ((f1_V < fbr) | (posts_V < min_posts))
    least_V[raised_V] = np.maximum(highest_V, np.finfo(np.float32).tiny)[raised_V]
    return TagThresholds(least_V, f1_V, raised_V)


def _keys(tags: Integers, scores: Scores) -> Integers:
    """Numbers in the order of (tag, score): the bits of a float that is not negative are in the order of its values."""
    bits = (scores + np.float32(0)).view(np.uint32)  # -0.0 becomes 0.0
    return (tags.astype(np.int64) << 32) | bits.astype(np.int64)


def _upwards(counts_C: Integers, end_C: Integers) -> Integers:
    """The sum of each candidate's count and those of the higher ones of its tag, which are before `end_C`."""
    sums: Integers = np.append(counts_C[::-1].cumsum()[::-1], 0)
    return np.subtract(sums[:-1], sums[end_C])
