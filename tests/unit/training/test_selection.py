"""The list lengths that are looked at after each epoch."""

import pytest

from hashtag_core.config import Recipe
from hashtag_core.training.selection import BEST_F1, epoch_ks


@pytest.mark.parametrize(("metric", "ks"), [
    ("f1_at_3", [3]), ("hit_rate_at_10", [10]), (BEST_F1, [1, 5, 20]), ("mean_average_precision", [20]),
])  # fmt: skip
def test_by_the_metric_that_chooses(metric: str, ks: list[int]) -> None:
    recipe = Recipe.model_validate({"training": {"select_metric": metric}, "evaluation": {"ks": [1, 5, 20]}})
    assert epoch_ks(recipe) == ks
