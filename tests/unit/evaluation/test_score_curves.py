"""Precision and recall over thresholds, calibration and confused tags, worked by hand and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve

from hashtag_core.evaluation.metrics import judge
from hashtag_core.evaluation.score_curves import Bin, PairCalibration, calibration, confused_tags, precision_recall

RANKED = [[0, 1, 2], [3, 0, -1], [1, 2, 3]]
TRUTH = [[0, 2, 9], [0], []]
SCORES = np.array([[0.9, 0.5, 0.4], [0.8, 0.5, 0.0], [0.99, 0.9, 0.9]])
"""The third post has no true tag and counts nowhere; place [1, 2] is empty; 9 is outside a vocabulary of 4."""


def test_precision_and_recall_by_hand() -> None:
    found = precision_recall(judge(RANKED, TRUTH, 4), SCORES, "headline")
    assert found == [
        (0.9, 1 / 1, 1 / 4),
        (0.8, 1 / 2, 1 / 4),
        (0.5, 2 / 4, 2 / 4),
        (0.4, 3 / 5, 3 / 4),
    ]
    papers = precision_recall(judge(RANKED, TRUTH, 4), SCORES, "papers")
    assert papers[-1] == (0.4, 3 / 5, 3 / 3)


def test_nothing_to_judge_gives_no_point() -> None:
    judged = judge(np.zeros((0, 3), int), [], 4)
    assert precision_recall(judged, np.zeros((0, 3)), "headline") == []
    assert calibration(judged, np.zeros((0, 3)), "headline") == ([], 0.0)
    assert confused_tags(judged, [], 3) == []


@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 7, 50]))
def test_precision_is_that_of_scikit_learn(seed: int, points: int) -> None:
    """Over whole lists, where every true tag has a place, both mean the same; fewer points are some of them."""
    chosen = np.random.default_rng(seed)
    n, v = 6, 5
    ranked = np.array([chosen.permutation(v) for _ in range(n)])
    scores = chosen.integers(0, 8, (n, v)) / 8
    truth = [chosen.choice(v, chosen.integers(1, v), replace=False).tolist() for _ in range(n)]
    judged = judge(ranked, truth, v)
    precision, recall, thresholds = precision_recall_curve(judged.hits_NK.ravel(), scores.ravel())
    expected = dict(zip(thresholds.tolist(), zip(precision.tolist(), recall.tolist(), strict=False), strict=False))
    found = precision_recall(judged, scores, "headline", points)
    assert 1 <= len(found) <= points
    for threshold, precise, recalled in found:
        assert expected[threshold] == pytest.approx((precise, recalled))


def test_calibration_by_hand() -> None:
    bins, error = calibration(judge(RANKED, TRUTH, 4), SCORES, "headline", bins=2)
    assert bins == [Bin(1, 0.4, 1.0), Bin(4, pytest.approx((0.9 + 0.8 + 0.5 + 0.5) / 4), 0.5)]
    assert error == pytest.approx(1 / 5 * 0.6 + 4 / 5 * (2.7 / 4 - 0.5))


def test_a_perfect_score_is_calibrated() -> None:
    judged = judge([[0, 1], [0, 1]], [[0], [0]], 2)
    assert calibration(judged, np.array([[1.0, 0.0], [1.0, 0.0]]), "headline")[1] == 0


def test_calibration_over_all_pairs_by_hand() -> None:
    """Two bins; the third post has no true tag, a score below 0 is of a tag that may not be given: both are left out. The only true
    tag of the fourth is none of these."""
    pairs = PairCalibration(bins=2)
    assert pairs.error == 0
    pairs.add(np.array([[0.9, 0.2, 0.1]], np.float32), np.array([[True, False, False]]), np.array([True]))
    scores, none = np.array([[0.7, -1.0, 0.4], [1.0, 1.0, 1.0], [-1.0, -1.0, 0.3]]), [False] * 3
    pairs.add(scores, np.array([[False, True, True], none, none]), np.array([True, False, True]))
    low = abs(0.2 + 0.1 + 0.4 + 0.3 - 1) / 6
    assert pairs.error == pytest.approx(low + abs(0.9 + 0.7 - 1) / 6)


def test_confused_tags_by_hand() -> None:
    """Tag 0 is missed three times, 5 stands wrongly in four posts, both in three of six: 3 where chance has 3 * 4 / 6 = 2."""
    truth = [[0], [0], [0], [1], [1], [2]]
    ranked = [[5, 1], [5, 1], [5, 2], [5, 1], [1, 3], [2, 3]]
    found = confused_tags(judge(ranked, truth, 6), truth, 2)
    assert (0, 5, 3, 1.5) in found
    assert (0, 1, 2, 2.0) in found
    assert found[0] == (0, 1, 2, 2.0), "(2 - 1) / 1 is more than (3 - 2) / sqrt(2)"
    assert len(found) == 2, "what happened once is no pair"
