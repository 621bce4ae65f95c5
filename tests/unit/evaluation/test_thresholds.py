"""Lists that are cut at a score, by hand and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import precision_score, recall_score

from hashtag_core.evaluation.metrics import judge
from hashtag_core.evaluation.thresholds import choose_threshold, threshold_metrics


def test_threshold_by_hand():
    judged = judge([[0, 1], [2, 0], [1, -1]], [[0], [0, 2], [5]], 3)
    scores = np.array([[0.9, 0.4], [0.6, 0.5], [0.3, 0.0]])
    assert choose_threshold(judged, scores, "floor") == 0.5
    found = threshold_metrics(judged, scores, 0.5, "floor")
    assert (found.precision, found.recall, found.f1, found.mean_length, found.posts) == (1.0, 1.0, 1.0, 1.5, 2)
    headline = threshold_metrics(judged, scores, 0.5, "headline")
    assert headline.precision == pytest.approx(2 / 3)
    assert headline.mean_length == pytest.approx(1.0)


def test_threshold_without_posts_or_scores():
    judged = judge(np.zeros((0, 3), dtype=int), [], 3)
    assert choose_threshold(judged, np.zeros((0, 3)), "headline") == 0.0
    assert threshold_metrics(judged, np.zeros((0, 3)), 0.5, "headline").posts == 0
    assert threshold_metrics(judge([[0]], [[0]], 3), np.array([[0.2]]), 0.9, "headline").f1 == 0.0


def test_thresholds_against_scikit_learn():
    rng = np.random.default_rng(4)
    scores = rng.random((150, 20))
    labels = rng.random((150, 20)) < scores * 0.5
    labels[~labels.any(axis=1), 0] = True
    ranked = np.argsort(-scores, axis=1)
    sorted_scores = np.take_along_axis(scores, ranked, axis=1)
    judged = judge(ranked, [np.flatnonzero(row).tolist() for row in labels], 20)
    found = threshold_metrics(judged, sorted_scores, 0.6, "headline")
    options = {"average": "samples", "zero_division": 0}
    assert found.precision == pytest.approx(precision_score(labels, scores >= 0.6, **options))
    assert found.recall == pytest.approx(recall_score(labels, scores >= 0.6, **options))
    assert found.mean_length == pytest.approx((scores >= 0.6).sum(axis=1).mean())
    best = choose_threshold(judged, sorted_scores, "headline")
    tried = [threshold_metrics(judged, sorted_scores, t, "headline").f1 for t in np.linspace(0, 1, 101)]
    assert threshold_metrics(judged, sorted_scores, best, "headline").f1 >= max(tried) - 0.003
