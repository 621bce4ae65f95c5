"""The gates' decisions, by hand."""

import tomllib
from dataclasses import replace

import numpy as np
import pytest

from hashtag_core.config import GatesSection
from hashtag_core.errors import ConfigError
from hashtag_core.evaluation.metrics import judge
from hashtag_core.evaluation.slices import tail_recall
from hashtag_core.promotion.gates import Duel, Gate, check_gates, judge_challenger
from tests.unit.promotion.contenders import CHAMPION, GATES, contender, gain, judged, refused


def test_who_is_better_in_all_passes_every_gate():
    assert list(judged()) == [
        *("dataset", "posts", "split", "golden", "signature", "gain", "slices", "calibration", "coverage", "novelty"),
        "speed",
    ]
    assert refused() == set()


@pytest.mark.parametrize(
    ("value", "p_value", "passed"),
    [
        (0.1, 0.001, True),
        (0.0, 1.0, False),
        (-0.1, 0.001, False),
        (0.003, 0.7, False),
        (0.001, 0.001, False),
        (0.1, 0.05, True),
    ],
)
def test_a_gain_is_more_than_the_margin_and_more_than_chance(value, p_value, passed):
    assert judged(found=gain(value, p_value))["gain"].passed == passed


def test_a_negative_margin_lets_a_worse_one_pass_and_asks_for_no_proof():
    gates = GatesSection(min_gain=-0.05)
    assert judged(found=gain(-0.04, 0.9), gates=gates)["gain"].passed
    assert not judged(found=gain(-0.06, 0.9), gates=gates)["gain"].passed


def test_chance_is_told():
    assert "may be chance" in judged(found=gain(0.01, 0.3))["gain"].detail
    assert "may be chance" not in judged(found=gain(0.0, 0.3))["gain"].detail


@pytest.mark.parametrize(
    ("posts", "difference", "passed"),
    [
        (50, gain(-0.1), False),
        (19, gain(-0.1), True),  # too few posts
        (50, gain(-0.01), True),  # within the limit
        (50, gain(-0.1, half=0.2), True),  # may be chance
        (50, gain(0.1), True),
    ],
)
def test_a_slice_may_not_be_lost(posts, difference, passed):
    gate = judged(slices={"without image": (posts, difference), "tail tags": (90, gain(0.2))})["slices"]
    assert gate.passed == passed
    assert ("without image" in gate.detail) == (posts >= 20)
    assert ("tail tags" in gate.detail) == passed


def test_what_may_not_be_lost_elsewhere():
    assert refused(challenger=replace(contender(), calibration=0.11)) == {"calibration"}
    assert refused(challenger=contender(coverage=0.29)) == {"coverage"}
    assert refused(challenger=contender(novelty=2.4)) == {"novelty"}
    slow = replace(contender(), posts_per_second=19.0)
    assert refused(challenger=slow) == {"speed"}
    assert refused(challenger=replace(slow, posts_per_second=21.0)) == set()
    assert refused(challenger=slow, champion=replace(CHAMPION, encodes=False)) == set()
    assert refused(challenger=replace(slow, encodes=False), champion=replace(CHAMPION, encodes=False)) == {"speed"}
    assert refused(challenger=replace(contender(), golden=0.01)) == {"golden"}
    assert refused(challenger=replace(contender(), golden=0.0)) == set()
    mine, other = {"inputs": ["a"]}, {"inputs": ["b"]}
    with_signature = replace(CHAMPION, signature=other)
    assert refused(challenger=replace(contender(), signature=mine), champion=with_signature) == {"signature"}
    assert refused(challenger=replace(contender(), signature=other), champion=with_signature) == set()


def test_a_split_that_judged_often_says_so():
    detail = judged(uses=9)["split"].detail
    assert "judged 9 challengers before" in detail
    assert f"{1 - 0.975**10:.2f}" in detail
    assert refused(uses=9, gates=GatesSection(max_split_uses=10)) == set()
    assert refused(uses=10, gates=GatesSection(max_split_uses=10)) == {"split"}


def test_the_first_champion_must_beat_every_floor():
    def first(*gains: float) -> Gate:
        duels = [Duel(name, gain(value)) for name, value in zip(("popularity", "linear"), gains, strict=False)]
        decided = judge_challenger(contender(), None, duels, "aaa", 50, 0, GATES)
        assert [gate.name for gate in decided] == ["dataset", "posts", "split", "golden", "signature", "gain"]
        return decided[-1]

    assert first(0.1, 0.1).passed
    assert not first(0.1, -0.1).passed
    assert not first(-0.1, 0.1).passed
    assert "popularity" in first(0.1, 0.1).detail
    assert "linear" in first(0.1, 0.1).detail


def test_a_metric_without_a_figure_a_post_is_compared_without_chance():
    duels = [Duel("old", None)]
    decided = judge_challenger(contender(), CHAMPION, duels, "aaa", 5, 0, GATES)
    (gate,) = (gate for gate in decided if gate.name == "gain")
    assert gate.passed
    assert "chance not tested" in gate.detail


@pytest.mark.parametrize("trained_on", ["bbb", None])
def test_a_challenger_of_another_dataset_is_refused(trained_on):
    gates = judged(challenger=contender(trained_on=trained_on))
    assert not gates["dataset"].passed
    assert "judged on aaa" in gates["dataset"].detail


def test_a_champion_of_another_dataset_is_told():
    gate = judged(champion=contender("old", 0.1, "bbb"))["dataset"]
    assert gate.passed
    assert "the champion was trained on bbb" in gate.detail


def test_no_posts_no_promotion():
    assert refused(posts=0) == {"posts"}
    assert refused(posts=9, gates=GatesSection(min_posts=10)) == {"posts"}


def test_the_metric_must_be_computed():
    check_gates(GatesSection(metric="ndcg_at_3"), [1, 3])
    check_gates(GatesSection(metric="f1_at_1_user_macro"), [1, 3])
    with pytest.raises(ConfigError, match=r"gates.metric: no metric 'f1_at_4'.*did you mean"):
        check_gates(GatesSection(metric="f1_at_4"), [1, 5])


def test_the_recall_of_tail_tags_by_hand():
    # counts 4, 1, 1: tag 0 is the head (and ends the middle's third), tags 1 and 2 the tail
    judgement = judge([[0, 1, 2], [1, 0, -1], [0, 1, 2]], [[1, 2], [0, 7], [2, 1, 9]], 3)
    assert tail_recall(judgement, [[1, 2], [0, 7], [2, 1, 9]], [4, 1, 1], 2) == pytest.approx(
        [0.5, np.nan, 0.5], nan_ok=True
    )


def test_the_file_of_gates_says_what_holds_without_it(repository):
    tables = tomllib.loads((repository / "jobs" / "gates.toml").read_text())
    assert tables.keys() == {"gates"}
    assert GatesSection(**tables["gates"]) == GATES
    assert tables["gates"].keys() == GatesSection.model_fields.keys() - {"max_split_uses"}
