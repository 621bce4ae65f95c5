"""The metric of the validation split by which the best epoch is chosen."""

import re

from hashtag_core.config import Recipe

BEST_F1 = "best_f1"
"""The largest F1 over all list lengths."""


def epoch_ks(recipe: Recipe) -> list[int]:
    """The list lengths that are looked at after each epoch: the one of `select_metric`, all for `best_f1`, or the largest for
    one that has no k in its name."""
    if recipe.training.select_metric == BEST_F1:
        return list(recipe.evaluation.ks)
    named = re.search(r"_at_(\d+)", recipe.training.select_metric)
    return [int(named[1])] if named else [max(recipe.evaluation.ks)]
