"""Training for real: Ray Train workers, MLflow in SQLite, checkpoints on disk and on S3, processes killed."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from ray.exceptions import RayActorError
from ray.train.v2.api.exceptions import ControllerError
from safetensors.torch import load_file

from hashtag_core.config import Recipe, read_recipe
from hashtag_core.data.dataset import Dataset
from hashtag_core.distributed.features import cache_root
from hashtag_core.distributed.prepare import prepare
from hashtag_core.distributed.tag import tag as tag_archive
from hashtag_core.distributed.train import _run_trainer, train
from hashtag_core.encoders import load_encoders
from hashtag_core.errors import ConfigError, NotFoundError, StorageError, TrainingError
from hashtag_core.models import family, parse_options
from hashtag_core.models.folder import load_model_folder
from hashtag_core.preparation.plan import plan_prepare
from hashtag_core.recommend.policy import read_thresholds
from hashtag_core.recommend.read_posts import READ
from hashtag_core.recommend.recommender import Recommender
from hashtag_core.tagging.plan import plan_tagging
from hashtag_core.tagging.planned_work import TagRequest
from hashtag_core.tracking import runs
from hashtag_core.tracking.registry import resolve_model
from hashtag_core.training.plan import describe_training, plan_training
from hashtag_core.training.record import RunRecord
from tests.tagging.outputs import rows_by_table

COLOURS = {"crimson": (200, 20, 40), "forest": (20, 120, 30), "ocean": (20, 40, 200), "sunny": (240, 220, 40)}
SHAPES = {"circle": "a round ring drawn by hand", "square": "a box with four corners", "star": "five points of light"}
EPOCHS = 6

RECIPE = {
    "vocabulary": {"min_count": 3},
    "split": {"kind": "random", "validation": 0.2, "test": 0.1},
    "model": {
        "family": "amnn",
        "dropout": 0.0,
        "image_hidden": 32,
        "image_steps": 8,
        "embedding": 32,
        "text_hidden": 32,
        "decoder_hidden": 64,
        "decoder_input_size": 64,
    },
    "training": {
        "epochs": EPOCHS,
        "batch_size": 16,
        "learning_rate": 0.01,
        "precision": "float32",
        "select_metric": "f1_at_2",
        "early_stopping_epochs": None,
    },
    "evaluation": {"ks": [1, 2, 3]},
}


def _post(n: int) -> dict[str, object]:
    colour, shape = list(COLOURS)[n % 4], list(SHAPES)[n % 3]
    picture = io.BytesIO()
    Image.new("RGB", (32, 32), tuple(min(255, c + n % 7) for c in COLOURS[colour])).save(picture, "JPEG")
    return {
        "post_id": f"p{n:04d}",
        "user_id": f"u{n % 20}",
        "caption": f"{SHAPES[shape]} number {n}",
        "hashtags": [colour, shape, f"once{n}"],
        "image": picture.getvalue() if n % 11 else None,
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def dataset(place, ray_session, write_archive) -> str:
    archive = write_archive(place / "archive", [_post(n) for n in range(160)])
    prepare(plan_prepare(Recipe.model_validate(RECIPE), str(archive), str(place / "dataset")))
    return str(place / "dataset")


@pytest.fixture(scope="module", autouse=True)
def tracking(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/mlflow.db")
        yield


def _recipe(place: Path, **training: object) -> Recipe:
    training = {"storage": str(place / "runs"), **training}
    return Recipe.model_validate(RECIPE | {"training": RECIPE["training"] | training})


@pytest.fixture(scope="module")
def trained(place, dataset):
    """An undisturbed run of two workers."""
    return train(_recipe(place, workers=2), dataset)


def _version(model: str) -> str:
    return json.loads((resolve_model(model).folder / "model.json").read_text())["version"]


def _history(run_id: str, metric: str) -> list[tuple[int, float]]:
    found = runs.connect().get_metric_history(run_id, metric)
    return sorted((entry.step, entry.value) for entry in found)


def test_two_workers_finish_and_improve(trained, place, dataset):
    losses = [value for _, value in _history(trained.run_id, "train_loss")]
    assert [step for step, _ in _history(trained.run_id, "train_loss")] == list(range(1, EPOCHS + 1))
    assert losses[-1] < 0.7 * losses[0]
    assert trained.metrics["hit_rate_at_2"] > 0.6
    quality = [value for _, value in _history(trained.run_id, "validation_f1_at_2")]
    assert trained.best_epoch == quality.index(max(quality)) + 1
    client = runs.connect()
    run = client.get_run(trained.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["training.batch_size"] == "16"
    assert run.data.params["model.family"] == "amnn"
    assert run.data.tags["dataset_hash"] == plan_training(_recipe(place), dataset).dataset.info.content_hash
    assert {item.path for item in client.list_artifacts(trained.run_id)} >= {"recipe.json", "curves.png", "model"}
    assert run.data.metrics["validation_headline.f1_at_2"] == pytest.approx(trained.metrics["f1_at_2"])
    # The folder is the best epoch's: what it scores on its own is what the workers saw after that epoch.
    assert run.data.metrics["validation_floor.f1_at_2"] == pytest.approx(max(quality), abs=1e-6)


def test_the_model_folder_tells_where_it_comes_from(trained):
    loaded = load_model_folder(resolve_model(trained.model).folder)
    assert loaded.family == "amnn"
    assert loaded.info["recipe"]["training"]["workers"] == 2
    assert loaded.info["captions"]["hashtags"] == "remove"
    assert loaded.info["encoders"]["image"]["id"] == "efficientnet_lite0"
    assert loaded.info["k"] in {1, 2, 3}
    assert trained.parameters == sum(value.numel() for value in loaded.model.state_dict().values()) > 0
    assert loaded.info["metrics"]["f1_at_2"] == pytest.approx(trained.metrics["f1_at_2"])
    assert "once1" not in loaded.vocabulary.index


def test_checkpoints_hold_no_pickle_and_are_the_best_and_the_latest(trained, place):
    folder = place / "runs" / trained.run_name
    kept = sorted(path.name for path in folder.glob("epoch-*"))
    assert kept == sorted({f"epoch-{trained.best_epoch:04d}-step-000000", f"epoch-{EPOCHS:04d}-step-000000"})
    assert {path.suffix for path in folder.glob("epoch-*/*")} == {".safetensors", ".json"}


def test_one_worker_with_checkpoints_on_s3_takes_the_same_steps(trained, dataset, place, s3_bucket):
    summary = train(_recipe(place, workers=1, storage=f"{s3_bucket}/runs"), dataset)
    for metric in ("train_loss", "validation_loss", "gradient_norm"):
        alone, together = _history(summary.run_id, metric), _history(trained.run_id, metric)
        assert [value for _, value in alone] == pytest.approx([value for _, value in together], rel=0.02), metric
    assert RunRecord.find(f"{s3_bucket}/runs", summary.run_id).summary.model == summary.model


def _await_checkpoint(root: Path, known: Collection[Path] = (), timeout_s: float = 180) -> str:
    """The run below `root` that has one that is not known."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        for folder in root.glob("*-*"):
            if set(folder.glob("epoch-*/state.json")).difference(known):
                return folder.name
        time.sleep(0.05)
    raise AssertionError("no checkpoint appeared")


