"""Trials: each system's settings are tried out on the validation split, all systems the same number of times.

The first trial is the recipe as it is written, the others are drawn by a tree-structured Parzen estimator (Bergstra et al.
2011, by Optuna) from the recipe's `[search]`. What a trial gives is the validation figure of the model that it trained; no
trial sees the test split. Trials are kept: more of them go on from those that are there, a run that was broken off does too.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from hashtag_core.config import ModelSection, Recipe
from hashtag_core.errors import ConfigError, HashtagError
from hashtag_core.models.registry import parse_options

logger = logging.getLogger(__name__)


Settings = dict[str, Any]
"""Values of any kind by `section.field`: which there are, the recipe's `[search]` says."""


@dataclass(frozen=True)
class Trial:
    """Settings and what came of them: the validation figure, or the reason why there is none."""

    settings: Settings
    figure: float | None = None
    reason: str | None = None
    seconds: float = 0.0


def own_settings(recipe: Recipe) -> Settings:
    """The values that the recipe has of what it may search for."""
    return {name: _value(recipe, name) for name in recipe.search}


def with_settings(recipe: Recipe, settings: Settings) -> Recipe:
    """The recipe with these settings, by `section.field`, and nothing more to search for. ConfigError for a wrong one."""
    values = recipe.model_dump(exclude={"search"}, exclude_unset=True)
    for name, value in settings.items():
        section, _, field = name.partition(".")
        values.setdefault(section, {})[field] = value
    changed = type(recipe.training).model_validate(values.get("training", {}))
    model = ModelSection(**values.get("model", {}))
    return recipe.model_copy(update={"training": changed, "model": model, "search": {}})


def check_search(recipe: Recipe, where: str) -> None:
    """ConfigError for a setting that does not exist, for values that it cannot take, and where the recipe's own value, which is the
    first trial, is not among those that are searched."""
    known = {"training": type(recipe.training).model_fields, "model": type(_options(recipe)).model_fields}
    for name, space in recipe.search.items():
        section, _, field = name.partition(".")
        if field not in known[section]:
            raise ConfigError(f"{where}: search: there is no setting {name!r} of {recipe.model.family}")
        for value in space.ends:
            try:
                _options(with_settings(recipe, {name: value}))
            except (ConfigError, ValueError) as error:
                raise ConfigError(f"{where}: search: {name} = {value!r}: {error}") from None
        own = _value(recipe, name)
        if not space.holds(own):
            raise ConfigError(f"{where}: search: {name}: the recipe's own {own!r} is not among the values to try")


def next_settings(recipe: Recipe, done: Sequence[Trial], seed: int) -> Settings:
    """What to try next: the recipe's own settings first, then what the trials that are done suggest. The same for the same trials."""
    if not done:
        return own_settings(recipe)
    import optuna  # half a second, which a board without trials need not wait for

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    drawn = {name: space.distribution() for name, space in recipe.search.items()}
    study = optuna.create_study(direction="maximize", sampler=sampler(1000 * seed + len(done)))
    for trial in done:
        params = {name: recipe.search[name].drawn(value) for name, value in trial.settings.items()}
        state = optuna.trial.TrialState.FAIL if trial.figure is None else optuna.trial.TrialState.COMPLETE
        study.add_trial(optuna.trial.create_trial(params=params, distributions=drawn, value=trial.figure, state=state))
    return drawn_settings(recipe, study.ask(drawn).params)


def sampler(seed: int) -> Any:
    """The estimator; its first four trials are at random, which Optuna makes ten by default: as many as most boards have."""
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, n_startup_trials=4)


def drawn_settings(recipe: Recipe, drawn: Mapping[str, Any]) -> Settings:
    """The values of what was drawn, by `section.field`."""
    return {name: space.value(drawn[name]) for name, space in recipe.search.items()}


def run_trials(
    recipe: Recipe,
    count: int,
    done: Sequence[Trial],
    attempt: Callable[[Recipe], float],
    save: Callable[[Sequence[Trial]], None],
    name: str,
) -> list[Trial]:
    """`count` trials, of which those in `done` are not run again. `attempt` trains a recipe and gives its validation figure;
    `save` is called after each. Settings that were tried already count, and are not trained twice."""
    trials = list(done[:count])
    while len(trials) < count:
        settings = next_settings(recipe, trials, recipe.training.seed)
        before = next((trial for trial in trials if trial.settings == settings), None)
        if before is None:
            logger.info("── %s, trial %d of %d: %s", name, len(trials) + 1, count, json.dumps(settings))
            before = _attempted(recipe, settings, attempt)
        trials.append(before)
        save(trials)
    return trials


def best_trial(trials: Sequence[Trial]) -> Trial | None:
    """The one of the highest figure, of equal ones the first; None where every one failed."""
    return max(
        (trial for trial in trials if trial.figure is not None), key=lambda trial: trial.figure or 0.0, default=None
    )


class TrialRecord(TypedDict):
    """A `Trial`, as it is written down."""

    settings: Settings
    figure: float | None
    reason: str | None
    seconds: float


class TrialsFile(TypedDict):
    """`trials.json`: `key` says of which dataset and recipe they are."""

    key: str
    trials: list[TrialRecord]


def trials_from_json(values: Sequence[TrialRecord]) -> list[Trial]:
    """What `trials_to_json` gave."""
    return [Trial(**value) for value in values]


def trials_to_json(trials: Sequence[Trial]) -> list[TrialRecord]:
    """As plain values."""
    return [
        {"settings": trial.settings, "figure": trial.figure, "reason": trial.reason, "seconds": trial.seconds}
        for trial in trials
    ]


def _attempted(recipe: Recipe, settings: Settings, attempt: Callable[[Recipe], float]) -> Trial:
    began = time.monotonic()
    try:
        figure = attempt(with_settings(recipe, settings))
    except HashtagError as error:
        logger.warning("trial failed: %s", error)
        return Trial(settings, None, " ".join(str(error).split())[:500], round(time.monotonic() - began, 1))
    return Trial(settings, figure, None, round(time.monotonic() - began, 1))


def _options(recipe: Recipe) -> Any:
    return parse_options(recipe.model.family, recipe.model.options)


def _value(recipe: Recipe, name: str) -> Any:
    section, _, field = name.partition(".")
    return getattr(recipe.training if section == "training" else _options(recipe), field)
