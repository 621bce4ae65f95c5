"""Folds of a split, and the recipe of each family."""

from pathlib import Path

import pytest

from hashtag_core.config import SplitSection
from hashtag_core.errors import ConfigError, NotFoundError
from hashtag_core.leaderboard.plan import family_recipes, fold_splits


def test_each_fold_has_its_share_of_the_groups() -> None:
    folds = fold_splits(SplitSection(kind="by_user", seed=7), 4)
    assert [(fold.fold, fold.test, fold.kind, fold.seed) for fold in folds] == [
        (n, 0.25, "by_user", 7) for n in range(4)
    ]


@pytest.mark.parametrize(("split", "folds", "why"), [
    (SplitSection(), 1, "at least 2"), (SplitSection(kind="by_time"), 3, "split by time"),
])  # fmt: skip
def test_what_cannot_be_folded(split: SplitSection, folds: int, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        fold_splits(split, folds)


def test_the_small_recipe_goes_before_the_papers(tmp_path: Path) -> None:
    for name in ("linear.toml", "tagnet.toml", "tagnet_small.toml"):
        (tmp_path / name).write_text("")
    found = family_recipes(tmp_path, ["tagnet", "linear"])
    assert [path.name for path in found] == ["tagnet_small.toml", "linear.toml"]
    with pytest.raises(NotFoundError, match="no recipe"):
        family_recipes(tmp_path, ["svm"])
    with pytest.raises(ConfigError, match="linear"):
        family_recipes(tmp_path, ["linera"])
