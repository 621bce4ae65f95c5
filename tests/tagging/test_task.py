"""What goes to an actor and comes back the same."""

import json
from pathlib import Path

import pytest

from hashtag_core.data.model_files import has_model, local_model
from hashtag_core.tagging.planned_work import Chunk
from hashtag_core.tagging.task import Task


def test_a_task_goes_through_json() -> None:
    task = Task("k", "p", "/p", "v", [Chunk(0, 1, 2, 3, 4)], [5], {6: -7}, begin=8, encode=True, alone=True)
    assert Task.from_json(task.to_json()) == task


@pytest.mark.parametrize(("content", "there"), [
    ('{"version": "1"}', True), ('{"version": "2"}', False), ("{}", False), ("[1]", False), ("no JSON", False),
])  # fmt: skip
def test_a_folder_is_the_model_if_it_says_so(content: str, there: bool, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(content)
    assert has_model(tmp_path, "1") is there
    assert not has_model(tmp_path / "none", "1")


def test_a_model_is_taken_where_it_lies_or_made_from_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    here = tmp_path / "here"
    here.mkdir()
    (here / "model.json").write_text(json.dumps({"version": "abc"}))
    files = {"model.json": (here / "model.json").read_bytes(), "deep/weights": b"w"}
    assert local_model(str(here), "abc", files) == here
    copy = local_model(str(tmp_path / "elsewhere"), "abc", files)
    assert (copy / "deep" / "weights").read_bytes() == b"w"
    assert local_model(str(tmp_path / "elsewhere"), "abc", files) == copy
