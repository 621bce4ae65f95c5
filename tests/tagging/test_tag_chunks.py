"""One chunk tagger alone, without Ray."""

import dataclasses
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashtag_core import storage
from hashtag_core.data.model_files import local_model
from hashtag_core.errors import IntegrityError, StorageError
from hashtag_core.output.chunk_files import read_chunk
from hashtag_core.recommend.read_posts import OpenedPosts
from hashtag_core.recommend.recommender import Recommender
from hashtag_core.schema import TABLE
from hashtag_core.tagging.planned_work import Chunk
from hashtag_core.tagging.tag_chunks import ChunkTagger
from hashtag_core.tagging.task import Task, Work


class Poisoned:
    """The recommender, but for posts whose caption names a fault."""

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender
        self.tagged: list[int] = []

    def open_posts(self, posts: pa.Table, archive: str | None = None) -> OpenedPosts:
        if any("cannot be opened" in (caption or "") for caption in posts["caption"].to_pylist()):
            raise KeyError("opened")
        return self._recommender.open_posts(posts, archive=archive)

    def tag(self, posts: OpenedPosts, top_k: int) -> pa.Table:
        self.tagged.append(len(posts))
        captions = " ".join(caption or "" for caption in posts.captions)
        for told, error in {
            "cannot be scored": ValueError,
            "disk": StorageError,
            "broken model": IntegrityError,
            "no memory": MemoryError,
        }.items():
            if told in captions:
                raise error(told)
        return self._recommender.tag(posts, top_k)


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive is `archive/`."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tagger(popularity: Path, tmp_path: Path) -> ChunkTagger:
    version = json.loads((popularity / "model.json").read_text())["version"]
    work = Work(
        archive=str(tmp_path / "archive"),
        source=str(tmp_path / "archive"),
        reading={},
        staging=str(tmp_path / "chunks"),
        encoders=str(tmp_path / "encoders.json"),
        model_folder=str(popularity),
        model_name="toy",
        model_version="1",
        model_hash=version,
        top_k=5,
        threads=1,
        device="cpu",
        encoding={"backend": "auto", "precision": "auto", "batch_size": 64},
    )
    tagger = ChunkTagger(work)
    tagger._recommender = Poisoned(tagger.recommender)  # type: ignore[assignment]
    return tagger


TASK = Task("id", "a.parquet", "archive/a.parquet", "v1", [Chunk(0, 0, 0, 0, 5), Chunk(1, 0, 5, 5, 5)], [])


def chunk_rows(tagger: ChunkTagger, number: int) -> tuple[list[str], list[dict[str, Any]]]:
    content = read_chunk(f"{tagger.work.staging}/id/{number:05d}.parquet")
    assert content.rows.schema.equals(TABLE)
    assert set(content.rows["part"].to_pylist()) <= {"a.parquet"}
    return content.rows["post_id"].to_pylist(), content.rejected.to_pylist()


def test_a_post_that_always_fails_is_rejected_alone(
    tagger: ChunkTagger, tmp_path: Path, make_posts: Callable, write_part: Callable
) -> None:
    posts = make_posts(10)
    posts[1]["caption"] = "cannot be scored"
    posts[7]["caption"] = "cannot be opened"
    write_part(tmp_path / "archive" / "a.parquet", posts)
    outcomes = list(tagger.run(TASK))
    assert [(o["chunk"], o["tagged"], o["error"]) for o in outcomes] == [(0, 4, None), (1, 4, None)]
    ids, told = chunk_rows(tagger, 0)
    assert ids == [posts[n]["post_id"] for n in (0, 2, 3, 4)]
    assert [(item["part"], item["row"], item["post_id"], item["reason"]) for item in told] == [
        ("a.parquet", 1, posts[1]["post_id"], "ValueError: cannot be scored")
    ]
    ids, told = chunk_rows(tagger, 1)
    assert ids == [posts[n]["post_id"] for n in (5, 6, 8, 9)]
    assert [(item["row"], item["reason"]) for item in told] == [(7, "KeyError: 'opened'")]
    assert tagger.recommender.tagged[:3] == [5, 5, 1]  # type: ignore[attr-defined]


@pytest.mark.parametrize("fault", ["disk", "broken model", "no memory"])
def test_what_is_no_fault_of_a_post_rejects_none(
    tagger: ChunkTagger, tmp_path: Path, make_posts: Callable, write_part: Callable, fault: str
) -> None:
    posts = make_posts(10)
    posts[1]["caption"] = fault
    write_part(tmp_path / "archive" / "a.parquet", posts)
    first, second = tagger.run(TASK)
    assert fault in first["error"]
    assert second["tagged"] == 5
    assert not storage.exists(f"{tagger.work.staging}/id/00000.parquet")
    posts[1]["caption"] = "fine now"
    write_part(tmp_path / "archive" / "a.parquet", posts)
    again, held = tagger.run(TASK)
    assert (again["chunk"], again["tagged"], again["error"]) == (0, 5, None)
    assert held == {**second, "seconds": 0.0}, "a repeated task must report every chunk, at its own position"


