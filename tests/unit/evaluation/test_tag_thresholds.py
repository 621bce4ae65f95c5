"""Thresholds of single tags, by hand and against scikit-learn."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import precision_recall_curve

from hashtag_core.evaluation.tag_thresholds import Batches, TagThresholds, choose_tag_thresholds

TINY = np.finfo(np.float32).tiny


def batches_of(scores: np.ndarray, size: int = 3) -> Batches:
    def read() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(scores), size):
            rows = np.arange(start, min(start + size, len(scores)))
            yield rows, scores[rows].astype(np.float32)

    return read


def test_by_hand() -> None:
    scores = np.array(
        #  good  weak  rare  empty never
        [
            [0.9, 0.10, 0.6, 0.0, 0.7],
            [0.8, 0.90, 0.7, 0.0, 0.1],
            [0.5, 0.80, 0.1, 0.0, 0.2],
            [0.5, 0.05, 0.2, 0.0, 0.3],
            [0.2, 0.70, 0.3, 0.0, 0.4],
        ]
    )
    truth = [[0, 2, 2], [0], [0, 3], [1], []]
    found = choose_tag_thresholds(batches_of(scores), truth, 5, fbr=0.4, min_posts=1)
    # good: from 0.9 on 1 of 3 (F1 1/2), from 0.8 on 2 of 3 (4/5), from 0.5 on 3 of 4 given (6/7).
    # weak: only from 0.05 on, given to all five: 2/6, which is below 0.4. rare: 2/3 from 0.6 on.
    # empty: never scored; its one post is found by giving it to all: 2/6.
    assert found.least_V.tolist() == pytest.approx([0.5, 0.9, 0.6, TINY, np.nan], nan_ok=True)
    assert found.f1_V.tolist() == pytest.approx([6 / 7, 1 / 3, 2 / 3, 1 / 3, 0])
    assert found.raised_V.tolist() == [False, True, False, True, False]
    few = choose_tag_thresholds(batches_of(scores), truth, 5, fbr=0, min_posts=3)
    assert few.least_V.tolist() == pytest.approx([0.5, 0.9, 0.7, TINY, np.nan], nan_ok=True)
    assert few.raised_V.tolist() == [False, True, True, True, False]
    free = choose_tag_thresholds(batches_of(scores), truth, 5, fbr=0, min_posts=1)
    assert free.least_V.tolist() == pytest.approx([0.5, 0.05, 0.6, 0.0, np.nan], nan_ok=True)


def test_of_two_with_the_same_f1_the_higher_one() -> None:
    """From 0.9 on 1 of 2 with one given (2/3), from 0.3 on both with four given (2/3)."""
    scores = np.array([[0.9], [0.5], [0.4], [0.3]])
    found = choose_tag_thresholds(batches_of(scores), [[0], [], [], [0]], 1, min_posts=1)
    assert found.least_V.tolist() == pytest.approx([0.9])


def test_nothing_to_choose_from() -> None:
    for scores, truth in ((np.zeros((0, 2)), []), (np.array([[0.5, 0.2]]), [[]])):
        found = choose_tag_thresholds(batches_of(scores), truth, 2)
        assert np.isnan(found.least_V).all()
        assert not found.raised_V.any()
    assert len(choose_tag_thresholds(batches_of(np.zeros((2, 0))), [[], []], 0).least_V) == 0


def drawn(draw: Callable) -> tuple[np.ndarray, np.ndarray]:
    posts, tags = draw(st.integers(1, 25)), draw(st.integers(1, 6))
    few = st.sampled_from([0.0, -0.0, 1e-42, 0.25, 0.5, 1.0])  # ties, and numbers below the smallest normal one
    values = few if draw(st.booleans()) else st.floats(0, 1, width=32)
    return draw(arrays(np.float32, (posts, tags), elements=values)), draw(arrays(np.bool_, (posts, tags)))


def chosen(scores: np.ndarray, labels: np.ndarray, size: int, fbr: float, min_posts: int) -> TagThresholds:
    truth = [np.flatnonzero(row).tolist() for row in labels]
    return choose_tag_thresholds(batches_of(scores, size), truth, scores.shape[1], fbr, min_posts)


@given(st.composite(drawn)(), st.integers(1, 30))
def test_the_best_f1_is_that_of_scikit_learn(case: tuple[np.ndarray, np.ndarray], size: int) -> None:
    scores, labels = case
    found = chosen(scores, labels, size, 0.0, 0)
    for tag in range(scores.shape[1]):
        if not labels[:, tag].any():
            assert np.isnan(found.least_V[tag])
            continue
        precision, recall, thresholds = precision_recall_curve(labels[:, tag], scores[:, tag])
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        assert found.f1_V[tag] == pytest.approx(f1[:-1].max())
        assert found.least_V[tag] == thresholds[np.flatnonzero(f1[:-1] >= f1[:-1].max() - 1e-12)[-1]]


@given(st.composite(drawn)(), st.floats(0, 1), st.integers(0, 5))
def test_a_raised_threshold_leaves_only_the_surest_posts(
    case: tuple[np.ndarray, np.ndarray], fbr: float, min_posts: int
) -> None:
    scores, labels = case
    free, found = chosen(scores, labels, 4, 0.0, 0), chosen(scores, labels, 4, fbr, min_posts)
    expected = labels.any(axis=0) & ((free.f1_V < fbr) | (labels.sum(axis=0) < min_posts))
    assert np.array_equal(found.raised_V, expected)
    assert np.array_equal(found.least_V[~expected], free.least_V[~expected], equal_nan=True)
    raised = found.least_V[expected]
    assert (raised >= np.maximum(scores.max(axis=0), TINY)[expected]).all()
    assert (raised > 0).all()
