"""A model whose files are not those that were registered is refused, with the reason, before anything is done with it."""

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hashtag_core.data.model_files import check_model_files, content_hash, model_version
from hashtag_core.errors import IntegrityError
from hashtag_core.models.folder import load_model_folder
from hashtag_core.tracking.registry import find_version, register_model_folder, resolve_model
from hashtag_core.tracking.runs import start_run


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, make_model_folder: Callable[..., Path]) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("model") / "popularity", "popularity", tags=8)


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def flip_a_byte(folder: Path) -> None:
    data = bytearray((folder / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(data)


def swap_weights(folder: Path, change: Callable[[torch.Tensor], torch.Tensor] = lambda value: value.flip(0)) -> None:
    tensors = load_file(folder / "weights.safetensors")
    changed = {key: change(value).contiguous() if value.ndim else value for key, value in tensors.items()}
    save_file(changed, folder / "weights.safetensors")


def shorten_vocabulary(folder: Path) -> None:
    held = json.loads((folder / "vocabulary.json").read_text())
    changed = {key: value[:-1] if isinstance(value, list) else value for key, value in held.items()}
    (folder / "vocabulary.json").write_text(json.dumps(changed))


def rewrite_list(folder: Path, version: bool = False) -> None:
    """The list of hashes as the files are now; with `version`, the version that they make too."""
    described = json.loads((folder / "model.json").read_text())
    described["files"] = listed = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in described["files"]
    }
    if version:
        described["files_hash"] = content_hash(listed)
        described["version"] = model_version(described, described["files"])
    (folder / "model.json").write_text(json.dumps(described))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "one flipped byte": (flip_a_byte, r"weights\.safetensors: its SHA-256"),
    "a missing file": (lambda folder: (folder / "vocabulary.json").unlink(), r"vocabulary\.json: not there"),
    "an added file": (
        lambda folder: (folder / "notes.txt").write_text("x"),
        r"notes\.txt: is no part of a model folder",
    ),
    "a file in a folder": (
        lambda folder: shutil.copytree(folder, folder / "deep"),
        r"deep/.*no part of a model folder",
    ),
    "a pickle": (
        lambda folder: (folder / "weights.pkl").write_bytes(pickle.dumps([1])),
        r"weights\.pkl: a file that can hold code",
    ),
    "a list written anew": (
        lambda folder: (swap_weights(folder), rewrite_list(folder)),
        "its files make .*list of hashes written anew",
    ),
    "a linked folder": (lambda folder: (folder / "more").symlink_to(folder.parent), "a link to a folder"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_folder_that_is_not_what_it_says(copy: Path, name: str) -> None:
    change, message = BROKEN[name]
    change(copy)
    for refuse in (check_model_files, load_model_folder, lambda folder: resolve_model(str(folder))):
        with pytest.raises(IntegrityError, match=message):
            refuse(copy)


def test_weights_of_another_shape_and_a_vocabulary_of_another_length_are_no_model(copy: Path, saved: Path) -> None:
    swap_weights(copy, lambda value: torch.cat([value, value]))
    rewrite_list(copy, version=True)
    with pytest.raises(IntegrityError, match=r"weights\.safetensors: not the weights"):
        load_model_folder(copy)
    shutil.copyfile(saved / "weights.safetensors", copy / "weights.safetensors")
    shorten_vocabulary(copy)
    rewrite_list(copy, version=True)
    with pytest.raises(IntegrityError, match=r"vocabulary\.json: 8 tags expected by model\.json, found 7"):
        load_model_folder(copy)


def test_another_version_is_another_model(copy: Path, saved: Path) -> None:
    before = resolve_model(str(saved))
    swap_weights(copy)
    rewrite_list(copy, version=True)
    after = resolve_model(str(copy))
    assert before.version != after.version
    assert before.content_hash != after.content_hash
    assert load_model_folder(copy).content_hash == after.content_hash


def test_a_version_is_what_was_registered_whatever_its_folder_says_of_itself(
    mlflow_store: Path, saved: Path, tmp_path: Path
) -> None:
    with start_run("e", "r") as run:
        uri = register_model_folder(run, saved, "pinned")
    place = resolve_model(uri).folder
    assert (
        find_version(uri)[2]["content_hash"]
        == resolve_model(uri).content_hash
        == resolve_model(str(saved)).content_hash
    )
    whole = Path(shutil.copytree(place, tmp_path / "whole"))

    def restore() -> None:
        shutil.rmtree(place)
        shutil.copytree(whole, place)

    for change, message in (
        (lambda: (swap_weights(place), rewrite_list(place, version=True)), r"weights\.safetensors was changed"),
        (lambda: flip_a_byte(place), r"weights\.safetensors was changed"),
        ((place / "vocabulary.json").unlink, r"vocabulary\.json is missing"),
        (lambda: (place / "evil.pkl").write_bytes(b"x"), r"evil\.pkl was added"),
        (lambda: (place / "README.md").write_text("better than it is"), r"README\.md was changed"),
    ):
        change()
        with pytest.raises(
            IntegrityError, match=rf"models:/pinned/1: its files are not those that were registered: .*{message}"
        ):
            resolve_model(uri)
        restore()
    assert resolve_model(uri).version == "1"
