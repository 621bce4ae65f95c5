"""What a model folder is by its files, and not by what it says of itself."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hashtag_core.data.model_files import content_hash, hash_files
from hashtag_core.errors import IntegrityError
from hashtag_core.models.folder import load_model_folder
from hashtag_core.tracking.registry import resolve_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, make_model_folder: Callable[..., Path]) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("model") / "popularity", "popularity", tags=8)


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def test_a_description_changed_by_hand_makes_another_version(copy: Path, saved: Path, caplog) -> None:
    described = json.loads((copy / "model.json").read_text())
    described["captions"]["mentions"] = "remove"
    (copy / "model.json").write_text(json.dumps(described))
    resolved, before = resolve_model(str(copy)), resolve_model(str(saved))
    assert resolved.version == load_model_folder(copy).version != before.version
    assert f"says version {before.version} and was changed since" in caplog.text
    # a folder of an older release has no checksum of its list: there the version has to be right
    del described["files_hash"]
    (copy / "model.json").write_text(json.dumps(described))
    with pytest.raises(IntegrityError, match="list of hashes written anew"):
        resolve_model(str(copy))


def test_leftovers_of_file_managers_and_the_policy_do_not_disturb(copy: Path, saved: Path) -> None:
    (copy / ".DS_Store").write_bytes(b"x")
    (copy / ".cache" / "huggingface").mkdir(parents=True)
    (copy / ".cache" / "huggingface" / "x.lock").touch()
    assert resolve_model(str(copy)).content_hash == resolve_model(str(saved)).content_hash
    (copy / "thresholds.json").write_text("{}")
    changed = resolve_model(str(copy))
    assert changed.version == resolve_model(str(saved)).version
    assert changed.content_hash != resolve_model(str(saved)).content_hash  # what is given depends on it


def test_the_content_hash_by_hand(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_bytes(b"")
    (tmp_path / "b" / "c.txt").write_bytes(b"abc")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    files = hash_files(tmp_path)
    assert files == {"a.txt": empty, "b/c.txt": abc}
    assert content_hash(files) == hashlib.sha256(f'[["a.txt", "{empty}"], ["b/c.txt", "{abc}"]]'.encode()).hexdigest()
