"""Every recipe file is one that training would take."""

from pathlib import Path

import pytest

from hashtag_core.config import read_recipe
from hashtag_core.models import FittedModel, family, list_models, parse_options

RECIPES = sorted((Path(__file__).parents[2] / "jobs" / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_is_valid(path: Path) -> None:
    recipe = read_recipe(path)
    parse_options(recipe.model.family, recipe.model.options)
    assert path.read_text(encoding="utf-8").startswith("# ")
    if path.stem != "sample":
        assert path.stem.startswith(recipe.model.family)


@pytest.mark.parametrize("name", list_models())
def test_every_family_has_its_recipes(name: str) -> None:
    names = {path.stem for path in RECIPES}
    assert name in names
    if not issubclass(family(name), FittedModel):
        assert f"{name}_small" in names