def test_a_part_broken_in_the_middle(
    tagger: ChunkTagger, tmp_path: Path, make_posts: Callable, write_part: Callable
) -> None:
    path = write_part(tmp_path / "archive" / "a.parquet", make_posts(10), compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(0).column(5)
    assert column.path_in_schema == "image"
    content[column.data_page_offset : column.data_page_offset + 30] = b"\xff" * 30
    path.write_bytes(content)
    outcomes = list(tagger.run(dataclasses.replace(TASK, left_out=[3])))
    assert [(o["tagged"], o["error"]) for o in outcomes] == [(0, None), (0, None)]
    told = chunk_rows(tagger, 0)[1] + chunk_rows(tagger, 1)[1]
    assert [item["row"] for item in told] == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert all("expected a Parquet file" in item["reason"] for item in told)


def test_wrong_types_are_rejected_row_by_row(tagger: ChunkTagger, tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    pq.write_table(
        pa.table({"post_id": list("abcdefghij"), "caption": [1, None] * 5}), tmp_path / "archive" / "a.parquet"
    )
    assert [outcome["tagged"] for outcome in tagger.run(TASK)] == [2, 3]
    ids, told = chunk_rows(tagger, 0)
    assert ids == ["b", "d"]
    assert [(item["row"], item["reason"]) for item in told] == [
        (row, "caption: expected string, found int64") for row in (0, 2, 4)
    ]


def test_a_storage_that_fails_is_told_for_every_chunk(tagger: ChunkTagger) -> None:
    outcomes = list(tagger.run(TASK))
    assert [outcome["chunk"] for outcome in outcomes] == [0, 1]
    assert all("NotFoundError" in outcome["error"] for outcome in outcomes)


def test_another_model_or_backend_than_planned_is_refused(popularity: Path, linear: Path, tagger: ChunkTagger) -> None:
    wrong = ChunkTagger(dataclasses.replace(tagger.work, model_hash="0" * 12))
    assert "IntegrityError" in next(wrong.run(TASK))["error"]
    storage.write_json(tagger.work.encoders, {"text": "torch-float64"})
    version = json.loads((linear / "model.json").read_text())["version"]
    other = ChunkTagger(dataclasses.replace(tagger.work, model_folder=str(linear), model_hash=version))
    assert "the output was begun with {'text': 'torch-float64'}" in next(other.run(TASK))["error"]


def test_the_model_is_copied_to_a_node_that_lacks_it(
    popularity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    version = json.loads((popularity / "model.json").read_text())["version"]
    files = {path.name: path.read_bytes() for path in popularity.iterdir()}
    assert local_model(str(popularity), version, files) == popularity
    copy = local_model("/nowhere", version, files)
    assert {path.name: path.read_bytes() for path in copy.iterdir() if not path.name.startswith(".")} == files
    assert local_model("/nowhere", version, {}) == copy
    assert Recommender.load(str(copy)).loaded.version == version  # with what the node keeps beside it
    assert [path.name for path in copy.parent.iterdir() if not path.name.startswith(".")] == [version]


def test_posts_whose_content_is_known_are_kept(
    tagger: ChunkTagger, tmp_path: Path, make_posts: Callable, write_part: Callable
) -> None:
    posts = make_posts(10)
    write_part(tmp_path / "archive" / "a.parquet", posts)
    list(tagger.run(TASK))
    known = dict(
        zip(*(_rows(tagger, number)[name] for number in (0,) for name in ("part_row", "content")), strict=True)
    )
    posts[1]["caption"] = "another caption"
    write_part(tmp_path / "archive" / "a.parquet", posts)
    storage.remove_tree(tagger.work.staging)
    first, _ = tagger.run(dataclasses.replace(TASK, expected=known))
    assert (first["tagged"], first["kept"]) == (1, 4)
    content = read_chunk(f"{tagger.work.staging}/id/00000.parquet")
    assert content.rows["post_id"].to_pylist() == [posts[1]["post_id"]]
    assert content.carried == [(row, posts[row]["post_id"]) for row in (0, 2, 3, 4)]


def _rows(tagger: ChunkTagger, number: int) -> dict[str, list[Any]]:
    return read_chunk(f"{tagger.work.staging}/id/{number:05d}.parquet").rows.to_pydict()
