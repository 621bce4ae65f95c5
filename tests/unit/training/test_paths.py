"""Relative paths of a recipe."""

import json
from pathlib import Path

import pytest
import torch
from transformers import ResNetConfig, ResNetModel

from hashtag_core.config import Recipe
from hashtag_core.training.paths import resolve_paths
from hashtag_core.training.record import RunRecord


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


def test_relative_paths_are_those_of_the_folder_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resnet: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").symlink_to(resnet)
    values = {
        "model": {"family": "amnn", "word_vectors": "glove.txt", "start": "hf:unc-nlp/lxmert-base-uncased"},
        "encoders": {"image": "hf:here", "text": "minilm", "image_second": "vgg16:vgg.pth", "cache": "~/features"},
    }
    recipe = resolve_paths(Recipe.model_validate(values))
    assert recipe.model.options["word_vectors"] == str(tmp_path / "glove.txt")
    assert recipe.model.options["start"] == "hf:unc-nlp/lxmert-base-uncased"
    assert recipe.model.family == "amnn"
    assert recipe.encoders.image == f"hf:{tmp_path}/here"
    assert (recipe.encoders.text, recipe.encoders.image_second) == ("minilm", f"vgg16:{tmp_path}/vgg.pth")
    assert recipe.encoders.cache == str(Path.home() / "features")
    again = Recipe.model_validate({"model": {"start": "hf:./x"}, "encoders": {"cache": "s3://bucket/features"}})
    assert resolve_paths(again).model.options["start"] == f"hf:{tmp_path}/x"
    assert resolve_paths(again).encoders.cache == "s3://bucket/features"
    assert resolve_paths(recipe) == recipe


def test_a_run_of_relative_paths_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = Recipe.model_validate({"model": {"family": "amnn", "word_vectors": "glove.txt"}})
    record = RunRecord("run", str(tmp_path), "id", "dataset", "hash", recipe.model_dump(mode="json"))
    record.check_same(resolve_paths(recipe), "dataset", "hash")