def _workers() -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if process.is_running() and "RayTrainWorker" in " ".join(process.cmdline()[:1])
    ]


def test_a_killed_driver_is_resumed_a_killed_worker_replaced_and_the_model_is_the_same(
    trained, place, dataset, repository
):
    """The driver is killed in the first epochs, and in the run that goes on from there one of two workers."""
    root = place / "driver"
    recipe = _recipe(place, workers=2, storage=str(root))
    file = place / "recipe.toml"
    file.write_text(_toml(recipe.model_dump(mode="json", exclude_unset=True)))
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    root.mkdir()
    driver = subprocess.Popen(
        [sys.executable, repository / "jobs" / "train.py", "--recipe", file, "--dataset", dataset],
        env=environment, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    family = [driver.pid]
    try:
        name = _await_checkpoint(root)
        family += [process.pid for process in psutil.Process(driver.pid).children(recursive=True)]
    finally:
        workers = _workers()
        driver.kill()
        for worker in workers:  # until its Ray has ended by itself they would go on, to the last epoch
            worker.kill()
        driver.communicate()
        _end(family[1:])
    record = RunRecord.find(str(root), name)
    assert record.summary is None
    with pytest.raises(ConfigError, match=r"cannot be resumed: training\.learning_rate was 0\.01, is 0\.5"):
        train(_recipe(place, workers=2, storage=str(root), learning_rate=0.5), dataset, resume=name)
    known = set(root.glob("*/epoch-*/state.json"))
    outcome: list[object] = []
    thread = threading.Thread(target=lambda: outcome.append(train(recipe, dataset, resume=record.run_id)))
    thread.start()
    _await_checkpoint(root, known)
    victims = _workers()
    assert len(victims) == 2
    victims[0].send_signal(signal.SIGKILL)
    thread.join(300)
    assert outcome, "the run did not go on"
    summary = outcome[0]
    assert (summary.run_id, summary.run_name) == (record.run_id, name)
    assert [step for step, _ in _history(summary.run_id, "train_loss")] == list(range(1, EPOCHS + 1))
    assert _history(summary.run_id, "train_loss") == _history(trained.run_id, "train_loss")
    assert _version(summary.model) == _version(trained.model)
    assert train(recipe, dataset, resume=name) == summary, "a finished run says what it made"


def test_a_worker_that_dies_as_training_begins_is_replaced_so_many_times(caplog):
    """Ray does not try again what its controller sees then."""
    ends: list[Exception | str] = []

    class Trainer:
        def fit(self) -> str:
            end = ends.pop(0)
            if isinstance(end, Exception):
                raise end
            return end

    death = ControllerError(RayActorError())
    ends[:] = [death, death, "trained"]
    assert _run_trainer(Trainer, 2) == "trained"
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "a worker died as training began, beginning anew"
    ] * 2
    for fault, tries in ((death, 3), (ControllerError(ValueError("of its own")), 1)):
        ends[:] = [fault] * 3
        with pytest.raises(TrainingError, match=f"after {tries - 1} new starts"):
            _run_trainer(Trainer, 2)
        assert len(ends) == 3 - tries


