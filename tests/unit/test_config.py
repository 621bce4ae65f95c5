import pytest

from hashtag_core.config import Recipe, read_recipe
from hashtag_core.errors import ConfigError, NotFoundError


def test_an_empty_recipe_is_whole_and_its_copy_is_the_same():
    recipe = read_recipe()
    assert recipe == Recipe()
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_overrides_win_over_the_file_and_null_is_null(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text('[training]\nepochs = 3\nearly_stopping_epochs = "null"\n[model]\nfamily = "amnn"\ndropout = 0.1\n')
    recipe = read_recipe(
        file, ["training.epochs=4", "training.gradient_clip_norm=null", "training.storage=s3://b/runs"]
    )
    assert recipe.training.epochs == 4
    assert recipe.training.early_stopping_epochs is None
    assert recipe.training.gradient_clip_norm is None
    assert recipe.training.storage == "s3://b/runs"
    assert recipe.model.options == {"dropout": 0.1}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=3", "unknown key 'training.epoch'.*did you mean 'epochs'"),
        ("trainin.epochs=3", "unknown section 'trainin'.*did you mean 'training'"),
        ("training.epochs=0", r"training\.epochs.*found 0"),
        ("training.epochs=null", r"training\.epochs"),
        ("epochs=3", "expected section.field=value"),
        ("split.validation=0.9", r"validation \+ test = 1 leaves nothing"),
    ],
)
def test_what_is_wrong_is_named(override, message):
    with pytest.raises(ConfigError, match=message):
        read_recipe(None, [override])


def test_a_file_that_is_not_there_or_no_toml(tmp_path):
    with pytest.raises(NotFoundError, match="no recipe at"):
        read_recipe(tmp_path / "never.toml")
    (tmp_path / "broken.toml").write_text("[training\n")
    with pytest.raises(ConfigError, match=r"broken\.toml: not a readable TOML file"):
        read_recipe(tmp_path / "broken.toml")


def test_a_saved_recipe_may_hold_keys_that_are_gone() -> None:
    """At the values that did nothing; at any other they are refused like every unknown key."""
    saved = {"training": {"finetune_encoders": False, "streaming": "auto", "epochs": 3}}
    assert Recipe.model_validate(saved).training.epochs == 3
    for key, value in (("finetune_encoders", True), ("streaming", "always")):
        with pytest.raises(ConfigError, match=f"unknown key .*{key}"):
            read_recipe(overrides=[f"training.{key}={value!r}".replace("True", "true")])
