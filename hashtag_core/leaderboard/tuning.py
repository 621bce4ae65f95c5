"""Settings of one recipe that are tried out: what may be drawn, what was drawn, and the recipe that comes of it. (Who draws and
trains: `distributed.tune`.)"""

import json
from collections.abc import Mapping
from typing import Any

from hashtag_core.config import Recipe
from hashtag_core.errors import ConfigError
from hashtag_core.evaluation.metrics import index_metrics, judge
from hashtag_core.judging.finish_training import tag_text_of
from hashtag_core.judging.validation import rank_table
from hashtag_core.leaderboard.trials import check_search, with_settings
from hashtag_core.models.registry import parse_options
from hashtag_core.training.job import TrainJob, fit_model
from hashtag_core.training.plan import TrainPlan, plan_training
from hashtag_core.training.selection import BEST_F1, epoch_ks


def plan_tuning(recipe: Recipe, dataset_uri: str) -> TrainPlan:
    """The plan of the recipe as it is written, what it searches for checked; see `tune`."""
    plan = plan_training(recipe, dataset_uri)
    if not recipe.search:
        raise ConfigError(
            'the recipe has no [search]: "training.learning_rate" = {low = 3e-4, high = 1e-2, log = true}, say'
        )
    if plan.base is not None:
        raise ConfigError(
            f"{recipe.model.family} is built on another model, which trials are not: tune that one's recipe"
        )
    check_search(recipe, recipe.model.family)
    for name, space in recipe.search.items():
        for value in space.ends:
            options = parse_options(recipe.model.family, with_settings(recipe, {name: value}).model.options)
            if (plan.family.needs(options), plan.family.tokenizer(options)) != (
                plan.needs, plan.family.tokenizer(plan.options),
            ):  # fmt: skip
                raise ConfigError(
                    f"search: {name} = {value!r} reads other features than the recipe: make it a recipe of its own"
                )
    return plan


def recipe_toml(recipe: Recipe, heading: str) -> str:
    """What of the recipe differs from the defaults, as a file that `jobs/train.py` takes."""
    lines = [f"# {heading} (jobs/tune.py)"]
    values = recipe.model_dump(mode="json", exclude_unset=True, exclude={"search"})
    for section, fields in values.items():
        if fields:
            lines += ["", f"[{section}]"]
            lines += [f"{key} = {_toml(value)}" for key, value in fields.items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    return json.dumps("null" if value is None else value, ensure_ascii=False)


def fitted_figure(job: TrainJob) -> float:
    """The selecting metric of a family that is fitted once."""
    settings, table, reading = job.recipe.training, job.table("validation"), job.reading()
    model, _ = fit_model(job, tag_text_of(job))
    ks = epoch_ks(job.recipe)
    ranked = rank_table(model, table, reading, max(ks))
    figures = index_metrics(
        judge(ranked, table.tags, reading.vocabulary_size, job.outside), ks, settings.select_protocol
    )
    return (
        max(figures[f"f1_at_{k}"] for k in ks) if settings.select_metric == BEST_F1 else figures[settings.select_metric]
    )