def _end(pids: list[int]) -> None:
    """Wait for the killed driver's Ray to end by itself; end what is left of it."""
    left = []
    for pid in pids:
        try:
            left.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            continue
    for process in psutil.wait_procs(left, timeout=5)[1]:
        process.kill()


def _toml(values: dict[str, object]) -> str:
    lines = []
    for section, fields in values.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps('null' if value is None else value)}" for key, value in fields.items()]
    return "\n".join(lines)


def test_a_loss_that_is_not_finite_ends_the_run_at_once(place, dataset):
    recipe = _recipe(place, workers=1, learning_rate=1e30, warmup=0, gradient_clip_norm=None, schedule="constant")
    with pytest.raises(TrainingError, match=r"is (nan|inf) in epoch 0, step \d+.* posts p\d{4}, "):
        train(recipe, dataset)


@pytest.mark.parametrize("family", ["linear", "popularity"])
def test_fitted_families_go_the_same_way(place, dataset, family):
    recipe = _recipe(place).model_copy(update={"model": Recipe.model_validate({"model": {"family": family}}).model})
    summary = train(recipe, dataset)
    assert summary.epochs is None
    assert summary.metrics["f1_at_2"] > (0.5 if family == "linear" else 0)
    folder = resolve_model(summary.model).folder
    assert load_model_folder(folder).family == family
    assert not (folder / "thresholds.json").exists()


