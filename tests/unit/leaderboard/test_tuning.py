"""The recipe that comes of a tuning."""

import tomllib
from pathlib import Path

from hashtag_core.config import ArchiveSection, Recipe, VocabularySection, read_recipe
from hashtag_core.leaderboard.tuning import recipe_toml
from tests.distributed.test_train import RECIPE

MODEL = {"family": "co_attention", "hidden": 16, "attention_units": 8, "embedding": 16, "dropout": 0.2}


EPOCHS = 3


def recipe_with(search: dict[str, object], **training: object) -> Recipe:
    values = {
        **RECIPE["training"],
        "epochs": EPOCHS,
        "learning_rate": 1e-6,
        "select_metric": "hit_rate_at_2",
        **training,
    }
    return Recipe.model_validate({**RECIPE, "model": MODEL, "training": values, "search": search})


def test_a_recipe_survives_being_written(tmp_path: Path) -> None:
    recipe = recipe_with({}, early_stopping_epochs=None)
    recipe = recipe.model_copy(
        update={
            "vocabulary": VocabularySection(synonyms={"größe 🌅": "groesse"}),
            "archive": ArchiveSection(map={"caption": "text"}),
        }
    )
    recipe.model_fields_set.update({"vocabulary", "archive"})
    (tmp_path / "r.toml").write_text(recipe_toml(recipe, "0.5"))
    assert read_recipe(tmp_path / "r.toml") == recipe.model_copy(update={"search": {}})
    assert tomllib.loads((tmp_path / "r.toml").read_text())["training"]["early_stopping_epochs"] == "null"
