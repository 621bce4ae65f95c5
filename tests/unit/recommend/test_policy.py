"""Deny list, least score, thresholds of the model: what may be given, and what moves up."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashtag_core.errors import IntegrityError
from hashtag_core.recommend.policy import Policy, read_thresholds, write_thresholds
from hashtag_core.recommend.recommender import Recommender


def test_least_scores() -> None:
    tags = ["a", "b", "c"]
    assert Policy().least_scores(tags) is None
    assert Policy(deny=frozenset({"unknown"}), thresholds={"other": 0.5}).least_scores(tags) is None
    found = Policy(0.25, frozenset({"b"}), {"c": 0.5, "a": 0.125}).least_scores(tags)
    assert found is not None
    assert found.tolist() == [0.25, np.inf, 0.5]
    assert found.dtype == np.float32


@given(least=st.floats(0, 1))
def test_what_is_given_is_never_below_what_was_asked(least: float) -> None:
    found = Policy(least).least_scores(["a"])
    if found is None:
        assert least == 0
    else:
        assert least <= float(found[0]) <= least + 1e-7


def test_what_is_pinned_names_the_tags() -> None:
    assert Policy(0.5).as_settings == {"deny": "", "thresholds": ""}
    told = Policy(deny=frozenset("dcba"), thresholds={"x": 0.5}).as_settings
    assert told["deny"].startswith("4 tag(s): a, b, c, ... (")
    assert told["thresholds"].startswith("1 tag(s): x (")
    assert Policy(thresholds={"x": 0.6}).as_settings["thresholds"] != told["thresholds"]
    assert Policy(deny=frozenset("abcd")).as_settings["deny"] == told["deny"]
    assert Policy(deny=frozenset("abce")).as_settings["deny"] != told["deny"]


def test_thresholds_of_a_model_folder(tmp_path: Path) -> None:
    assert read_thresholds(tmp_path) == {}
    path = tmp_path / "thresholds.json"
    path.write_text(json.dumps({"cat": 0.5, "dog": 1}))
    assert read_thresholds(tmp_path) == {"cat": 0.5, "dog": 1.0}
    for wrong in ('{"cat": 2}', '["cat"]', '{"cat": "much"}', "{"):
        path.write_text(wrong)
        with pytest.raises(IntegrityError, match=r"thresholds\.json: .*expected a score"):
            read_thresholds(tmp_path)


@given(st.dictionaries(st.text(min_size=1).filter(str.isprintable), st.floats(0, 1, width=32)))
def test_thresholds_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, float]
) -> None:
    folder = tmp_path_factory.mktemp("model")
    write_thresholds(folder, values)
    assert read_thresholds(folder) == values
    least = Policy(thresholds=values).least_scores(list(values))
    assert least is None or least.tolist() == list(values.values()), "a score that is reached is enough"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_model_folder: Callable[..., Path]) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("model"), family="popularity", tags=8)


POST = [{"post_id": "1", "caption": "a caption"}]


def ranked(folder: Path, policy: Policy | None, top_k: int = 8) -> list[tuple[str, float]]:
    (row,) = Recommender.load(str(folder), "cpu", policy=policy).recommend(POST, top_k).to_pylist()
    return list(zip(row["hashtags"], row["scores"], strict=True))


def test_denied_tags_make_room_and_low_scores_leave_none(folder: Path) -> None:
    whole = ranked(folder, None)
    names, scores = [tag for tag, _ in whole], [score for _, score in whole]
    assert len(set(scores)) == 8
    assert ranked(folder, Policy(deny=frozenset(names[:2])), 3) == whole[2:5], "the next ones move up"
    assert ranked(folder, Policy(min_score=scores[4])) == whole[:5], "a score that is reached is enough"
    assert ranked(folder, Policy(thresholds={names[0]: 1.0}), 2) == whole[1:3]
    assert ranked(folder, Policy(deny=frozenset(names[:7]))) == whole[7:]
    assert ranked(folder, Policy(min_score=1.0)) == []


@given(least=st.floats(0, 0.2), deny=st.sets(st.integers(0, 7)), top_k=st.integers(1, 9))
def test_a_policy_is_a_filter_before_the_cut(folder: Path, least: float, deny: set[int], top_k: int) -> None:
    whole = ranked(folder, None)
    policy = Policy(least, frozenset(whole[n][0] for n in deny))
    kept = [item for n, item in enumerate(whole) if n not in deny and item[1] >= least]
    assert ranked(folder, policy, top_k) == kept[:top_k]
