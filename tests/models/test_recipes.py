"""Every recipe file is one that training would take."""

import re
import tomllib
from pathlib import Path

import pytest

from hashtag_core.config import read_recipe
from hashtag_core.models import FittedModel, family, list_models, parse_options

RECIPES = sorted((Path(__file__).parents[2] / "jobs" / "recipes").glob("*.toml"))
ABLATIONS = {
    "amnn_caption": {"inputs"},
    "amnn_image": {"inputs"},
    "amnn_learned_words": {"text_input"},
    "amnn_written_order": {"label_order"},
    "design_sum": {"fusion"},
    "design_without_history": {"inputs"},
    "linear_caption": {"inputs"},
    "linear_image": {"inputs"},
    "regression_kriging_ungated": {"gated"},
    "regression_kriging_without_attention": {"parts"},
    "regression_kriging_without_habit": {"parts"},
    "regression_kriging_without_history": {"inputs"},
    "regression_kriging_without_kriging": {"parts"},
    "regression_kriging_without_neighbours": {"parts"},
    "regression_kriging_without_tag_text": {"parts"},
}
"""What each ablation changes of its family's small recipe, or its only one."""


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


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_one_thing(name: str) -> None:
    folder = RECIPES[0].parent
    assert {path.stem for path in (folder / "ablations").glob("*.toml")} == set(ABLATIONS)
    recipe = read_recipe(folder / "ablations" / f"{name}.toml")
    parse_options(recipe.model.family, recipe.model.options)
    small = folder / f"{recipe.model.family}_small.toml"
    whole = read_recipe(small if small.exists() else folder / f"{recipe.model.family}.toml")
    changed = set()
    for section in type(recipe).model_fields.keys() - {"search"}:
        ours, theirs = (getattr(one, section).model_dump() for one in (recipe, whole))
        changed |= {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    assert changed == ABLATIONS[name]


def flat(path: Path) -> dict[str, object]:
    sections = tomllib.loads(path.read_text(encoding="utf-8"))
    return {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}


@pytest.mark.parametrize("path", sorted(RECIPES[0].parent.glob("ablations/paper/*.toml")), ids=lambda path: path.stem)
def test_an_ablation_of_paper_size_differs_as_its_first_line_says(path: Path) -> None:
    recipe = read_recipe(path)
    parse_options(recipe.model.family, recipe.model.options)
    said = re.match(r"# (?:AMNN|DESIGN) (?:table|tables|figure) .*: (\w+)\.toml but for (.+)\.\n", path.read_text())
    assert said
    ours, theirs = flat(path), flat(RECIPES[0].parent / f"{said[1]}.toml")
    differing = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    assert differing == set(re.split(r", | and ", said[2]))


PAPERS = [path for path in RECIPES if not path.stem.endswith("_small") and path.stem != "sample"]
PAPERS += sorted(RECIPES[0].parent.glob("ablations/paper/*.toml"))
STATED = frozenset(
    f"training.{key}"
    for key in (
        *("epochs", "batch_size", "optimizer", "learning_rate", "weight_decay", "schedule", "warmup", "select_metric"),
        *("gradient_clip_norm", "early_stopping_epochs", "output_bias_start", "weight_average", "modality_dropout"),
        *("weight_decay_of", "gpus"),
    )
)
"""What changes how a model is trained, and would come in by default where an article has none of it."""


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_a_paper_recipe_hides_no_training_of_ours(path: Path) -> None:
    recipe = read_recipe(path)
    if issubclass(family(recipe.model.family), FittedModel):
        return
    assert not STATED - flat(path).keys()
    training = recipe.training
    assert training.early_stopping_epochs is None
    assert training.output_bias_start == "as_drawn"
    assert training.weight_average is None
    assert training.modality_dropout == 0
    assert training.gpus == "cluster"  # they are for GPUs; a single machine without one is taken as it is
    assert training.gradient_clip_norm == (5.0 if path.stem == "show_attend_tell" else None)  # its implementation's


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_how_the_data_are_made_stands_in_one_place(path: Path) -> None:
    """In prepare/: a dataset made by it trains under the paper's recipe without a word."""
    assert not {key.partition(".")[0] for key in flat(path)} & {"archive", "captions", "vocabulary", "split"}
