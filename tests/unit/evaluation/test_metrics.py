"""Metrics: by hand, against ranx and scikit-learn, and by property."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashtag_core.evaluation.metrics import (
    PROTOCOLS,
    bleu,
    index_metrics,
    judge,
    judge_tags,
    post_scores,
    ranking_metrics,
    user_codes,
)

VOCABULARY = ["a", "b", "c", "d", "e"]
RECOMMENDED = [["a", "b"], ["c", "a"], ["b", "d"], ["a", "b"]]
TRUTH = [["a", "z"], ["a", "b", "c"], ["y"], []]
"""z and y are outside the vocabulary. Posts that count: headline 0 1 2, papers and floor 0 1."""


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        (
            "headline",
            {
                "posts": 3,
                "precision_at_1": 2 / 3,
                "precision_at_2": (0.5 + 1 + 0) / 3,
                "recall_at_1": (1 / 2 + 1 / 3) / 3,
                "recall_at_2": (1 / 2 + 2 / 3 + 0) / 3,
                "f1_at_2": 2 * 0.5 * (7 / 18) / (0.5 + 7 / 18),
                "f1_per_post_at_2": (2 * 1 / 4 + 2 * 2 / 5 + 0) / 3,
                "hit_rate_at_2": 2 / 3,
                "mean_hits_at_2": 1.0,
                # ideal of two places 1 + 1/log2(3) for posts 0 and 1, of one place for post 2
                "ndcg_at_2": (1 / (1 + 1 / np.log2(3)) + 1 + 0) / 3,
                "mean_average_precision": (1 / 2 + (1 + 1) / 3 + 0) / 3,
                "coverage": 4 / 5,
            },
        ),
        (
            "papers",
            {
                "posts": 2,
                "precision_at_2": 0.75,
                "recall_at_2": (1 + 2 / 3) / 2,
                "ndcg_at_2": 1.0,
                "mean_average_precision": (1 + 2 / 3) / 2,
                "coverage": 3 / 5,
            },
        ),
        ("floor", {"posts": 2, "precision_at_2": 0.75, "recall_at_2": (1 / 2 + 2 / 3) / 2, "mean_hits_at_2": 1.5}),
    ],
)
def test_by_hand(protocol, expected):
    found = ranking_metrics(RECOMMENDED, TRUTH, VOCABULARY, [1, 2], protocol)
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_an_empty_place_and_a_repeat_are_misses():
    found = ranking_metrics([["a"], ["a", "a"]], [["a", "b"], ["a", "b"]], VOCABULARY, [2], "headline")
    assert found["precision_at_2"] == pytest.approx(0.5)
    assert found["recall_at_2"] == pytest.approx(0.5)
    assert ranking_metrics([[]], [["a"]], VOCABULARY, [3], "headline")["precision_at_3"] == 0


def test_a_true_tag_counts_once():
    found = ranking_metrics([["a", "b"]], [["a", "a"]], VOCABULARY, [2], "headline")
    assert (found["recall_at_2"], found["precision_at_2"]) == (1.0, 0.5)


def test_a_list_longer_than_k_is_cut_and_a_k_longer_than_the_list_counts_misses():
    found = ranking_metrics([["b", "a"]], [["a"]], VOCABULARY, [1, 4], "headline")
    assert (found["hit_rate_at_1"], found["precision_at_4"], found["mean_average_precision"]) == (0.0, 0.25, 0.5)


def test_a_tag_outside_the_vocabulary_can_be_recommended_and_counts_in_headline_alone():
    lists, truth = [["new", "a"]], [["new", "a"]]
    assert ranking_metrics(lists, truth, VOCABULARY, [2], "headline")["precision_at_2"] == 1.0
    papers = ranking_metrics(lists, truth, VOCABULARY, [2], "papers")
    assert (papers["precision_at_2"], papers["recall_at_2"]) == (0.5, 1.0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("posts", [0, 2])
def test_no_post_that_counts(protocol, posts):
    found = ranking_metrics([["a"]] * posts, [[]] * posts, VOCABULARY, [1, 5], protocol, ["u"] * posts, {"a": 0.5})
    assert set(found.values()) == {0.0}
    assert {"f1_at_5", "f1_at_5_user_macro", "ndcg_at_1", "novelty", "posts"} <= set(found)


def test_an_empty_vocabulary():
    assert ranking_metrics([[]], [["a"]], [], [1], "headline")["recall_at_1"] == 0


def test_user_means_by_hand():
    # u has posts with precision 1 and 0, v one with 1; the third post's user is unknown and stands for itself
    found = ranking_metrics(
        [["a"], ["a"], ["a"], ["a"]],
        [["a"], ["b"], ["a", "b"], ["b"]],
        VOCABULARY,
        [1],
        "headline",
        ["u", "u", "v", None],
    )
    assert found["precision_at_1"] == 0.5
    assert found["precision_at_1_user_macro"] == pytest.approx((0.5 + 1 + 0) / 3)
    recall = (0.5 + 0.5 + 0) / 3
    assert found["recall_at_1_user_macro"] == pytest.approx(recall)
    assert found["f1_at_1_user_macro"] == pytest.approx(2 * 0.5 * recall / (0.5 + recall))
    assert len(set(user_codes([None, None, "u", "u", ""]))) == 4


def test_catalogue_by_hand():
    found = ranking_metrics(
        [["a"], ["a"], ["b"]], [["a"]] * 3, ["a", "b"], [1], "headline", popularity={"a": 0.5, "b": 0.25}
    )
    assert found["coverage"] == 1.0
    assert found["gini"] == pytest.approx((2 - 1) / (2 * 3))  # counts 1 and 2: mean difference over twice the mean
    assert found["novelty"] == pytest.approx((1 + 1 + 2) / 3)
    one = ranking_metrics([["a"]] * 3, [["a"]] * 3, [str(n) for n in range(99)] + ["a"], [1], "headline")
    assert one["gini"] == pytest.approx(0.99)
    assert one["coverage"] == pytest.approx(0.01)


@pytest.fixture(scope="module")
def random_lists():
    rng = np.random.default_rng(7)
    names = [f"t{n}" for n in range(40)]
    lists = [[names[n] for n in rng.permutation(40)[:10]] for _ in range(300)]
    truth = [[names[n] for n in rng.choice(40, rng.integers(1, 15), replace=False)] for _ in range(300)]
    return names, lists, truth


RANX = """
import json, sys
from ranx import Qrels, Run, evaluate
lists, truth, names = json.load(sys.stdin)
qrels = Qrels({str(n): dict.fromkeys(tags, 1) for n, tags in enumerate(truth)})
run = Run({str(n): {tag: 1 - place / 100 for place, tag in enumerate(tags)} for n, tags in enumerate(lists)})
print(json.dumps({name: float(value) for name, value in evaluate(qrels, run, names).items()}))
"""


def test_against_ranx(random_lists):
    names, lists, truth = random_lists
    pairs = {
        "precision": "precision",
        "recall": "recall",
        "f1": "f1_per_post",
        "hit_rate": "hit_rate",
        "hits": "mean_hits",
        "ndcg": "ndcg",
    }
    wanted = {f"{theirs}@{k}": f"{ours}_at_{k}" for theirs, ours in pairs.items() for k in (1, 5, 10)}
    wanted["map@10"] = "mean_average_precision"
    # in a process of its own, not compiled: ranx compiles for minutes what here runs in one second
    done = subprocess.run(
        [sys.executable, "-c", RANX],
        input=json.dumps([lists, truth, list(wanted)]),
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = json.loads(done.stdout.splitlines()[-1])
    found = ranking_metrics(lists, truth, names, [1, 5, 10], "headline")
    assert [found[name] for name in wanted.values()] == pytest.approx([theirs[name] for name in wanted], abs=1e-9)


def test_against_scikit_learn(random_lists):
    from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, precision_score, recall_score

    names, _, truth = random_lists
    index = {name: n for n, name in enumerate(names)}
    rng = np.random.default_rng(1)
    scores = rng.random((300, 40))
    labels = np.zeros((300, 40), dtype=int)
    for row, tags in enumerate(truth):
        labels[row, [index[tag] for tag in tags]] = 1
    ranked = np.argsort(-scores, axis=1)
    judged = judge(ranked, [[index[tag] for tag in tags] for tags in truth], 40)
    found = index_metrics(judged, [5, 40], "floor")
    assert found["ndcg_at_5"] == pytest.approx(ndcg_score(labels, scores, k=5))
    assert found["mean_average_precision"] == pytest.approx(label_ranking_average_precision_score(labels, scores))
    top = np.zeros_like(labels)
    np.put_along_axis(top, ranked[:, :5], 1, axis=1)
    assert found["precision_at_5"] == pytest.approx(precision_score(labels, top, average="samples"))
    assert found["recall_at_5"] == pytest.approx(recall_score(labels, top, average="samples"))


def test_counts_of_outside_tags_are_the_same_as_ids_for_them():
    ranked = [[0, 1], [2, 3]]
    by_id = judge(ranked, [[0, 5, 6], [7]], 5)
    by_count = judge(ranked, [[0], []], 5, [2, 1])
    for protocol in PROTOCOLS:
        assert index_metrics(by_id, [1, 2], protocol) == index_metrics(by_count, [1, 2], protocol)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="expected 1 ranked lists"):
        judge([[0], [1]], [[0]], 5)
    with pytest.raises(ValueError, match="2 lists for 1 posts"):
        judge_tags([["a"], []], [["a"]], VOCABULARY)
    with pytest.raises(ValueError, match="from 1 on"):
        ranking_metrics([["a"]], [["a"]], VOCABULARY, [0], "headline")


def test_fifty_thousand_posts_take_under_a_second():
    rng = np.random.default_rng(0)
    ranked = np.argsort(rng.random((50_000, 30)), axis=1)[:, :10]
    truth = [row.tolist() for row in ranked[rng.permutation(50_000), 3:8]]
    users = [f"u{n % 5000}" for n in range(50_000)]
    started = time.process_time()
    index_metrics(judge(ranked, truth, 1000), range(1, 11), "headline", users, np.full(1000, 0.1))
    assert time.process_time() - started < 2  # about 0.4 s undisturbed


posts = st.lists(
    st.tuples(
        st.lists(st.sampled_from("abcdexyz"), max_size=6, unique=True),
        st.lists(st.sampled_from("abcdexyz"), max_size=8),
        st.sampled_from(["u", "v", None]),
    ),
    max_size=12,
)


@settings(max_examples=80, deadline=None)
@given(posts, st.sampled_from(PROTOCOLS))
def test_properties(rows, protocol):
    lists, truth, users = [list(part) for part in zip(*rows, strict=True)] if rows else ([], [], [])
    found = ranking_metrics(lists, truth, VOCABULARY, [1, 2, 3, 6], protocol, users)
    assert all(0 <= value <= 1 for name, value in found.items() if name != "posts" and "hits" not in name)
    for k in (1, 2, 3, 6):
        precision, recall, f1 = (found[f"{name}_at_{k}"] for name in ("precision", "recall", "f1"))
        assert min(precision, recall) - 1e-12 <= f1 <= max(precision, recall) + 1e-12
        assert found[f"mean_hits_at_{k}"] == pytest.approx(k * precision)
        assert found[f"hit_rate_at_{k}"] <= found[f"mean_hits_at_{k}"] + 1e-12
    for low, high in ((1, 2), (2, 3), (3, 6)):
        assert found[f"recall_at_{low}"] <= found[f"recall_at_{high}"] + 1e-12
        assert found[f"hit_rate_at_{low}"] <= found[f"hit_rate_at_{high}"] + 1e-12
    # the order of the posts does not matter, nor do posts without truth
    again = ranking_metrics(
        [*lists[::-1], ["a"]], [*truth[::-1], []], VOCABULARY, [1, 2, 3, 6], protocol, [*users[::-1], "w"]
    )
    assert again == pytest.approx(found)
    # a true tag put in front never hurts
    better = [
        [true[0], *tags] if true and true[0] not in tags else tags for tags, true in zip(lists, truth, strict=True)
    ]
    first = ranking_metrics(better, truth, VOCABULARY, [1, 2, 3, 6], "headline")
    assert (
        first["hit_rate_at_1"] >= ranking_metrics(lists, truth, VOCABULARY, [1, 2, 3, 6], "headline")["hit_rate_at_1"]
    )


@settings(max_examples=60, deadline=None)
@given(posts, st.sampled_from(PROTOCOLS))
def test_against_sets(rows, protocol):
    """The definitions once more, with sets, post by post."""
    k, kept = 3, []
    for tags, true, _ in rows:
        inside = set(true) & set(VOCABULARY)
        if not (set(true) if protocol == "headline" else inside):
            continue
        target = inside if protocol == "papers" else set(true)
        hits = len(set(tags[:k]) & target)
        kept.append((hits / k, hits / len(target), float(hits > 0)))
    scores = post_scores(judge_tags([r[0] for r in rows], [r[1] for r in rows], VOCABULARY), [k], protocol)
    ours = zip(scores["precision_at_3"], scores["recall_at_3"], scores["hit_rate_at_3"], strict=True)
    assert np.allclose(list(ours), kept) if kept else not list(ours)


def test_bleu_against_the_definition():
    # post 0: two of three unigrams and one of two bigrams match; post 1: one of one. Lengths 4 against 4: no penalty.
    found = bleu([["a", "b", "x"], ["c"], ["d"]], [["a", "b", "c"], ["c"], []])
    assert found["bleu_1"] == pytest.approx(3 / 4)
    assert found["bleu_2"] == pytest.approx(np.sqrt(3 / 4 * 1 / 2))
    assert bleu([["a"]], [["a", "b", "c"]])["bleu_1"] == pytest.approx(np.exp(1 - 3))
    assert bleu([["a", "b", "c", "d"]] * 40, [["a", "b", "c", "d"]] * 40) == pytest.approx(
        dict.fromkeys(["bleu_1", "bleu_2", "bleu_3", "bleu_4", "bleu_4_batch_mean"], 1.0)
    )
    assert set(bleu([["a"]], [[]]).values()) == {0.0}


def test_bleu_of_batches_is_the_mean_over_sixteens():
    truth = [["a", "b", "c", "d"]] * 20
    lists = truth[:17] + [["w", "x", "y", "z"]] * 3
    last = bleu(lists[16:], truth[16:])["bleu_4"]
    assert 0 < last < 0.5
    assert bleu(lists, truth)["bleu_4_batch_mean"] == pytest.approx((1 + last) / 2)
    assert bleu(lists, truth)["bleu_4"] > 0.8
