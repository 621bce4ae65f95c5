"""Settings tried out for real: Ray Tune, Optuna, ASHA; MLflow in SQLite."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from hashtag_core.config import Recipe, read_recipe
from hashtag_core.distributed.prepare import prepare
from hashtag_core.distributed.train import train
from hashtag_core.distributed.tune import _TrialRuns, tune
from hashtag_core.errors import ConfigError, TrainingError
from hashtag_core.leaderboard.tuning import plan_tuning
from hashtag_core.preparation.plan import plan_prepare
from hashtag_core.tracking import runs
from tests.distributed.test_train import RECIPE, _post

MODEL = {"family": "co_attention", "hidden": 16, "attention_units": 8, "embedding": 16, "dropout": 0.2}


SEARCH = {
    "training.learning_rate": {"low": 1e-6, "high": 3e-2, "log": True},
    "model.loss": ["softmax", "bce"],
    "model.hidden": {"low": 8, "high": 24},
}


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


@pytest.fixture(scope="module")
def place(tmp_path_factory, ray_session, write_archive, empty_mlflow):
    folder = tmp_path_factory.mktemp("tune")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        archive = write_archive(folder / "archive", [_post(n) for n in range(120)])
        prepare(plan_prepare(recipe_with({}), str(archive), str(folder / "dataset")))
        yield folder


@pytest.mark.slow
def test_the_best_of_the_trials_is_written_as_a_recipe(place: Path) -> None:
    recipe, out = recipe_with(SEARCH), place / "tuned.toml"
    found = tune(plan_tuning(recipe, str(place / "dataset")), trials=4, out=str(out))
    assert (found.trials, found.failed) == (4, 0)
    client = runs.connect()
    parent = client.get_run(found.run_id)
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{found.run_id}'", max_results=100
    )
    assert len(children) == 4
    assert {run.info.status for run in [parent, *children]} == {"FINISHED"}
    figures = {run.info.run_id: run.data.metrics["figure"] for run in children}
    assert found.figure == max(figures.values())
    best = client.get_run(max(figures, key=figures.__getitem__)).data.params
    assert {name: str(value) for name, value in found.settings.items()} == {name: best[name] for name in SEARCH}
    # The first trial is the recipe as it is written, which hardly learns.
    first = min(children, key=lambda run: run.info.start_time).data.params
    assert (first["training.learning_rate"], first["model.loss"], first["model.hidden"]) == ("1e-06", "softmax", "16")
    assert found.own_figure is not None
    assert found.own_figure < found.figure
    for run in children:
        history = [entry.value for entry in client.get_metric_history(run.info.run_id, "figure")]
        own = [entry.value for entry in client.get_metric_history(run.info.run_id, "validation_hit_rate_at_2")]
        assert history == [max(own[: n + 1]) for n in range(len(own))]
    written = read_recipe(out)
    assert not written.search
    assert written.training.learning_rate == found.settings["training.learning_rate"]
    assert written.model.options["hidden"] == found.settings["model.hidden"]
    assert written.training.select_metric == "hit_rate_at_2"
    assert "hit_rate_at_2" in out.read_text().splitlines()[0]
    assert {item.path for item in client.list_artifacts(found.run_id)} == {"search.json", "best.toml"}


def test_what_cannot_be_searched_is_refused(place: Path) -> None:
    dataset = str(place / "dataset")
    with pytest.raises(ConfigError, match=r"no \[search\]"):
        plan_tuning(recipe_with({}), dataset)
    with pytest.raises(ConfigError, match=r"model\.inputs = \['image'\] reads other features"):
        plan_tuning(recipe_with({"model.inputs": [["image", "caption", "history"], ["image"]]}), dataset)
    with pytest.raises(ConfigError, match=r"no setting 'model\.hiden'"):
        plan_tuning(recipe_with({"model.hiden": [1, 2]}), dataset)


@pytest.mark.slow
@pytest.mark.skipif("SOAK_KILLS" not in os.environ, reason="half a minute more: make soak")
def test_a_trial_gives_the_figure_of_the_training(place: Path) -> None:
    """Of a family that reads the tags' own words, too."""
    values = {**RECIPE, "model": {"family": "regression_kriging", "neighbours": 3}}
    recipe = Recipe.model_validate({**values, "search": {"model.neighbours": [3, 8]}})
    found = tune(plan_tuning(recipe, str(place / "dataset")), trials=1, out=str(place / "kriging.toml"))
    trained = train(Recipe.model_validate(values), str(place / "dataset"))
    assert found.own_figure == pytest.approx(trained.metrics[recipe.training.select_metric], abs=1e-9)


@pytest.mark.slow
@pytest.mark.skipif("SOAK_KILLS" not in os.environ, reason="half a minute more: make soak")
def test_a_family_that_is_fitted_is_tuned_too(place: Path) -> None:
    values = {**RECIPE, "model": {"family": "mlknn", "neighbours": 3}, "search": {"model.neighbours": [3, 8, 20]}}
    recipe = Recipe.model_validate(values)
    found = tune(plan_tuning(recipe, str(place / "dataset")), trials=2, out=str(place / "mlknn.toml"))
    assert found.failed == found.ended_early == 0
    assert found.figure > 0.3
    assert read_recipe(place / "mlknn.toml").model.options["neighbours"] == found.settings["model.neighbours"]


def test_a_trial_that_fails_is_told(mlflow_store: Path) -> None:
    """What Tune calls on the driver; a trial that came through beside it ends well."""
    recipe = recipe_with(SEARCH)
    with runs.start_run(recipe.tracking.experiment, "tuning") as parent:
        told = _TrialRuns(
            SimpleNamespace(recipe=recipe), parent.run_id, {"family": "co_attention"}, "validation_hit_rate_at_2"
        )
        config = {"training.learning_rate": 0.01, "model.loss": 1, "model.hidden": 9}
        error = TrainingError("loss is nan in epoch 0, step 1")
        bad, good = (SimpleNamespace(trial_id=name, config=config, get_error=lambda: error) for name in ("bad", "good"))
        for trial in (bad, good):
            told.on_trial_start(1, [], trial)
        told.on_trial_result(1, [], good, {"figure": 0.5, "epoch": 1, "train_loss": 2.0, "whole": True})
        told.on_trial_error(2, [], bad)
        told.on_trial_complete(2, [], good)
    children = {
        run.info.run_name: run
        for run in runs.connect().search_runs([parent.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.run_id}'")
    }
    failed, finished = children["trial-1"], children["trial-2"]
    assert (failed.info.status, finished.info.status) == ("FAILED", "FINISHED")
    assert failed.data.tags["failed"] == "loss is nan in epoch 0, step 1"
    assert finished.data.metrics == {"figure": 0.5, "train_loss": 2.0}
    assert finished.data.params == {"training.learning_rate": "0.01", "model.loss": "bce", "model.hidden": "9"}
