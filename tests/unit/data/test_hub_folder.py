"""A model folder in the hub's layout and back, without the hub."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from hashtag_core.data.hub_folder import from_hub_folder, to_hub_folder
from hashtag_core.data.model_files import hash_files
from hashtag_core.errors import ConfigError, IntegrityError, NotFoundError, StorageError
from hashtag_core.models.folder import load_model_folder
from hashtag_core.tracking.registry import resolve_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_model_folder: Callable[..., Path]) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("hub") / "popularity", family="popularity", tags=6)


@pytest.fixture
def hub(folder: Path, tmp_path: Path) -> Path:
    return to_hub_folder(folder, tmp_path / "hub")


def test_the_layout_is_the_hubs(folder: Path, hub: Path) -> None:
    assert {path.name for path in hub.iterdir()} == {
        *("config.json", "model.json", "model.safetensors", "vocabulary.json", "README.md"),
    }
    _, metadata, card = (hub / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(metadata) == {"library_name": "hashtag-recommender", "tags": ["hashtags", "popularity"]}
    assert card.strip() == (folder / "README.md").read_text().strip()


def test_there_and_back(folder: Path, hub: Path, tmp_path: Path) -> None:
    back = from_hub_folder(hub, tmp_path / "back")
    ours, theirs = hash_files(folder), hash_files(back)
    assert {name: value for name, value in ours.items() if name != "README.md"} == {
        name: value for name, value in theirs.items() if name != "README.md"
    }
    assert load_model_folder(back).version == load_model_folder(folder).version


def test_a_model_of_the_hub_is_a_model(
    folder: Path, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None]] = []

    def download(name: str, revision: str | None = None) -> str:
        asked.append((name, revision))
        if name != "me/tags":
            raise OSError("no network here\nand more")
        return str(hub)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    version = resolve_model(str(folder)).version
    for model in ("hf:me/tags", "hf:me/tags@v1", f"hf:{hub}"):
        resolved = resolve_model(model)
        assert (resolved.version, resolved.uri, resolved.name) == (version, model, "toy")
        assert load_model_folder(resolved.folder).content_hash == resolved.content_hash
    assert asked == [("me/tags", None), ("me/tags", "v1")]
    with pytest.raises(StorageError, match=r"hf:you/tags: cannot be downloaded: no network here$"):
        resolve_model("hf:you/tags")
    with pytest.raises(ConfigError, match="hf:OWNER/NAME"):
        resolve_model("hf:tags")


def test_what_is_no_model_or_was_changed_is_refused(folder: Path, hub: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="an empty folder expected"):
        to_hub_folder(folder, hub)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match="no model of this project"):
        resolve_model(f"hf:{tmp_path / 'empty'}")
    (hub / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(IntegrityError, match=r"pytorch_model\.bin: a file that can hold code"):
        resolve_model(f"hf:{hub}")
    (hub / "pytorch_model.bin").unlink()
    with (hub / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(IntegrityError, match=r"weights\.safetensors: its SHA-256"):
        resolve_model(f"hf:{hub}")
