"""Posts that kill the process which reads them: found, rejected alone, and the rest of their chunk tagged."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hashtag_core import storage
from hashtag_core.errors import StorageError
from hashtag_core.output.chunk_files import read_chunk
from hashtag_core.output.verify import verify_output
from hashtag_core.tagging.planned_work import Chunk
from hashtag_core.tagging.tag_chunks import ChunkTagger
from hashtag_core.tagging.task import Task, Work
from tests.tagging.outputs import rejected

KILLER = b"kills the process"
PATCH = f"""
import os, signal
import PIL.Image
_open = PIL.Image.open
def open(file, *arguments, **options):
    if {KILLER!r} in file.getvalue():
        os.kill(os.getpid(), signal.SIGKILL)
    return _open(file, *arguments, **options)
PIL.Image.open = open
"""


@pytest.fixture
def patched(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH: processes that have it die of a marked picture, for real."""
    folder = tmp_path / "patched"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(PATCH)
    return folder


@pytest.fixture
def posts(make_posts: Callable, make_jpeg: Callable) -> Callable[..., list[dict[str, Any]]]:
    """`posts(24, 5, 17)`: so many, of which those kill."""

    def make(count: int, *killers: int) -> list[dict[str, Any]]:
        made = make_posts(count)
        for row in killers:
            made[row]["image"] = make_jpeg(row) + KILLER
        return list(made)

    return make


def work_for(tmp_path: Path, model: Path) -> Work:
    return Work(
        archive=str(tmp_path / "archive"),
        source=str(tmp_path / "archive"),
        reading={},
        staging=str(tmp_path / "chunks"),
        encoders=str(tmp_path / "encoders.json"),
        model_folder=str(model),
        model_name="toy",
        model_version="1",
        model_hash=json.loads((model / "model.json").read_text())["version"],
        top_k=3,
        threads=1,
        device="cpu",
        encoding={"backend": "auto", "precision": "auto", "batch_size": 64},
    )


def test_a_chunk_that_did_not_end_is_tried_post_by_post(
    popularity: Path,
    tmp_path: Path,
    posts: Callable,
    write_part: Callable,
    patched: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """This process is not patched: what kills is found in the children alone."""
    write_part(tmp_path / "archive" / "a.parquet", posts(24, 13))
    monkeypatch.syspath_prepend(str(patched))
    task = Task(
        "id",
        "a.parquet",
        str(tmp_path / "archive" / "a.parquet"),
        "v1",
        [Chunk(0, 0, 0, 0, 12), Chunk(1, 0, 12, 12, 12)],
        [20],
        alone=True,
    )
    work = work_for(tmp_path, popularity)
    storage.write_json(f"{work.staging}/id/00001.begun", {})
    first, second = ChunkTagger(work).run(task)
    assert (first["tagged"], second["tagged"], first["error"], second["error"]) == (12, 10, None, None)
    content = read_chunk(f"{work.staging}/id/00001.parquet")
    assert content.rows["post_id"].to_pylist() == [f"post-0-{row:05d}" for row in range(12, 24) if row not in (13, 20)]
    assert [(item["row"], item["post_id"], item["reason"]) for item in content.rejected.to_pylist()] == [
        (row, f"post-0-{row:05d}", "killed the process that read it") for row in (13,)
    ]
    assert not list((tmp_path / "chunks").rglob("*.begun"))


def raising(error: Exception) -> Callable:
    def fails(*given: object) -> None:
        raise error

    return fails


def test_what_no_post_is_guilty_of_rejects_none(
    popularity: Path, tmp_path: Path, posts: Callable, write_part: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "patched").mkdir()
    (tmp_path / "patched" / "sitecustomize.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    write_part(tmp_path / "archive" / "a.parquet", posts(4))
    monkeypatch.syspath_prepend(str(tmp_path / "patched"))
    work = work_for(tmp_path, popularity)
    storage.write_json(f"{work.staging}/id/00000.begun", {})
    (outcome,) = ChunkTagger(work).run(
        Task("id", "a.parquet", str(tmp_path / "archive" / "a.parquet"), "v1", [Chunk(0, 0, 0, 0, 4)], [], alone=True)
    )
    assert "a.parquet, chunk 0: the process that reads it is killed (signal 9), by no post of it" in outcome["error"]


def test_an_error_is_no_sign_of_a_post_that_kills(
    popularity: Path, tmp_path: Path, posts: Callable, write_part: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next attempt reads the chunk as any other."""
    write_part(tmp_path / "archive" / "a.parquet", posts(4))
    work, path = work_for(tmp_path, popularity), str(tmp_path / "archive" / "a.parquet")
    task = Task("id", "a.parquet", path, "v1", [Chunk(0, 0, 0, 0, 4)], [], alone=True)
    with monkeypatch.context() as patch:
        patch.setattr(ChunkTagger, "_begin", raising(StorageError("the store is away")))
        (outcome,) = ChunkTagger(work).run(task)
    assert outcome["error"] == "StorageError: the store is away"
    assert not list((tmp_path / "chunks").rglob("*.begun"))


@pytest.mark.skipif("SOAK_KILLS" not in os.environ, reason="two minutes, four actors die: make soak")
def test_one_post_is_rejected_and_the_rest_tagged_on_ray(
    popularity: Path, tmp_path: Path, posts: Callable, write_part: Callable, patched: Path, repository: Path
) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    write_part(archive / "a.parquet", posts(24, 13))
    flags = ["--archive", str(archive), "--out", str(out), "--model", str(popularity), "--chunk-rows", "6"]
    flags += ["--set", "tagging.actors=1"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "jobs/tag.py", *flags],
        cwd=repository,
        env=environment | {"PYTHONPATH": str(patched), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/none/mlflow.db"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["tagged"], summary["rejected"]) == (23, 1)
    (line,) = rejected(out)
    assert (line["part"], line["row"], line["post_id"]) == ("a.parquet", 13, "post-0-00013")
    assert line["reason"] == "killed the process that read it"
    assert verify_output(str(out), str(archive)).problems == []
