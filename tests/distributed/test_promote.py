"""Gates on real models: a worse, an equal, a luckier and a better challenger; one that wins and loses a slice; the first."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hashtag_core.config import Recipe, read_recipe
from hashtag_core.data.dataset import Dataset
from hashtag_core.distributed.evaluate import evaluate_model
from hashtag_core.distributed.promote import plan_promote, promote, roll_back
from hashtag_core.distributed.promote_figures import duel
from hashtag_core.errors import GateRefused, StorageError
from hashtag_core.evaluation.ground_truth import read_truths
from hashtag_core.judging.report import Evaluation
from hashtag_core.models import InputSpec, create_model, parse_options
from hashtag_core.models.folder import save_model_folder
from hashtag_core.promotion.gates import Gate
from hashtag_core.recommend.recommender import Recommender
from hashtag_core.recommend.served import golden_outputs
from hashtag_core.tracking.registry import (
    champion,
    champion_moves,
    find_version,
    move_champion,
    register_model_folder,
    resolve_model,
)
from hashtag_core.tracking.runs import connect, start_run

NAME = "hashtag-recommender"
RECIPE = read_recipe(None, ["evaluation.bootstrap_samples=20", "gates.speed_posts=8", "gates.min_speed_ratio=0.01"])


@pytest.fixture(scope="module")
def dataset(users_dataset: Path) -> Dataset:
    return Dataset.open(str(users_dataset))


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> Callable[..., Path]:
    """`make(family, change)`: that family on the dataset's counts; `change` changes the shares."""

    def save(family: str, change: Callable[[torch.Tensor], torch.Tensor] = lambda shares: shares) -> Path:
        vocabulary, recipe = dataset.vocabulary, Recipe()
        options = parse_options(family, {"prior_posts": 1.0} if family == "user_frequency" else {})
        model = create_model(family, InputSpec(len(vocabulary)), options)
        shares = torch.tensor(vocabulary.counts / vocabulary.posts, dtype=torch.float32)
        model.share_V.copy_(change(shares))
        info = {
            "name": NAME,
            "recipe": recipe.model_dump(mode="json"),
            "encoders": {},
            "captions": recipe.captions.model_dump(mode="json"),
            "dataset": {"content_hash": dataset.info.content_hash},
        }
        folder = tmp_path_factory.mktemp("model") / family
        save_model_folder(folder, model, options, vocabulary, None, info)
        return folder

    return save


@pytest.fixture
def register(mlflow_store: Path) -> Callable[..., str]:
    def add(folder: Path, golden: bool = True) -> str:
        outputs = golden_outputs(Recommender.load(str(folder))) if golden else None
        with start_run("hashtag-recommender", f"train {folder.name}") as run:
            return register_model_folder(run, folder, NAME, {"family": folder.name}, golden=outputs)

    return add


def judged(dataset: Dataset, folder: Path) -> Evaluation:
    truth, _ = read_truths(dataset, RECIPE)
    return evaluate_model(str(folder), truth, None, RECIPE)


def lucky(dataset: Dataset, make: Callable[..., Path], champion: Path) -> Path:
    """A popularity whose tags are in an order that happens to gain more than is asked for, by chance."""
    truth, _ = read_truths(dataset, RECIPE)
    before = judged(dataset, champion)
    for seed in range(60):
        noise = torch.rand(len(dataset.vocabulary), generator=torch.Generator().manual_seed(seed)) * 0.03
        folder = make("popularity", lambda shares, noise=noise: shares + noise)
        gain = duel(judged(dataset, folder), before, truth, RECIPE).gain
        assert gain is not None
        if gain.value > RECIPE.gates.min_gain and gain.p_value > 0.2:
            return folder
    raise AssertionError("no order of 60 gains a little")


def refusal(dataset: Dataset, uri: str, recipe: Recipe = RECIPE) -> dict[str, Gate]:
    with pytest.raises(GateRefused) as caught:
        promote(plan_promote(dataset.uri, uri, recipe))
    assert caught.value.summary is not None
    assert caught.value.summary["promoted"] is False
    refused = {gate["name"]: Gate(**gate) for gate in caught.value.summary["gates"] if not gate["passed"]}
    assert all(gate.detail in str(caught.value) for gate in refused.values())
    return refused


def test_worse_equal_and_lucky_are_refused_and_better_is_promoted(
    dataset: Dataset, make: Callable[..., Path], register: Callable[..., str]
) -> None:
    holder = make("popularity")
    register(holder)
    move_champion(NAME, "1", {})
    worse, equal = register(make("popularity", lambda shares: 1 - shares)), register(holder)
    luckier, better = register(lucky(dataset, make, holder)), register(make("user_frequency"))

    assert {"gain", "slices"} <= refusal(dataset, worse).keys()
    assert refusal(dataset, equal).keys() == {"gain"}
    by_luck = refusal(dataset, luckier)
    assert by_luck.keys() == {"gain"}
    assert "may be chance" in by_luck["gain"].detail
    assert champion(NAME) == "1"

    summary = promote(plan_promote(dataset.uri, better, RECIPE))
    assert (summary["promoted"], summary["champion"], summary["previous"]) == (True, better, f"models:/{NAME}/1")
    split = next(gate for gate in summary["gates"] if gate["name"] == "split")
    assert "has judged 3 challengers before" in split["detail"]
    tags = find_version(better)[2]
    assert tags["gates"] == "passed"
    assert {name for name in tags if name.startswith("gate.")} == {f"gate.{gate['name']}" for gate in summary["gates"]}
    assert tags["gate.golden"].startswith("passed: scores differ from those recorded at registration by at most 0")
    check_report(summary["run_id"], better)
    with pytest.raises(GateRefused, match="it may judge 4"):
        promote(plan_promote(dataset.uri, worse, replace_gates(max_split_uses=4)))


