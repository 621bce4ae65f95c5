"""A recipe that cannot be trained is refused by its dry run: the model is built, every file that it needs is opened. No Ray."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, ResNetConfig, ResNetModel

from hashtag_core.config import Recipe
from hashtag_core.distributed import train_worker as worker_module
from hashtag_core.errors import ConfigError, HashtagError, IntegrityError, NotFoundError, StorageError
from hashtag_core.models import list_models
from hashtag_core.training.plan import describe_training, plan_training
from tests.unit.training.paths import check


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One that says of itself what it holds; a dry run reads no post."""
    folder = tmp_path_factory.mktemp("check") / "dataset"
    folder.mkdir()
    info = {
        "format": 1,
        "content_hash": "abc",
        "posts": {"train": 90, "validation": 10, "test": 0},
        "vocabulary": 3,
        "rejected": 0,
        "left_out": {},
        "config": {},
        "archive": "a",
        "fingerprint": "f",
        "files": [],
    }
    vocabulary = {"tags": ["cat", "dog", "sun"], "counts": [9, 8, 7], "posts": 90, "config": {}}
    (folder / "dataset.json").write_text(json.dumps(info))
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary))
    return str(folder)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resnet")
    torch.manual_seed(0)
    ResNetModel(ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1])).save_pretrained(folder)
    settings = {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("name", list_models())
def test_every_family_is_built_without_memory(name: str, dataset: str) -> None:
    second = {"image_second": "efficientnet_lite0"} if name == "vgg_object_scene" else {}
    assert check(dataset, {"family": name}, second) >= 0


def test_a_start_that_is_not_there(dataset: str) -> None:
    with pytest.raises(NotFoundError, match=r"model\.start: no LXMERT at '/nowhere'"):
        check(dataset, {"family": "lxmert4hashtag", "start": "hf:/nowhere"})


def test_a_bert_in_place_of_lxmert(dataset: str, tmp_path: Path) -> None:
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    BertModel(BertConfig(**sizes, intermediate_size=32)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="a LXMERT expected, found 'bert'"):
        check(dataset, {"family": "lxmert4hashtag", "start": f"hf:{tmp_path}"})


@pytest.mark.parametrize("family", ["amnn", "okboomer"])
def test_word_vectors_that_are_not_there_or_of_another_size(dataset: str, tmp_path: Path, family: str) -> None:
    with pytest.raises(NotFoundError, match=r"model\.word_vectors: no file at .*none\.txt"):
        check(dataset, {"family": family, "word_vectors": str(tmp_path / "none.txt")})
    (tmp_path / "some.txt").write_text("cat 1 2 3\n")
    with pytest.raises(ConfigError, match="300 numbers expected"):
        check(dataset, {"family": family, "word_vectors": str(tmp_path / "some.txt")})


def test_a_resnet_where_the_options_say_vit(dataset: str, resnet: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.visual: 'vit' has regions of 768 features, encoders\.image gives 8"):
        check(dataset, {"family": "design", "visual": "vit"}, {"image": f"hf:{resnet}"})


def test_weights_of_an_encoder_that_are_cut(dataset: str, resnet: Path, tmp_path: Path) -> None:
    for file in resnet.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(IntegrityError, match="cannot be read"):
        check(dataset, {"family": "nic"}, {"image": f"hf:{tmp_path}"})


@pytest.mark.parametrize(
    ("encoders", "training", "message"),
    [
        ({"unfreeze_epochs": 1}, {}, "nothing is frozen that would be freed"),
        (
            {"unfreeze_epochs": 2, "finetune": "last:3"},
            {"epochs": 4},
            r"2 epochs a block .* after 4, and training\.epochs is 4",
        ),
        ({}, {"parallel": "fsdp", "weight_average": 0.9}, r'"fsdp" does not go with training\.weight_average = 0\.9'),
        ({}, {"parallel": "fsdp", "precision": "float16"}, r"does not go with training\.precision = float16"),
        (
            {"unfreeze_epochs": 1, "finetune": "last:2"},
            {"parallel": "fsdp"},
            r"does not go with encoders\.unfreeze_epochs = 1",
        ),
    ],
)
def test_settings_that_exclude_each_other(
    encoders: dict[str, Any], training: dict[str, Any], message: str, dataset: str, mlflow_store: Path, tmp_path: Path
) -> None:
    rates = {"encoder_learning_rate": 1e-4, "storage": str(tmp_path)}
    recipe = {"model": {"family": "amnn", "inputs": ["caption"], "text_input": "encoder"}, "encoders": encoders}
    with pytest.raises(ConfigError, match=message):
        describe_training(plan_training(Recipe.model_validate({**recipe, "training": {**rates, **training}}), dataset))


def test_the_dry_run_does_all_that(dataset: str, mlflow_store: Path, tmp_path: Path) -> None:
    recipe = {"model": {"family": "amnn", "word_vectors": "none.txt"}, "training": {"storage": str(tmp_path)}}
    with pytest.raises(NotFoundError, match="word_vectors"):
        describe_training(plan_training(Recipe.model_validate(recipe), dataset))
    recipe["model"] = {"family": "amnn"}
    assert describe_training(plan_training(Recipe.model_validate(recipe), dataset))["parameters"] > 1_000_000


@pytest.mark.parametrize("error", [ConfigError("wrong"), NotFoundError("gone"), IntegrityError("broken")])
def test_an_error_that_a_fresh_worker_would_meet_again_is_no_lost_worker(
    error: HashtagError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_loop(job: Any, threads: int) -> Any:
        raise error

    monkeypatch.setattr(worker_module, "_make_loop", make_loop)
    assert worker_module.train_worker(None, 1) is error  # type: ignore[arg-type]


@pytest.mark.parametrize(("given", "cores", "local", "threads"), [(2, 8, 1, 2), (8, 8, 2, 4), (8, 1, 2, 1)])
def test_a_worker_computes_with_the_threads_that_it_was_given(
    given: int, cores: int, local: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most with its share of the cores that its process may use."""
    context = SimpleNamespace(
        get_local_world_size=lambda: local, get_world_rank=lambda: 1, get_world_size=lambda: local
    )
    monkeypatch.setattr(worker_module.ray.train, "get_context", lambda: context)
    monkeypatch.setattr(worker_module.ray.train, "get_checkpoint", lambda: None)
    monkeypatch.setattr(worker_module.ray.train.torch, "get_device", lambda: "cpu")
    monkeypatch.setattr(worker_module.os, "sched_getaffinity", lambda pid: set(range(cores)))
    for name in ("check_storage", "check_disk", "Validation", "make_loop"):
        monkeypatch.setattr(worker_module, name, lambda *some, **more: None)
    found: list[int] = []
    monkeypatch.setattr(worker_module.torch, "set_num_threads", found.append)
    worker_module._make_loop(SimpleNamespace(record_file="", run_id=""), given)  # type: ignore[arg-type]
    assert found == [threads]


def test_a_store_that_does_not_answer_is_asked_again_by_a_fresh_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def make_loop(job: Any, threads: int) -> Any:
        raise StorageError("no answer")

    monkeypatch.setattr(worker_module, "_make_loop", make_loop)
    with pytest.raises(StorageError):
        worker_module.train_worker(None, 1)  # type: ignore[arg-type]
