"""A model is described without its weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hashtag_core.errors import IntegrityError, NotFoundError
from hashtag_core.models import folder as model_folder
from hashtag_core.recommend.described import describe_model
from hashtag_core.recommend.recommender import Recommender


def test_it_is_what_loading_tells_and_reads_no_weight(
    tmp_path: Path, make_model_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_model_folder(tmp_path / "design", family="design")
    loaded = Recommender.load(str(folder))

    def refuse(*_: Any) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr(model_folder.safetensors.torch, "load_file", refuse)
    found = describe_model(folder, "toy")
    assert found.family.name == loaded.loaded.family
    assert found.options == loaded.loaded.options
    assert found.vocabulary.tags == loaded.tags
    assert found.history == loaded.loaded.history is not None
    assert found.info == loaded.loaded.info
    assert found.encoders.identity == loaded.encoders.identity
    assert found.version == loaded.loaded.version


def test_a_broken_folder_and_other_encoders_are_refused(tmp_path: Path, make_model_folder: Callable[..., Path]) -> None:
    with pytest.raises(NotFoundError, match=r"model\.json is not there"):
        describe_model(tmp_path, "toy")
    folder = make_model_folder(tmp_path / "linear")
    (folder / "vocabulary.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"vocabulary\.json"):
        describe_model(folder, "toy")
    other = make_model_folder(tmp_path / "other")
    described = json.loads((other / "model.json").read_text())
    described["encoders"]["text"]["revision"] = "another"
    (other / "model.json").write_text(json.dumps(described))
    with pytest.raises(IntegrityError, match="model toy was trained on another text encoder"):
        describe_model(other, "toy")
