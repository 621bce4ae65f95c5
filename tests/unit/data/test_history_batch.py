"""From rows of histories to tensors, in memory and over the tables of a dataset's splits."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hashtag_core import storage
from hashtag_core.data.batches import collate
from hashtag_core.data.dataset import SPLITS, Dataset, DatasetInfo
from hashtag_core.data.dataset_rows import SplitWriter
from hashtag_core.data.feature_cache import FeatureCache, FeatureKind
from hashtag_core.data.features import build_feature_table
from hashtag_core.data.history import HistoryRule
from hashtag_core.data.history_batch import ArrayPosts, History, JoinedPosts, open_history
from hashtag_core.data.vocabulary import Vocabulary
from hashtag_core.schema import PREPARED
from hashtag_core.training.loader import Reading, TableFitSource

KINDS = {
    "image_vector": FeatureKind("image", "eye/r1/image_vector", 2),
    "text_vector": FeatureKind("caption", "reader/r1/text_vector", 3),
}


BOTH = ("image_vector", "text_vector")


def arrays(*tags: list[int], base: int = 0) -> ArrayPosts:
    """Posts with those tags; the image vector of post n is [base + n, 0], even ones have none."""
    n = len(tags)
    offsets = np.cumsum([0, *map(len, tags)])
    values = np.stack([base + np.arange(n), np.zeros(n)], axis=1).astype(np.float16)
    present = np.arange(n) % 2 == 1
    values[~present] = 0
    return ArrayPosts(
        offsets, np.array([tag for row in tags for tag in row], np.int32), {"image_vector": (values, present)}
    )


def test_tensors_by_hand() -> None:
    posts = arrays([3], [], [0, 1, 2], [4, 5])
    history = History(np.array([[-1, -1], [3, 2], [1, -1]]), posts, ("image_vector",))
    batch = history.batch([1, 0, 2, 1])
    assert batch.mask_BH.tolist() == [[True, True], [False, False], [True, False], [True, True]]
    assert batch.tags_BHL.tolist() == [
        [[4, 5, -1], [0, 1, 2]],
        [[-1, -1, -1], [-1, -1, -1]],
        [[-1, -1, -1], [-1, -1, -1]],
        [[4, 5, -1], [0, 1, 2]],
    ]
    assert batch.image_present_BH is not None
    assert batch.image_vector_BHD is not None
    assert batch.image_present_BH.tolist() == [[True, False], [False, False], [True, False], [True, False]]
    assert batch.image_vector_BHD[:, :, 0].tolist() == [[3, 0], [0, 0], [1, 0], [3, 0]]
    assert batch.text_vector_BHD is None
    empty = history.select(slice(0, 1)).batch([0])
    assert empty.tags_BHL.shape == (1, 2, 0)
    assert empty.image_vector_BHD is not None
    assert empty.image_vector_BHD.shape == (1, 2, 2)


def test_posts_of_several_places_are_counted_on() -> None:
    joined = JoinedPosts([arrays([1], [2, 3]), arrays(), arrays([4], [5], [6], base=10)])
    assert len(joined) == 5
    assert joined.tags_of(np.array([4, 1, 2, 0])).tolist() == [[6, -1], [2, 3], [4, -1], [1, -1]]
    values, present = joined.vectors_of("image_vector", np.array([3, 1, 0]))
    assert values[:, 0].tolist() == [11, 1, 0]
    assert present.tolist() == [True, True, False]


def key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """User a: days 1, 2 in train, 3 (no image) in validation, 4, 5 in test; b: a post a split."""
    days = {
        "train": [("a", 1), ("b", 1), ("a", 2)],
        "validation": [("b", 2), ("a", 3)],
        "test": [("a", 5), ("a", 4), ("b", 3)],
    }
    files = []
    for split, posts in days.items():
        rows = [
            {
                **dict.fromkeys(PREPARED.names),
                "post_id": f"{user}{day}",
                "user_id": user,
                "created_at": datetime(2020, 1, day, tzinfo=UTC),
                "hashtags": [f"tag{day}", "unknown", user],
                "caption": f"{user} {day}",
                "caption_key": key(f"{user} {day}"),
                "image_key": None if day == 3 else key(f"image {user} {day}"),
            }
            for user, day in posts
        ]
        writer = SplitWriter(str(tmp_path), f"{split}/part-0.parquet")
        writer.add(pa.Table.from_pylist(rows, schema=PREPARED))
        files.append(writer.close())
    vocabulary = Vocabulary(["a", "b", *(f"tag{day}" for day in range(1, 6))], np.ones(7, np.int64), 3)
    vocabulary.save(storage.join(str(tmp_path), "vocabulary.json"))
    info: dict[str, Any] = {
        "format": 1,
        "content_hash": tmp_path.name,
        "posts": {split: len(posts) for split, posts in days.items()},
        "vocabulary": 7,
        "rejected": 0,
        "left_out": {},
        "config": {},
        "archive": "",
        "fingerprint": "",
        "files": files,
    }
    storage.write_json(storage.join(str(tmp_path), "dataset.json"), DatasetInfo.model_validate(info).model_dump())
    return Dataset.open(str(tmp_path))


@pytest.fixture
def cache(dataset: Dataset, tmp_path: Path) -> FeatureCache:
    """Vector of a post: [day, ...]."""
    cache = FeatureCache(str(tmp_path / "cache"), KINDS)
    ids = [
        post_id for split in SPLITS for table in dataset.read(split, ["post_id"]) for post_id in table[0].to_pylist()
    ]
    for kind, text in (("image_vector", "image {} {}"), ("text_vector", "{} {}")):
        values = np.array([[float(name[1])] * KINDS[kind].dim for name in ids], np.float16)
        cache.write(kind, [key(text.format(*name)) for name in ids], values)
    cache.refresh()
    return cache


def test_no_split_reads_a_later_one(dataset: Dataset, cache: FeatureCache, tmp_path: Path) -> None:
    def days(split: Any, order: Any = "earlier") -> list[list[int]]:
        rule = HistoryRule(order, 3, BOTH)
        history = open_history(dataset, split, rule, cache, dataset.vocabulary, tmp_path / "tables")
        batch = history.batch(np.arange(dataset.info.posts[split]))
        assert batch.text_vector_BHD is not None
        assert batch.text_present_BH is not None
        assert batch.image_vector_BHD is not None
        assert batch.image_present_BH is not None
        assert batch.text_present_BH.equal(batch.mask_BH)
        told = batch.text_vector_BHD[:, :, 0].int()
        for row, post in zip(*np.nonzero(batch.mask_BH.numpy()), strict=True):
            day = int(told[row, post])
            assert batch.tags_BHL[row, post, 0] == 1 + day  # tag<day>
            assert bool(batch.image_present_BH[row, post]) == (day != 3)
            assert batch.image_vector_BHD[row, post].tolist() == ([day] * 2 if day != 3 else [0, 0])
        return [[day for day in row if day] for row in told.tolist()]

    assert days("train") == [[], [], [1]]
    assert days("validation") == [[1], [2, 1]]
    assert days("test") == [[4, 3, 2], [3, 2, 1], [2, 1]]
    assert days("train", "other") == [[2], [], [1]]
    assert days("validation", "other") == [[1], [2, 1]]
    assert [sorted(row) for row in days("test", "other")] == [[2, 3, 4], [1, 2, 3], [1, 2]]


def test_batches_of_a_table_come_with_histories(dataset: Dataset, cache: FeatureCache, tmp_path: Path) -> None:
    needs = frozenset({"history", "text_vector", "image_vector"})
    table = build_feature_table(dataset, "train", cache, needs, dataset.vocabulary, tmp_path / "tables")
    assert table.rows([0]).history is None
    table.history = open_history(
        dataset, "train", HistoryRule("earlier", 3, BOTH), cache, dataset.vocabulary, tmp_path / "tables"
    )
    (batch, tags), *_ = TableFitSource(table, Reading(7, needs)).batches(8)
    assert tags == [[2, 0], [2, 1], [3, 0]]
    assert batch.history is not None
    assert batch.history.mask_BH.sum(dim=1).tolist() == [0, 0, 1]
    assert batch.history.tags_BHL[2, 0].tolist() == [2, 0]
    blind = collate(table.rows([2]), needs, None, ["caption", "history"]).history
    assert blind is not None
    assert blind.image_vector_BHD is not None
    assert blind.image_present_BH is not None
    assert not blind.image_vector_BHD.any()
    assert not blind.image_present_BH.any()
    assert blind.text_vector_BHD is not None
    assert blind.text_vector_BHD.any()
    assert collate(table.rows([2]), needs, None, ["caption"]).history is None
    assert collate(table.rows([2]), needs - {"history"}).history is None
