"""Bootstrap over users: against scipy, by coverage and by what must not matter."""

import time

import numpy as np
import pytest
from scipy import stats

from hashtag_core.evaluation.metrics import index_metrics, judge, post_scores
from hashtag_core.evaluation.significance import bootstrap, paired_difference


def one_each(count):
    return [f"u{n}" for n in range(count)]


def test_against_scipy_where_every_user_has_one_post():
    values = np.random.default_rng(3).beta(2, 5, 400)
    ours = bootstrap({"ndcg_at_5": values}, one_each(400), samples=4000)["ndcg_at_5"]
    theirs = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1))
    assert ours.value == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.002)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.002)


def test_posts_of_one_user_move_together():
    values = np.repeat(np.random.default_rng(0).random(50), 20)
    together = bootstrap({"m": values}, [f"u{n // 20}" for n in range(1000)])["m"]
    apart = bootstrap({"m": values}, [None] * 1000)["m"]
    ratio = (together.high - together.low) / (apart.high - apart.low)
    assert ratio == pytest.approx(np.sqrt(20), rel=0.15)


def test_f1_is_formed_from_the_resampled_means():
    rng = np.random.default_rng(5)
    judged = judge(
        np.argsort(rng.random((200, 30)), axis=1)[:, :5], [rng.choice(30, 4, replace=False) for _ in range(200)], 30
    )
    found = bootstrap(post_scores(judged, [1, 5], "floor"), one_each(200))
    metrics = index_metrics(judged, [1, 5], "floor")
    assert {"f1_at_1", "f1_at_5", "precision_at_5", "ndcg_at_1", "mean_average_precision"} <= set(found)
    for name, interval in found.items():
        assert interval.value == pytest.approx(metrics[name])
        assert interval.low <= interval.value <= interval.high


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(11)
    held = sum(
        found.low <= 0.3 <= found.high
        for _ in range(200)
        for found in [
            bootstrap(
                {"m": (rng.random(120) < 0.3).astype(float)}, one_each(120), samples=300, seed=int(rng.integers(1e9))
            )["m"]
        ]
    )
    assert 0.89 <= held / 200 <= 0.99


def test_seeds():
    values = {"m": np.random.default_rng(0).random(60)}
    assert bootstrap(values, one_each(60), seed=1) == bootstrap(values, one_each(60), seed=1)
    assert bootstrap(values, one_each(60), seed=1) != bootstrap(values, one_each(60), seed=2)


def test_nothing_to_draw():
    assert bootstrap({"m": np.array([])}, []) == {}
    assert bootstrap({"m": np.ones(3)}, one_each(3), samples=0) == {}
    assert paired_difference({"m": np.ones(3)}, {"m": np.ones(3)}, one_each(3), samples=0) == {}


def test_paired_difference():
    rng = np.random.default_rng(2)
    hard = rng.random(300)
    first = {"precision_at_1": hard + 0.02, "recall_at_1": hard + 0.02, "only_here": hard}
    second = {"precision_at_1": hard + rng.normal(0, 0.01, 300), "recall_at_1": hard}
    found = paired_difference(first, second, one_each(300))
    assert set(found) == {"precision_at_1", "recall_at_1", "f1_at_1"}
    # far apart though the two intervals alone overlap widely: that is what pairing is for
    assert found["precision_at_1"].low > 0.015
    assert found["precision_at_1"].p_value < 0.01
    same = paired_difference(first, first, one_each(300))["precision_at_1"]
    assert (same.value, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_many_posts_are_fast():
    rng = np.random.default_rng(0)
    scores = {f"m{n}": rng.random(50_000) for n in range(20)}
    started = time.process_time()
    bootstrap(scores, [f"u{n % 10_000}" for n in range(50_000)], samples=300)
    assert time.process_time() - started < 10