def test_thresholds_go_with_the_model_and_tagging_heeds_them(inline, place, dataset, tmp_path):
    model = Recipe.model_validate({"model": {"family": "linear"}}).model
    recipe = _recipe(place, tag_thresholds=True).model_copy(update={"model": model})
    trained = resolve_model(train(recipe, dataset).model)
    loaded, thresholds = load_model_folder(trained.folder), read_thresholds(trained.folder)
    validation = [
        row for part in Dataset.open(dataset).read("validation", [*READ.names, "hashtags"]) for row in part.to_pylist()
    ]
    known = {tag for post in validation for tag in post["hashtags"]} & loaded.vocabulary.index.keys()
    assert thresholds.keys() == known
    assert known < COLOURS.keys() | SHAPES.keys(), "a tag that no validation post has is left out"
    plain = {
        post["post_id"]: post for post in Recommender.load(str(trained.folder)).recommend(validation, 7).to_pylist()
    }
    for tag, least in thresholds.items():
        scores = {key: dict(zip(post["hashtags"], post["scores"], strict=True))[tag] for key, post in plain.items()}
        true = {post["post_id"] for post in validation if tag in post["hashtags"]}
        best = max(_f1(scores, true, level) for level in scores.values())
        assert _f1(scores, true, least - 1e-6) >= best - 1e-6, "scores differ in the last digits with the batch"
    job = plan_tagging(TagRequest(Recipe(), str(place / "archive"), str(tmp_path / "out"), trained))
    assert job.policy.thresholds == thresholds
    assert tag_archive(job).tagged == 160
    rows = [
        row for path in (tmp_path / "out").glob("model=*/**/part-*.parquet") for row in pq.read_table(path).to_pylist()
    ]
    given = [pair for row in rows for pair in zip(row["hashtags"], row["scores"], strict=True)]
    assert 160 < len(given) < 160 * len(known)
    assert all(score >= thresholds.get(tag, 0) for tag, score in given)


def _f1(scores: dict[str, float], true: set[str], least: float) -> float:
    given = {key for key, score in scores.items() if score >= least}
    return 2 * len(given & true) / (len(given) + len(true))


def test_a_run_from_before_the_key_is_taken_up(place):
    """Thresholds are added to a model and change nothing of it: neither their absence nor their being asked for differs."""
    before = _recipe(place).model_dump(mode="json")
    before["training"] = {key: value for key, value in before["training"].items() if not key.startswith("tag_")}
    record = RunRecord("run", str(place), "id", "dataset", "hash", before)
    record.check_same(_recipe(place, tag_thresholds=True), "dataset", "hash")


def test_a_family_is_built_on_a_trained_amnn(trained, place, dataset):
    model = {"family": "neighbor_voting", "features": "amnn", "amnn_model": trained.model, "neighbours": 10}
    recipe = _recipe(place).model_copy(update={"model": Recipe.model_validate({"model": model}).model})
    summary = train(recipe, dataset)
    assert summary.metrics["f1_at_2"] > 0.4
    loaded = load_model_folder(resolve_model(summary.model).folder)
    base = load_model_folder(resolve_model(trained.model).folder)
    assert loaded.info["base"] == {"family": "amnn", "version": base.version}
    assert loaded.options.amnn == base.options
    assert loaded.tokenizer.words() == base.tokenizer.words()
    for key, value in loaded.model.vectors.amnn.state_dict().items():
        assert value.equal(base.model.state_dict()[key]), key
    others = recipe.model_copy(update={"encoders": Recipe.model_validate({"encoders": {"grid_side": 3}}).encoders})
    with pytest.raises(ConfigError, match=r"amnn that neighbor_voting is built on .* other encoders"):
        train(others, dataset)
    model["amnn_model"] = summary.model
    wrong = recipe.model_copy(update={"model": Recipe.model_validate({"model": model}).model})
    with pytest.raises(ConfigError, match="family 'amnn' expected, found 'neighbor_voting'"):
        plan_training(wrong, dataset)


