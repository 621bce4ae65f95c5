"""A dataset and a check of a recipe on it."""

from typing import Any

from hashtag_core.config import Recipe
from hashtag_core.encoders import load_encoders
from hashtag_core.training.check import check_model
from hashtag_core.training.plan import plan_training


def check(dataset: str, model: dict[str, Any], encoders: dict[str, Any] | None = None) -> int:
    plan = plan_training(Recipe.model_validate({"model": model, "encoders": encoders or {}}), dataset)
    return check_model(plan, load_encoders(plan.recipe.encoders, plan.needs, "cpu"))
