"""Folds taken together, worked by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hashtag_core.config import Recipe, SplitSection
from hashtag_core.errors import ConfigError
from hashtag_core.evaluation.metrics import judge_tags
from hashtag_core.leaderboard.compare import Comparison, pooled
from hashtag_core.leaderboard.plan import fold_splits
from hashtag_core.leaderboard.pooled import pooled_state

FIRST = judge_tags([["a", "b"], ["b"]], [["a", "x"], ["b"]], ["a", "b"])


"""Two posts: one of two hits, the other true tag is not in the vocabulary; one hit."""


SECOND = judge_tags([["b", "new", "c"]], [["c", "b", "a", "new"]], ["c", "b", "d"])


"""One post of another fold, whose vocabulary has other tags in other places; the second tag given is in no vocabulary."""


class TwoFolds(Comparison):
    """A comparison over two folds whose lists are at hand."""

    def __init__(self, *states: dict[str, Any]) -> None:
        self.plan = SimpleNamespace(
            recipe=Recipe.model_validate({"evaluation": {"ks": [1, 2], "bootstrap_samples": 20}})
        )  # type: ignore[assignment]
        self.parts = [
            SimpleNamespace(states={"toy": state}, plan=SimpleNamespace(fold_name=f"fold {n + 1} of 2"))
            for n, state in enumerate(states)
        ]  # type: ignore[assignment]
        self.users = ["u", "v", "w"]
        self.slices = {"all": np.ones(3, bool), "no image": np.array([True, False, True])}

    def judged(self, name: str) -> Any:
        return pooled([FIRST, SECOND])


def state(coverage: float, seconds: float) -> dict[str, Any]:
    figures = {"coverage": coverage, "gini": 0.5, "novelty": 3.0}
    row = {"k": 3, "metrics": figures, "papers": figures, "floor": figures, "posts_per_second": 10.0, "megabytes": 2.0}
    return {
        "status": "done", "reads": ["caption"], "parameters": 10, "epochs": 4, "best_epoch": 2, "train_seconds": seconds,
        "judge_seconds": 1.0, "history": {"train_loss": [1.0]}, "row": {**row, "calibration_error": {"first": 0.1, "all": 0.02}},
    }  # fmt: skip


def test_a_system_over_folds() -> None:
    """Means over posts are over all posts, what is of one model is the mean over the models."""
    entry: Any = SimpleNamespace(name="toy")
    found = pooled_state(entry, TwoFolds(state(0.2, 3.0), state(0.4, 5.0)))
    assert (found["status"], found["epochs"], found["train_seconds"], found["judge_seconds"]) == ("done", 4, 4.0, 2.0)
    figures = found["row"]["metrics"]
    assert figures["posts"] == 3
    assert figures["precision_at_1"] == pytest.approx(1.0)
    assert figures["recall_at_1"] == pytest.approx((1 / 2 + 1 + 1 / 4) / 3)
    assert figures["coverage"] == pytest.approx(0.3)
    assert found["row"]["calibration_error"] == pytest.approx({"first": 0.1, "all": 0.02})
    assert found["row"]["slices"]["no image"]["recall_at_1"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    low, high = found["row"]["intervals"]["headline"]["recall_at_1"]
    assert 1 / 4 <= low < high <= 1
    failed = {"status": "failed", "reason": "no memory", "reads": ["caption"]}
    broken = pooled_state(entry, TwoFolds(state(0.2, 3.0), failed))
    assert (broken["status"], broken["reason"]) == ("failed", "fold 2 of 2: no memory")
    one = TwoFolds(state(0.2, 3.0))
    assert pooled_state(entry, one) == one.parts[0].states["toy"]


def test_the_splits_of_folds() -> None:
    folds = fold_splits(SplitSection(validation=0.1, seed=3), 5)
    assert [(one.fold, one.test, one.validation, one.seed) for one in folds] == [(n, 0.2, 0.1, 3) for n in range(5)]
    with pytest.raises(ConfigError, match="later posts would teach earlier ones"):
        fold_splits(SplitSection(kind="by_time"), 5)
    with pytest.raises(ConfigError, match="folds: expected 0 or at least 2, found 1"):
        fold_splits(SplitSection(), 1)
    with pytest.raises(ConfigError, match=r"fold 1 of 2: .*leaves nothing to train on"):
        fold_splits(SplitSection(validation=0.5), 2)
