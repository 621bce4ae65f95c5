"""What was made for training of forgotten posts goes too, and the models that learned from them are told."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashtag_core.data.dataset import SPLITS, Dataset
from hashtag_core.data.decide_splits import content_hash
from hashtag_core.output.forget_users.forget_list import ForgetList
from hashtag_core.output.forget_users.training_data import check_model, forget_training
from hashtag_core.schema import PREPARED, RANKED, features
from hashtag_core.tracking.registry import register_model_folder
from hashtag_core.tracking.runs import start_run
from jobs.tag import main
from tests.tagging.outputs import run
from tests.tagging.stopping import stop_after

THEIRS = "user-1"
CONFIG = {"split": 1}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def prepared(n: int, user: str, **values: Any) -> dict[str, Any]:
    post = {
        "post_id": f"p{n}", "user_id": user, "created_at": 1_600_000_000_000_000 + n, "caption": f"caption {n}", "hashtags": ["a"],
        "image_key": sha(f"image {n}"), "caption_key": sha(f"caption {n}"), "source": f"a.parquet#{n}",
    }  # fmt: skip
    return {**dict.fromkeys(PREPARED.names), **post, **values}


POSTS = {
    "train": [prepared(n, f"user-{n % 3}") for n in range(9)],
    "validation": [prepared(9, "user-1", caption_key=sha("caption 0")), prepared(10, "user-2")],
    "test": [prepared(11, "user-0")],
}


def digest_of(posts: dict[str, list[dict[str, Any]]]) -> str:
    rows = [(SPLITS.index(split), row) for split, held in posts.items() for row in held]
    names = ("post_id", "user_id", "created_at", "hashtags", "caption_key", "image_key")
    columns = {
        name: [bytes.fromhex(row[name]) if name.endswith("key") else row[name] for _, row in rows] for name in names
    }
    return content_hash(pa.table(columns), np.array([side for side, _ in rows], np.int8), CONFIG)


def write_dataset(folder: Path, posts: dict[str, list[dict[str, Any]]] = POSTS) -> Path:
    files = []
    for split, rows in posts.items():
        path = f"{split}/part-00000.parquet"
        (folder / split).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=PREPARED), folder / path)
        files.append({"path": path, "rows": len(rows)})
    lines = [{"part": "a", "row": 1, "post_id": post_id, "reason": "x"} for post_id in ("p1", "other", None)]
    (folder / "_rejected").mkdir()
    (folder / "_rejected" / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    info = {
        "format": 1, "content_hash": digest_of(posts), "posts": {split: len(rows) for split, rows in posts.items()}, "vocabulary": 1,
        "rejected": 3, "left_out": {}, "config": CONFIG, "archive": "a", "fingerprint": "f", "files": files,
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(info))
    return folder


def kept(posts: dict[str, list[dict[str, Any]]] = POSTS) -> dict[str, list[dict[str, Any]]]:
    return {split: [row for row in rows if row["user_id"] != THEIRS] for split, rows in posts.items()}


FORGOTTEN = ForgetList.new().grown([THEIRS], ["p1"])


def test_rows_go_from_a_dataset_and_its_hash_is_that_of_what_stays(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "dataset")
    told, _ = forget_training(FORGOTTEN, [str(folder)], dry_run=True)
    assert (told.dataset_posts, told.dataset_lines) == (4, 1)
    assert Dataset.open(str(folder)).info.content_hash == digest_of(POSTS)
    found, hashes = forget_training(FORGOTTEN, [str(folder)])
    assert (found.dataset_posts, found.dataset_lines, hashes) == (4, 1, {digest_of(POSTS)})
    dataset = Dataset.open(str(folder))
    assert dataset.info.content_hash == digest_of(kept()) != digest_of(POSTS)
    assert dataset.info.posts == {"train": 6, "validation": 1, "test": 1}
    assert [file.rows for file in dataset.info.files] == [6, 1, 1]
    for split in SPLITS:
        (rows,) = dataset.read(split)
        assert [row["post_id"] for row in rows.to_pylist()] == [row["post_id"] for row in kept()[split]]
        assert rows.schema.equals(PREPARED)
    assert "p1" not in (folder / "_rejected" / "rows.jsonl").read_text()
    again, hashes = forget_training(FORGOTTEN, [str(folder)])
    assert (again.dataset_posts, hashes) == (0, {digest_of(POSTS)}), "models of what it held are found ever after"


def test_stopped_at_any_step_the_same_command_finishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, stopped = 0, True
    while stopped:
        folder, stopped = write_dataset(tmp_path / "dataset"), False
        with monkeypatch.context() as patch:
            stop_after(patch, steps)
            try:
                forget_training(FORGOTTEN, [str(folder)])
            except KeyboardInterrupt:
                stopped = True
        forget_training(FORGOTTEN, [str(folder)])
        info = Dataset.open(str(folder)).info
        assert (info.content_hash, info.posts) == (digest_of(kept()), {"train": 6, "validation": 1, "test": 1})
        assert info.former_content_hashes == [digest_of(POSTS)]
        shutil.rmtree(folder)
        steps += 1
    assert steps > 5


def test_cached_features_of_theirs_alone_go(tmp_path: Path) -> None:
    """`caption 0` is the caption of a post of another user too, and stays."""
    folder, cache = write_dataset(tmp_path / "dataset"), tmp_path / "cache" / "encoder" / "image"
    cache.mkdir(parents=True)
    schema = features(2)
    keys = [sha("image 1"), sha("image 0"), sha("caption 0"), sha("caption 4"), sha("elsewhere")]
    pq.write_table(pa.table({"key": keys, "value": [b"1234"] * 5}, schema=schema), cache / "part-a.parquet")
    pq.write_table(pa.table({"key": [sha("image 9")], "value": [b"1234"]}, schema=schema), cache / "part-b.parquet")
    found, _ = forget_training(FORGOTTEN, [str(folder)], [str(tmp_path / "cache")])
    assert found.cached_features == 3
    (left,) = cache.iterdir()
    assert pq.read_table(left)["key"].to_pylist() == [sha("image 0"), sha("caption 0"), sha("elsewhere")]


def test_ranked_lists_of_evaluations(tmp_path: Path) -> None:
    rows = [
        {
            "post_id": post,
            "user_id": user,
            "true_hashtags": [],
            "hashtags": [],
            "scores": [],
            "hits": [],
            "status": "ok",
        }
        for post, user in (("p1", None), ("p2", "user-2"), ("p3", THEIRS))
    ]
    (tmp_path / "ranked").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=RANKED), tmp_path / "ranked" / "model.parquet")
    pq.write_table(pa.table({"tag": ["a"]}), tmp_path / "tags.parquet")
    found, _ = forget_training(FORGOTTEN, reports=[str(tmp_path)])
    assert found.ranked_posts == 2
    assert pq.read_table(tmp_path / "ranked" / "model.parquet")["post_id"].to_pylist() == ["p2"]


@pytest.mark.usefixtures("inline", "mlflow_store")
def test_the_command_tells_which_models_learned_from_them(
    tmp_path: Path,
    popularity: Path,
    make_posts: Callable,
    write_part: Callable,
    make_model_folder: Callable,
    capfd: pytest.CaptureFixture[str],
) -> None:
    archive, out, dataset = tmp_path / "archive", tmp_path / "out", write_dataset(tmp_path / "dataset")
    write_part(archive / "a.parquet", make_posts(6))
    run(archive, out, popularity)
    voting = make_model_folder(tmp_path / "voting", family="neighbor_voting")
    described = json.loads((voting / "model.json").read_text())
    (voting / "model.json").write_text(json.dumps(described | {"dataset": {"content_hash": digest_of(POSTS)}}))
    assert check_model(str(voting), [digest_of(POSTS)]) == (True, True)
    assert check_model(str(popularity), [digest_of(POSTS)]) == (False, False)
    for label in (digest_of(POSTS), "another"):
        with start_run("an experiment", label, tags={"dataset_hash": label}) as tracked:
            register_model_folder(tracked, popularity, "tagger")
    users = tmp_path / "users"
    users.write_text(THEIRS)
    command = ["forget", "--out", str(out), "--users", str(users), "--dataset", str(dataset)]
    for _ in range(2):
        assert main([*command, "--model-folder", str(voting), str(popularity)]) == 0
        told = json.loads(capfd.readouterr().out)
        assert told["trained_on"] == [str(voting), "models:/tagger/1"]
        assert told["keep_vectors"] == [str(voting)]
    assert (told["dataset_posts"], told["tagged"]) == (0, 0), "by then"
