"""What may be tried out of a recipe."""

import pytest
from pydantic import ValidationError

from hashtag_core.search_space import SearchSpace, check_names


@pytest.mark.parametrize(("space", "inside", "outside"), [
    ({"low": 1, "high": 4}, [1, 4, 2.0], [0, 5, 2.5, True, "2", float("nan")]),
    ({"low": 0.5, "high": 2.0, "log": True}, [0.5, 1, 2.0], [0.4, 2.1, None]),
    (["a", None, [1, 2]], ["a", None, [1, 2]], ["b", [1]]),
])  # fmt: skip
def test_which_values_it_holds(space: object, inside: list[object], outside: list[object]) -> None:
    found = SearchSpace.model_validate(space)
    assert [found.holds(value) for value in inside] == [True] * len(inside)
    assert [found.holds(value) for value in outside] == [False] * len(outside)
    assert all(found.value(found.drawn(value)) == value for value in inside)


def test_null_in_a_list_is_null() -> None:
    space = SearchSpace.model_validate(["null", 3])
    assert (space.ends, space.drawn(None), space.value(1)) == ([None, 3], 0, 3)


@pytest.mark.parametrize(("space", "why"), [
    ({"low": 1}, "low and high"), ({"low": 2, "high": 2}, "low below high"), ({"low": 0, "high": 1, "log": True}, "above 0"),
    ([1], "two choices"), ({"low": 1, "high": 2, "choices": [1, 2]}, "or a list"), ({}, "low and high"),
])  # fmt: skip
def test_what_is_no_space(space: object, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        SearchSpace.model_validate(space)


def test_what_optuna_draws_from() -> None:
    whole = SearchSpace.model_validate({"low": 1, "high": 8, "log": True}).distribution()
    assert (type(whole).__name__, whole.low, whole.high, whole.log) == ("IntDistribution", 1, 8, True)
    real = SearchSpace.model_validate({"low": 1, "high": 2.5}).distribution()
    assert (type(real).__name__, real.low, real.high) == ("FloatDistribution", 1, 2.5)
    assert list(SearchSpace.model_validate([[1], [2]]).distribution().choices) == [0, 1]


@pytest.mark.parametrize("name", ["epochs", "training.", "captions.urls", "split.test"])
def test_only_settings_of_model_and_training(name: str) -> None:
    space = SearchSpace.model_validate([1, 2])
    check_names({"training.epochs": space, "model.dropout": space})
    with pytest.raises(ValueError, match="expected a setting"):
        check_names({name: space})
