"""What a training leaves in MLflow, and what becomes of one that ends while MLflow is away. Closed-form: no Ray."""

import json
import re
from pathlib import Path

import pytest

from hashtag_core.config import Recipe, read_recipe
from hashtag_core.distributed import train as module
from hashtag_core.distributed.evaluate import evaluate
from hashtag_core.distributed.train import train
from hashtag_core.errors import StorageError
from hashtag_core.tracking.registry import find_version, lineage, lineage_lines, resolve_model
from hashtag_core.tracking.runs import connect, start_run


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return read_recipe(None, ["model.family=popularity", f"training.storage={tmp_path / 'runs'}"])


def test_a_run_says_what_was_read_by_which_code_and_what_came_of_it(
    recipe: Recipe, users_dataset: Path, mlflow_store: Path, repository: Path
) -> None:
    summary = train(recipe, str(users_dataset))
    client = connect()
    run = client.get_run(summary.run_id)
    tags, metrics = run.data.tags, run.data.metrics
    assert re.fullmatch(r"[0-9a-f]{40}", tags["mlflow.source.git.commit"])
    assert tags["git.dirty"] in ("true", "false")
    assert tags["mlflow.source.name"]
    assert "| f1_at_5 |" in tags["mlflow.note.content"]
    inputs = {each.dataset.name: each for each in run.inputs.dataset_inputs}
    assert inputs.keys() == {"dataset.train", "dataset.validation"}
    read = inputs["dataset.train"].dataset
    assert (read.digest, json.loads(read.source)) == ("d" * 36, {"uri": str(users_dataset)})
    assert json.loads(read.profile)["num_rows"] > 100
    assert [tag.value for tag in inputs["dataset.train"].tags] == ["training"]
    assert len(run.outputs.model_outputs) == 1
    assert {name for name in metrics if name.startswith("main/")} == {
        *(f"main/{name}_at_5" for name in ("f1", "precision", "recall", "hit_rate", "ndcg")),
        *("main/f1_at_5_user_macro", "main/mean_average_precision", "main/coverage", "main/novelty", "main/posts"),
    }
    assert (
        metrics["main/f1_at_5"] == metrics["validation_headline.f1_at_5"] == pytest.approx(summary.metrics["f1_at_5"])
    )
    assert run.data.params["model.family"] == "popularity"
    kept = {file.path for file in client.list_artifacts(summary.run_id)}
    assert {"recipe.json", "model"} <= kept  # the card; the model itself is the output of the run
    version = client.get_model_version("hashtag-recommender", "1")
    assert "popularity" in version.description
    assert version.tags["content_hash"] == resolve_model(summary.model).content_hash
    card = (resolve_model(summary.model).folder / "README.md").read_text()
    assert tags["mlflow.source.git.commit"] in card
    assert summary.run_id in card


def test_a_run_below_another(recipe: Recipe, users_dataset: Path, mlflow_store: Path) -> None:
    with start_run(recipe.tracking.experiment, "above") as above:
        summary = train(recipe, str(users_dataset), parent=above.run_id)
    assert connect().get_run(summary.run_id).data.tags["mlflow.parentRunId"] == above.run_id


def test_a_model_is_one_run_with_its_evaluations_below_it(
    recipe: Recipe, users_dataset: Path, mlflow_store: Path, tmp_path: Path
) -> None:
    summary = train(recipe, str(users_dataset))
    judge = read_recipe(None, ["evaluation.bootstrap_samples=20", "evaluation.gallery_posts=0"])
    for _ in range(2):
        evaluate(str(users_dataset), [summary.model], str(tmp_path / "report"), judge)
    client = connect()
    experiment = client.get_run(summary.run_id).info.experiment_id
    runs = {run.info.run_id: run for run in client.search_runs([experiment])}
    above = [run.data.tags.get("mlflow.parentRunId") for run in runs.values() if run.info.run_id != summary.run_id]
    assert above == [summary.run_id] * 2
    assert runs[summary.run_id].data.tags.get("mlflow.parentRunId") is None
    for run in runs.values():
        assert len([name for name in run.data.metrics if name.startswith("main/")]) == 10
        assert run.inputs.dataset_inputs
        assert run.info.run_id == summary.run_id or run.info.run_name.startswith("evaluate ")


def test_the_chain_from_a_version_to_the_parts_of_the_archive(
    recipe: Recipe, users_dataset: Path, mlflow_store: Path
) -> None:
    summary = train(recipe, str(users_dataset))
    chain = lineage(summary.model)
    assert chain["model"]["family"] == "popularity"
    assert chain["run"]["run_id"] == summary.run_id
    assert re.fullmatch(r"[0-9a-f]{40}", chain["code"]["commit"])
    assert chain["recipe"]["model"]["family"] == "popularity"
    assert chain["dataset"]["content_hash"] == "d" * 64
    assert (chain["archive"]["uri"], chain["archive"]["parts"], chain["missing"]) == ("here", ["part.parquet"], [])
    told = "\n".join(lineage_lines(chain))
    for part in (
        summary.model,
        summary.run_id,
        summary.run_name,
        chain["code"]["commit"],
        "dddddddddddd",
        "part.parquet",
    ):
        assert part in told
    # from the folder alone, and with the run gone
    folder = resolve_model(summary.model).folder
    connect().delete_run(summary.run_id)
    assert lineage(str(folder))["dataset"] == chain["dataset"]


def test_a_training_that_ends_while_mlflow_is_away_tells_how_it_goes_on(
    recipe: Recipe, users_dataset: Path, mlflow_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register = module.register_model

    def away(*_: object) -> str:
        raise StorageError("MLflow does not answer at http://127.0.0.1:9: refused")

    monkeypatch.setattr(module, "register_model", away)
    with pytest.raises(StorageError, match=r"does not answer.*: go on with --resume (popularity-\S+)$") as caught:
        train(recipe, str(users_dataset))
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(module, "register_model", register)
    summary = train(recipe, None, resume=str(caught.value).rpartition(" ")[2])
    assert find_version(summary.model)[0] == "hashtag-recommender"
    assert connect().get_run(summary.run_id).info.status == "FINISHED"


def test_a_training_that_never_began_does_not_speak_of_going_on(
    recipe: Recipe, users_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="does not answer") as caught:
        train(recipe, str(users_dataset))
    assert "--resume" not in str(caught.value)


@pytest.mark.parametrize(("begun", "told"), [(True, "go on with `python jobs/train.py --resume run-1`"), (False, "")])
def test_an_interrupt_names_the_run_that_goes_on(begun: bool, told: str, recipe: Recipe, tmp_path: Path) -> None:
    if begun:
        (tmp_path / "run.json").write_text("{}")
    with pytest.raises(KeyboardInterrupt) as caught, module._resumable("run-1", str(tmp_path), recipe):
        raise KeyboardInterrupt
    assert str(caught.value).split(" --set")[0].rstrip("`") == told.rstrip("`")
