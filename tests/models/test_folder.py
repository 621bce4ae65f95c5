"""The model folder: what is in it, what its version depends on, what is said of a broken one."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from hashtag_core.errors import ConfigError, HashtagError, IntegrityError, NotFoundError
from hashtag_core.models.folder import load_model_folder, save_model_folder
from tests.models.world import VOCABULARY, make

INFO: dict[str, Any] = {
    "name": "toy",
    "metrics": {"f1_at_5": 0.31, "coverage": 1},
    "encoders": {"text": {"id": "minilm", "dim": 16}},
    "captions": {"hashtags": "remove"},
    "dataset": {"content_hash": "abc"},
    "k": 5,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    subject = make("amnn")
    save_model_folder(folder, subject.model, subject.options, VOCABULARY, subject.tokenizer, INFO)
    return folder


@pytest.fixture
def broken(saved: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def test_files_and_card(saved: Path) -> None:
    names = {path.name for path in saved.iterdir()}
    assert names == {"weights.safetensors", "model.json", "vocabulary.json", "tokenizer.json", "README.md"}
    card = (saved / "README.md").read_text(encoding="utf-8")
    assert "Of the **validation split** (protocol headline" in card
    for part in (
        "# toy, version",
        "AMNN (Yang et al. 2020)",
        "| `f1_at_5` | 0.3100 |",
        "minilm",
        "Recommender.load",
        "## Limits",
        "abc",
    ):
        assert part in card


def test_version_follows_content(tmp_path: Path) -> None:
    subject = make("popularity")

    def version(**changes: Any) -> str:
        return save_model_folder(tmp_path, subject.model, subject.options, VOCABULARY, None, {**INFO, **changes})

    first = version()
    assert version() == version(metrics={}) == version(name="another") == first
    assert version(captions={"hashtags": "keep"}) != first
    assert version(encoders={}) != first
    subject.model.fit(_one_post(), seed=0)  # type: ignore[operator]
    assert version() != first


class _one_post:  # noqa: N801
    vocabulary_size, posts = len(VOCABULARY), 1

    def batches(self, batch_size: int):  # type: ignore[no-untyped-def]
        yield make("popularity").batch([0]), [[0]]


def test_saving_again_leaves_nothing_of_before(saved: Path, broken: Path) -> None:
    subject = make("popularity")
    save_model_folder(broken, subject.model, subject.options, VOCABULARY, None, INFO)
    assert not (broken / "tokenizer.json").exists()
    assert load_model_folder(broken).tokenizer is None


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    subject = make("popularity")
    with pytest.raises(ValueError, match="version are written by the folder"):
        save_model_folder(tmp_path, subject.model, subject.options, VOCABULARY, None, {"version": "1"})
    with pytest.raises(ValueError, match="12 tags cannot be saved with 0"):
        save_model_folder(
            tmp_path, subject.model, subject.options, type(VOCABULARY)([], VOCABULARY.counts[:0]), None, {}
        )


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="is not there"):
        load_model_folder(tmp_path)
    with pytest.raises(NotFoundError, match="no model at"):
        load_model_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["weights.safetensors", "vocabulary.json", "tokenizer.json"])
def test_a_missing_or_changed_file_is_named(broken: Path, name: str) -> None:
    content = (broken / name).read_bytes()
    (broken / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=f"{name}: its SHA-256"):
        load_model_folder(broken)
    (broken / name).unlink()
    with pytest.raises(IntegrityError, match=f"{name}: not there"):
        load_model_folder(broken)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"format": 9}, IntegrityError, "format 1 expected, found 9"),
        ({"files": None}, IntegrityError, "not a model description"),
        ({"spec": {"width": 1}}, IntegrityError, "not a model description"),
        ({"family": "amn"}, ConfigError, "did you mean 'amnn'"),
        ({"options": {"dropouts": 0.1}}, ConfigError, "model.json.*unknown key 'dropouts'"),
        ({"options": {}}, IntegrityError, "not the weights of a amnn with these options"),
    ],
)
def test_a_wrong_description(broken: Path, change: dict[str, Any], error: type[HashtagError], message: str) -> None:
    described = json.loads((broken / "model.json").read_text(encoding="utf-8"))
    (broken / "model.json").write_text(json.dumps({**described, **change}), encoding="utf-8")
    with pytest.raises(error, match=message):
        load_model_folder(broken)


def test_half_a_description(broken: Path) -> None:
    text = (broken / "model.json").read_text(encoding="utf-8")
    (broken / "model.json").write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"model\.json: not a model description"):
        load_model_folder(broken)


def test_loading_draws_no_random_numbers_that_show(saved: Path) -> None:
    first, second = load_model_folder(saved), load_model_folder(saved)
    for key, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[key])
