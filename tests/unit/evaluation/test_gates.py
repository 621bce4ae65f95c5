"""The gates' decisions, by hand."""

import pytest

from hashtag_core.config import GatesSection
from hashtag_core.errors import ConfigError
from hashtag_core.evaluation.gates import Contender, check_gates, judge_challenger


def contender(uri: str, figure: float, trained_on: str | None = "aaa") -> Contender:
    return Contender(uri, {"headline": {"f1_at_5": figure}, "floor": {"f1_at_5": figure / 2}}, trained_on)


@pytest.mark.parametrize(
    ("ours", "theirs", "min_gain", "passed"),
    [
        (0.3, 0.2, 0.0, True),
        (0.2, 0.2, 0.0, False),
        (0.25, 0.2, 0.06, False),
        (0.19, 0.2, -0.05, True),
        (0.1, 0.2, 0.0, False),
    ],
)
def test_the_gain_must_exceed_what_is_asked_for(ours, theirs, min_gain, passed):
    gates = judge_challenger(
        contender("new", ours), contender("old", theirs), "aaa", 10, GatesSection(min_gain=min_gain)
    )
    assert [(gate.name, gate.passed) for gate in gates] == [("dataset", True), ("posts", True), ("gain", passed)]
    assert "f1_at_5 (headline): new" in gates[2].detail


def test_the_protocol_that_is_named_decides():
    figures = {"headline": {"f1_at_5": 0.1}, "floor": {"f1_at_5": 0.9}}
    challenger = Contender("new", figures, "aaa")
    assert not judge_challenger(challenger, contender("old", 0.5), "aaa", 1, GatesSection())[2].passed
    assert judge_challenger(challenger, contender("old", 0.5), "aaa", 1, GatesSection(protocol="floor"))[2].passed


def test_no_champion_yet():
    gates = judge_challenger(contender("new", 0.0), None, "aaa", 10, GatesSection())
    assert all(gate.passed for gate in gates)
    assert "no champion yet" in gates[2].detail


@pytest.mark.parametrize("trained_on", ["bbb", None])
def test_a_challenger_of_another_dataset_is_refused(trained_on):
    gates = judge_challenger(contender("new", 0.9, trained_on), contender("old", 0.1), "aaa", 10, GatesSection())
    assert [gate.passed for gate in gates] == [False, True, True]
    assert "judged on aaa" in gates[0].detail


def test_a_champion_of_another_dataset_is_told():
    gates = judge_challenger(contender("new", 0.9), contender("old", 0.1, "bbb"), "aaa", 10, GatesSection())
    assert gates[0].passed
    assert "the champion was trained on bbb" in gates[0].detail


def test_no_posts_no_promotion():
    assert not judge_challenger(contender("new", 0.0), None, "aaa", 0, GatesSection())[1].passed


def test_the_metric_must_be_computed():
    check_gates(GatesSection(metric="ndcg_at_3"), [1, 3])
    check_gates(GatesSection(metric="f1_at_1_user_macro"), [1, 3])
    with pytest.raises(ConfigError, match=r"gates.metric: no metric 'f1_at_4'.*did you mean"):
        check_gates(GatesSection(metric="f1_at_4"), [1, 5])
