"""Trials of settings: what is tried, in which order, what is kept, and what is refused before anything runs."""

import math
from typing import Any

import pytest

from hashtag_core.config import Recipe, read_recipe
from hashtag_core.errors import ConfigError, TrainingError
from hashtag_core.leaderboard.trials import (
    Trial,
    best_trial,
    check_search,
    next_settings,
    own_settings,
    run_trials,
    trials_from_json,
    trials_to_json,
    with_settings,
)

RATE, PENALTIES = "training.learning_rate", "model.penalties"


def recipe_of(**search: Any) -> Recipe:
    values: dict[str, Any] = {
        "model": {"family": "linear", "folds": 4},
        "search": {name.replace("__", "."): space for name, space in search.items()},
    }
    return Recipe.model_validate(values)


def searching() -> Recipe:
    return recipe_of(
        training__learning_rate={"low": 1e-4, "high": 1e-1, "log": True},
        training__epochs={"low": 5, "high": 30},
        model__penalties=[[0.3, 1.0, 3.0, 10.0], [1.0]],
    )


def figure(recipe: Recipe) -> float:
    """Best at a rate of 1e-2 and 20 epochs."""
    return 1 - abs(math.log10(recipe.training.learning_rate) + 2) / 3 - abs(recipe.training.epochs - 20) / 100


def test_the_recipe_itself_is_the_first_trial_and_the_best_wins() -> None:
    recipe, saved = searching(), list[list[Trial]]()
    tried = list[Recipe]()

    def attempt(changed: Recipe) -> float:
        tried.append(changed)
        return figure(changed)

    trials = run_trials(recipe, 25, [], attempt, lambda done: saved.append(list(done)), "toy")
    assert [len(done) for done in saved] == list(range(1, 26))
    assert (
        trials[0].settings
        == own_settings(recipe)
        == {RATE: 1e-3, "training.epochs": 10, PENALTIES: [0.3, 1.0, 3.0, 10.0]}
    )
    best = best_trial(trials)
    assert best is not None
    assert best.figure == max(trial.figure or 0 for trial in trials) > figure(recipe) + 0.1
    assert all(1e-4 <= trial.settings[RATE] <= 1e-1 for trial in trials)
    assert {type(trial.settings["training.epochs"]) for trial in trials} == {int}
    assert {str(trial.settings[PENALTIES]) for trial in trials} == {"[0.3, 1.0, 3.0, 10.0]", "[1.0]"}
    assert all(changed.model.options["folds"] == 4 and not changed.search for changed in tried)
    assert trials_from_json(trials_to_json(trials)) == trials


def test_a_run_that_was_broken_off_tries_what_it_would_have_tried() -> None:
    def settings(trials: list[Trial]) -> list[dict[str, Any]]:
        return [trial.settings for trial in trials]

    whole = run_trials(searching(), 14, [], figure, lambda done: None, "toy")
    some = run_trials(searching(), 12, [], figure, lambda done: None, "toy")
    assert settings(some) == settings(whole)[:12]
    assert settings(run_trials(searching(), 14, some, figure, lambda done: None, "toy")) == settings(whole)
    assert settings(run_trials(searching(), 3, whole, figure, lambda done: None, "toy")) == settings(whole)[:3]
    other = searching().model_copy(update={"training": searching().training.model_copy(update={"seed": 1})})
    assert next_settings(other, whole[:1], 1) != settings(whole)[1]


def test_settings_that_were_tried_are_not_trained_again() -> None:
    recipe, ran = recipe_of(model__image_weights=[[0.5, 1.0], [1.0]]), list[Any]()

    def attempt(changed: Recipe) -> float:
        ran.append(changed.model.options["image_weights"])
        return float(len(ran))

    trials = run_trials(recipe, 6, [], attempt, lambda done: None, "toy")
    assert len(trials) == 6
    assert sorted(ran) == [[0.5, 1.0], [1.0]]


def test_a_trial_that_fails_is_told_and_the_others_go_on() -> None:
    def attempt(changed: Recipe) -> float:
        if changed.training.learning_rate == 1e-3:
            raise TrainingError("the loss is not finite")
        return figure(changed)

    trials = run_trials(searching(), 3, [], attempt, lambda done: None, "toy")
    assert trials[0].reason == "the loss is not finite"
    assert trials[0].figure is None
    assert best_trial(trials) in trials[1:]
    assert best_trial(trials[:1]) is None


def test_settings_go_where_they_belong() -> None:
    changed = with_settings(searching(), {RATE: 0.5, PENALTIES: [2.0], "model.image_weights": [0.1]})
    assert (changed.training.learning_rate, changed.training.epochs) == (0.5, 10)
    assert changed.model.options == {"folds": 4, "penalties": [2.0], "image_weights": [0.1]}
    nothing = with_settings(read_recipe(None, ["model.family=user_frequency"]), {"model.prior_posts": None})
    assert nothing.model.options == {"prior_posts": None}


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"model__nothing": [1, 2]}, "there is no setting 'model.nothing' of linear"),
        ({"training__rate": [1, 2]}, "there is no setting 'training.rate'"),
        ({"model__folds": [4, 1]}, "model.folds = 1: .*greater than or equal to 2"),
        ({"model__folds": {"low": 5, "high": 9}}, "the recipe's own 4 is not among the values to try"),
        ({"training__learning_rate": {"low": 0, "high": 1}}, "learning_rate = 0: .*greater than 0"),
        ({"training__learning_rate": [0.1, 0.2]}, "the recipe's own 0.001 is not among"),
    ],
)
def test_what_cannot_be_searched(search: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"toy.toml: search: .*{message}"):
        check_search(recipe_of(**search), "toy.toml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.split.test=[0.1,0.2]", r"'split.test': expected a setting of \[model\] or \[training\]"),
        ("search.model.folds=[3]", "expected at least two choices"),
        ("search.model.folds={low=3}", "expected low and high, or a list of choices"),
        ("search.model.folds={low=3,high=3}", "expected low below high, found 3 and 3"),
        ("search.training.learning_rate={low=0,high=1,log=true}", "expected low above 0 for log"),
        (
            "search.training.learning_rate={low=1,hihg=2}",
            "unknown key 'search.training.learning_rate.hihg' .did you mean 'high'",
        ),
    ],
)
def test_a_search_is_checked_with_the_recipe(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_recipe(None, [override])


def test_every_recipe_for_two_cores_can_be_searched(repository: Any) -> None:
    """All but `popularity`, which has nothing to choose."""
    files = {path.stem: read_recipe(path) for path in (repository / "jobs" / "recipes").glob("*.toml")}
    small = {name: recipe for name, recipe in files.items() if name.endswith("_small") or f"{name}_small" not in files}
    for name, recipe in small.items():
        check_search(recipe, name)
    assert {name for name, recipe in small.items() if not recipe.search} <= {"popularity", "sample"}