def replace_gates(**changes: Any) -> Recipe:
    return RECIPE.model_copy(update={"gates": RECIPE.gates.model_copy(update=changes)})


def check_report(run_id: str, uri: str) -> None:
    """The run of the gates: below the challenger's own, with its report and its dataset."""
    client = connect()
    run = client.get_run(run_id)
    assert run.data.tags["mlflow.parentRunId"] == client.get_model_version(NAME, uri.rpartition("/")[2]).run_id
    assert (run.info.status, run.data.tags["verdict"]) == ("FINISHED", "passed")
    assert {file.path for file in client.list_artifacts(run_id)} == {"promotion.html", "promotion.json", "promotion.md"}
    assert run.inputs.dataset_inputs[0].dataset.name == "dataset.test"
    root = Path(run.info.artifact_uri.removeprefix("file://"))
    page, told = (root / "promotion.html").read_text(), json.loads((root / "promotion.json").read_text())
    assert page.startswith("<!doctype html>")
    assert "<td>slices</td>" in page.replace(' style="text-align:left"', "")
    assert told["figures"][uri]["f1_at_5"] == run.data.metrics["f1_at_5"]


def test_who_wins_overall_and_loses_a_slice_is_refused_and_the_slice_named(
    dataset: Dataset, make: Callable[..., Path], register: Callable[..., str]
) -> None:
    register(make("popularity"))
    move_champion(NAME, "1", {})
    uri = register(make("user_frequency", lambda shares: (1 - shares) * 0.2))  # knows its users, guesses the others ill
    refused = refusal(dataset, uri)
    assert "gain" not in refused
    assert "history of 0 posts -" in refused["slices"].detail

    summary = promote(plan_promote(dataset.uri, uri, RECIPE), force="its users matter more")
    assert (summary["promoted"], summary["forced"]) == (True, "its users matter more")
    assert find_version(uri)[2]["gates"] == "forced"
    move = champion_moves(NAME)[-1]
    assert (move.why["forced"], "slices" in move.why["refused_by"]) == ("its users matter more", True)
    assert roll_back(NAME)["champion"] == f"models:/{NAME}/1"


def test_the_first_champion_must_beat_the_floors(
    dataset: Dataset, make: Callable[..., Path], register: Callable[..., str]
) -> None:
    popular, better = register(make("popularity")), register(make("user_frequency"))
    refused = refusal(dataset, popular)
    assert refused.keys() == {"gain"}
    assert "linear" in refused["gain"].detail  # not itself
    summary = promote(plan_promote(dataset.uri, better, RECIPE))
    assert (summary["champion"], summary["previous"]) == (better, None)
    told = next(gate["detail"] for gate in summary["gates"] if gate["name"] == "gain")
    assert "no champion yet" in told
    assert "popularity" in told
    assert "linear" in told


def test_a_broken_challenger_is_refused_even_by_force_and_a_broken_champion_can_be_replaced_by_it(
    dataset: Dataset, make: Callable[..., Path], register: Callable[..., str]
) -> None:
    holder, broken = register(make("popularity")), register(make("user_frequency"))
    move_champion(NAME, "1", {})
    with (resolve_model(broken).folder / "weights.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(GateRefused, match=r"folder: .*weights\.safetensors was changed"):
        promote(plan_promote(dataset.uri, broken, RECIPE), force="now")
    whole = register(make("user_frequency"), golden=False)
    (resolve_model(holder).folder / "model.json").write_text("{}")
    with pytest.raises(GateRefused, match=r"champion: the champion cannot be judged"):
        promote(plan_promote(dataset.uri, whole, RECIPE))
    assert promote(plan_promote(dataset.uri, whole, RECIPE), force="the champion is broken")["champion"] == whole


def test_outputs_that_are_not_those_of_registration_are_refused(
    dataset: Dataset, make: Callable[..., Path], register: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    register(make("popularity"))
    move_champion(NAME, "1", {})
    uri = register(make("user_frequency"))
    rank = Recommender.rank

    def other(self: Recommender, *given: Any) -> tuple[np.ndarray, np.ndarray]:
        indices, scores = rank(self, *given)
        return indices, scores * 0.9

    monkeypatch.setattr(Recommender, "rank", other)
    assert "golden" in refusal(dataset, uri)


def test_a_champion_that_moved_while_the_gates_decided_is_told(
    dataset: Dataset, make: Callable[..., Path], register: Callable[..., str]
) -> None:
    register(make("popularity"))
    move_champion(NAME, "1", {})
    uri = register(make("user_frequency"))
    plan = plan_promote(dataset.uri, uri, RECIPE)
    other = register(make("popularity"))
    move_champion(NAME, other.rpartition("/")[2], {}, expected="1")
    with pytest.raises(StorageError, match="changed from version 1 to version 3 meanwhile: nothing was moved"):
        promote(replace(plan))
    assert champion(NAME) == "3"