@pytest.mark.parametrize(
    ("training", "error", "message"),
    [
        ({"batch_size": 2, "workers": 4}, ConfigError, "2 posts cannot be shared by 4 workers"),
        ({"select_metric": "f2_at_5"}, ConfigError, r"no metric 'f2_at_5'; there are .*f1_at_<k>"),
        ({"gpus": "always"}, ConfigError, "needs 1 GPUs, the cluster has 0"),
        ({"workers": 3, "worker_cpus": 2.0}, ConfigError, "3 workers of 2 CPUs do not fit"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_written(place, dataset, training, error, message):
    before = {path.name for path in (place / "runs").glob("*")}
    with pytest.raises(error, match=message):
        train(_recipe(place, **training), dataset)
    assert {path.name for path in (place / "runs").glob("*")} == before


def test_what_is_not_there_is_said(place, dataset):
    with pytest.raises(NotFoundError, match="no dataset there"):
        plan_training(_recipe(place), str(place / "nowhere"))
    with pytest.raises(NotFoundError, match="no run 'never'"):
        plan_training(_recipe(place), dataset, resume="never")


def test_an_mlflow_that_does_not_answer_stops_the_run_before_it_starts(place, dataset, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    before = {path.name for path in (place / "runs").glob("*")}
    with pytest.raises(StorageError, match="MLflow does not answer"):
        train(_recipe(place), dataset)
    with pytest.raises(StorageError, match="MLflow does not answer"):
        describe_training(plan_training(_recipe(place), dataset))
    assert {path.name for path in (place / "runs").glob("*")} == before


def test_dry_run_describes_and_writes_nothing(place, dataset):
    before = sorted(place.rglob("*"))
    described = describe_training(plan_training(_recipe(place), dataset))
    assert described["posts"]["train"] > 90
    assert described["vocabulary"] == 7
    assert sorted(place.rglob("*")) == before


def test_an_encoder_is_trained_with_its_model(inline, place, dataset, tmp_path, write_archive):
    """On two workers: the folder holds what was trained, and tagging, notebook and evaluation score with it alike."""
    model = {
        "family": "co_attention",
        "text_input": "encoder",
        "hidden": 16,
        "attention_units": 8,
        "inputs": ["caption", "image"],
    }
    encoders = {"finetune": "last:1", "layer_decay": 0.9, "grid_side": 2, "precision": "float32", "backend": "torch"}
    training = {"epochs": 2, "workers": 2, "encoder_learning_rate": 1e-3}
    recipe = _recipe(place, **training).model_dump(mode="json", exclude_unset=True)
    recipe = Recipe.model_validate({**recipe, "model": model, "encoders": encoders})
    summary = train(recipe, dataset)
    folder = resolve_model(summary.model).folder
    weights = load_file(folder / "weights.safetensors")
    section = recipe.encoders
    needs = family("co_attention").needs(
        parse_options("co_attention", {k: v for k, v in model.items() if k != "family"})
    )
    start = load_encoders(section, needs, "cpu").tops().state_dict()
    moved = {name for name, value in start.items() if not torch.equal(value, weights[f"encoder.{name}"])}
    assert {name.split(".")[0] for name in moved} == {"image", "text"}
    assert not any("running_" in name for name in moved)

    posts = pq.read_table(place / "archive", columns=["post_id", "caption", "image"]).slice(0, 24)
    recommender = Recommender.load(str(folder), "cpu")
    raw = recommender.recommend(posts, top_k=3)
    cache = recommender.encoders.open_cache(cache_root(dataset, section))
    cached = recommender.recommend(posts, top_k=3, cached=cache)
    assert raw["hashtags"].to_pylist() == cached["hashtags"].to_pylist()
    few = write_archive(tmp_path / "few", [_post(n) for n in range(24)])
    request = TagRequest(Recipe.model_validate({"tagging": {"top_k": 3}}), str(few), str(tmp_path / "out"),
                         resolve_model(summary.model))  # fmt: skip
    tag_archive(plan_tagging(request))
    rows = {row["post_id"]: row for row in rows_by_table(tmp_path / "out")}
    for row in raw.to_pylist():
        assert rows[row["post_id"]]["hashtags"] == row["hashtags"]
        assert rows[row["post_id"]]["scores"] == pytest.approx(row["scores"], abs=1e-3)


def test_an_encoder_needs_a_rate_and_a_family_that_learns(place, dataset):
    recipe = _recipe(place).model_dump(mode="json", exclude_unset=True)
    for values, message in (
        ({"encoders": {"finetune": "last:1"}}, r"training\.encoder_learning_rate: name the rate"),
        ({"encoders": {"finetune": "last:1"}, "model": {"family": "linear"}}, "linear is fitted in closed form"),
        (
            {"encoders": {"finetune": "last:2", "unfreeze_epochs": 1}, "training": {"encoder_learning_rate": 0.0}},
            "no block would learn",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            plan_training(Recipe.model_validate({**recipe, **values}), dataset)
    with pytest.raises(ConfigError, match=r"encoders\.finetune"):
        read_recipe(None, ["encoders.finetune=some"])
