"""Bootstrap over users: against scipy, by coverage and by what must not matter."""

import time

import numpy as np
import pytest
from scipy import stats

from hashtag_core.evaluation.metrics import index_metrics, judge, post_scores
from hashtag_core.evaluation.significance import bootstrap, every_pair, holm, paired_difference, slice_contrast


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


def test_paired_difference_against_scipy():
    rng = np.random.default_rng(7)
    first, second = rng.beta(3, 5, 300), rng.beta(2, 5, 300)
    ours = paired_difference({"ndcg_at_5": first}, {"ndcg_at_5": second}, one_each(300), samples=4000)["ndcg_at_5"]
    theirs = stats.bootstrap(
        (first, second),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        paired=True,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(1),
    )
    assert ours.value == pytest.approx(first.mean() - second.mean())
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.002)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.002)


def test_holm_by_hand():
    """Of 4: .01 * 4, .02 * 3, then .03 * 2 = .06 is that again, .5 * 1; in the order they came in."""
    assert holm([0.5, 0.01, 0.03, 0.02]) == pytest.approx([0.5, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_every_pair_is_the_paired_difference_with_draws_enough_for_all():
    rng = np.random.default_rng(0)
    users = [f"u{n // 3}" for n in range(60)]
    scores = {
        name: {f"{metric}_at_5": rng.random(60) + shift for metric in ("precision", "recall")}
        for name, shift in (("a", 0.3), ("b", 0.0), ("c", 0.0))
    }
    found = every_pair(scores, users, "f1_at_5", samples=200, seed=1)
    assert list(found) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert found["a", "b"] == paired_difference(scores["a"], scores["b"], users, 200, seed=1)["f1_at_5"]
    few = every_pair(scores, users, "f1_at_5", samples=10, seed=1)
    assert few["a", "b"].p_value == pytest.approx(2 / 151)  # 50 draws a pair, not 10
    assert holm([each.p_value for each in few.values()])[0] < 0.05
    assert every_pair({"a": scores["a"]}, users, "f1_at_5") == {}


def test_slice_contrast_against_a_plain_loop():
    """Six users, each drawn as often as the same generator says; harmonic means formed by hand."""
    rng = np.random.default_rng(4)
    users = [f"u{n % 6}" for n in range(40)]
    inside, against = np.arange(40) < 15, np.arange(40) >= 25
    pair = [{name: rng.random(40) for name in ("precision_at_2", "recall_at_2")} for _ in range(2)]
    found = slice_contrast(*pair, users, inside, against, samples=50, seed=9)
    assert set(found) == {"precision_at_2", "recall_at_2", "f1_at_2"}

    def gain(posts: list[int]) -> float:
        f1 = []
        for scores in pair:
            precision, recall = (scores[name][posts].mean() for name in ("precision_at_2", "recall_at_2"))
            f1.append(2 * precision * recall / (precision + recall))
        return f1[0] - f1[1]

    draws = []
    again = np.random.default_rng(9)
    for _ in range(50):
        posts = [post for user in again.integers(0, 6, 6) for post in range(40) if users[post] == f"u{user}"]
        draws.append(gain([n for n in posts if inside[n]]) - gain([n for n in posts if against[n]]))
    difference = found["f1_at_2"]
    assert difference.value == pytest.approx(gain(list(range(15))) - gain(list(range(25, 40))))
    assert (difference.low, difference.high) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])))


def test_slice_contrast_of_an_empty_slice_or_of_draws_without_it():
    scores = {"m": np.array([1.0, 0.0, 1.0])}
    none = np.zeros(3, bool)
    assert slice_contrast(scores, scores, one_each(3), none, ~none) == {}
    first_only = np.array([True, False, False])
    found = slice_contrast(scores, {"m": np.zeros(3)}, one_each(3), first_only, ~first_only, samples=200)["m"]
    assert found.value == pytest.approx(0.5)
    assert np.isfinite([found.low, found.high]).all()


def test_many_posts_are_fast():
    rng = np.random.default_rng(0)
    scores = {f"m{n}": rng.random(50_000) for n in range(20)}
    started = time.process_time()
    bootstrap(scores, [f"u{n % 10_000}" for n in range(50_000)], samples=300)
    assert time.process_time() - started < 10
