"""The cache of encoder outputs."""

import hashlib
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashtag_core import schema
from hashtag_core.data import feature_cache
from hashtag_core.data.dataset import Dataset
from hashtag_core.data.feature_cache import DIED, FeatureCache, FeatureKind
from hashtag_core.data.features import build_feature_table
from hashtag_core.data.vocabulary import Vocabulary

KINDS = {
    "image_vector": FeatureKind("image", "eye/r1/image_vector", 3),
    "image_grid": FeatureKind("image", "eye/r1/image_grid", 3, rows=4),
    "text_vector": FeatureKind("caption", "reader/r1/text_vector", 5),
    "text_states": FeatureKind("caption", "reader/r1/text_states", 5, rows=0),
}


BOXES = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)


def key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def values_of(text: str) -> dict[str, np.ndarray]:
    """Any numbers that follow from the content."""
    rng = np.random.default_rng(int(key(text)[:8], 16))
    return {
        "image_vector": rng.normal(size=3).astype(np.float16),
        "image_grid": rng.normal(size=(4, 3)).astype(np.float16),
        "text_vector": rng.normal(size=5).astype(np.float16),
        "text_states": rng.normal(size=(int(rng.integers(1, 6)), 5)).astype(np.float16),
    }


def write(cache: FeatureCache, kind: str, texts: list[str]) -> None:
    found = [values_of(text)[kind] for text in texts]
    lengths = None
    if kind == "text_states":
        lengths = np.array([len(value) for value in found])
        found = [np.pad(value, ((0, 7 - len(value)), (0, 0)), constant_values=9) for value in found]
    cache.write(kind, [key(text) for text in texts], np.stack(found), lengths)


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(str(tmp_path / "cache"), KINDS, BOXES)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group_bytes", [1, 64, 4 << 20])
def test_lookup_returns_what_was_written_in_the_order_asked_for(cache, kind, group_bytes, monkeypatch):
    monkeypatch.setattr(feature_cache, "ROW_GROUP_BYTES", group_bytes)
    write(cache, kind, ["a", "b", "c"])
    write(cache, kind, ["d", "c"])
    found, arrays = cache.lookup(kind, [key("d"), None, key("a"), key("nowhere"), key("c"), key("a")])
    assert found.tolist() == [True, False, True, False, True, True]
    for row, text in ((0, "d"), (2, "a"), (4, "c"), (5, "a")):
        expected = values_of(text)[kind]
        got = arrays[kind][row]
        if kind == "text_states":
            assert arrays["text_states_mask"][row].tolist() == [True] * len(expected) + [False] * (
                arrays[kind].shape[1] - len(expected)
            )
            assert not got[len(expected) :].any()
            got = got[: len(expected)]
        assert np.array_equal(got, expected)
    assert not arrays[kind][[1, 3]].any()


def test_a_death_is_not_held_against_a_content_for_good(cache):
    """It may have been the machine that was short of memory; what a decoder said stays."""
    cache.write_unreadable("image_vector", {key("a"): "truncated JPEG"})
    cache.write_unreadable("image_vector", {key("b"): DIED, key("c"): DIED})
    cache.write_unreadable("text_vector", {key("d"): DIED})
    assert cache.missing("image_grid", [key("a"), key("b")]) == []
    cache.forget_deaths()
    assert cache.unreadable("image_grid") == {key("a"): "truncated JPEG"}
    assert cache.missing("image_grid", [key(text) for text in "abc"]) == [key("b"), key("c")]
    assert cache.missing("text_vector", [key("d")]) == [key("d")]


def test_others_writes_are_seen_after_refresh(cache):
    assert cache.missing("image_vector", [key("a")]) == [key("a")]
    write(FeatureCache(cache.root, KINDS), "image_vector", ["a"])
    assert cache.missing("image_vector", [key("a")]) == [key("a")]
    cache.refresh()
    assert cache.missing("image_vector", [key("a")]) == []
    assert pickle.loads(pickle.dumps(cache))._indexes == {}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=9, unique=True), max_size=5), st.data())
def test_any_writes_then_any_lookup(tmp_path_factory, writes, data):
    cache = FeatureCache(str(tmp_path_factory.mktemp("cache")), KINDS)
    for texts in writes:
        write(cache, "text_states", [str(n) for n in texts])
    known = {n for texts in writes for n in texts}
    asked = data.draw(st.lists(st.one_of(st.none(), st.integers(0, 40)), max_size=12))
    found, arrays = cache.lookup("text_states", [None if n is None else key(str(n)) for n in asked])
    assert found.tolist() == [n in known for n in asked]
    for row, n in enumerate(asked):
        if n in known:
            expected = values_of(str(n))["text_states"]
            assert np.array_equal(arrays["text_states"][row][arrays["text_states_mask"][row]], expected)


def test_on_s3(s3_bucket):
    cache = FeatureCache(f"{s3_bucket}/_features", KINDS)
    write(cache, "image_grid", ["a", "b"])
    found, arrays = FeatureCache(cache.root, KINDS).lookup("image_grid", [key("b")])
    assert found.all()
    assert np.array_equal(arrays["image_grid"][0], values_of("b")["image_grid"])


def posts(count: int) -> list[dict]:
    """Images repeat every 7 posts, captions every 5; some posts lack one or the other."""
    return [
        {
            "post_id": f"p{n}",
            "user_id": None if n % 6 == 5 else f"u{n % 3}",
            "caption": None if n % 4 == 3 else f"caption {n % 5}",
            "hashtags": ["b", "unknown", "a", "b"] if n % 2 else None,
            "image_key": None if n % 3 == 2 else key(f"image {n % 7}"),
            "caption_key": None if n % 4 == 3 else key(f"caption {n % 5}"),
        }
        for n in range(count)
    ]


def write_dataset(folder, rows, content_hash="abc", per_file=10) -> Dataset:
    files = []
    for start in range(0, len(rows), per_file):
        part = pa.Table.from_pylist(rows[start : start + per_file], schema=schema.PREPARED)
        path = folder / "train" / f"part-{start:05d}-x.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(part, path, row_group_size=4)
        files.append({"path": f"train/{path.name}", "rows": part.num_rows})
    info = {
        "format": 1,
        "content_hash": content_hash,
        "posts": {"train": len(rows), "validation": 0, "test": 0},
        "vocabulary": 2,
        "rejected": 0,
        "left_out": {},
        "config": {},
        "archive": "a",
        "fingerprint": "f",
        "files": files,
    }
    folder.mkdir(exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(info))
    return Dataset.open(str(folder))


VOCABULARY = Vocabulary.from_json({"tags": ["a", "b"], "counts": [1, 1], "posts": 2, "config": {}})


NEEDS = frozenset(KINDS) | {"tokens", "history"}


def expected(rows: list[dict], row: int, kind: str) -> np.ndarray | None:
    post = rows[row]
    if KINDS[kind].of == "caption":
        return values_of(post["caption"])[kind] if post["caption"] else None
    return values_of(f"image {row % 7}")[kind] if post["image_key"] else None


def test_without_features_and_without_posts(tmp_path, cache):
    dataset = write_dataset(tmp_path / "dataset", posts(9))
    table = build_feature_table(
        dataset, "train", FeatureCache(cache.root, {}), frozenset({"tokens"}), VOCABULARY, tmp_path
    )
    assert table.rows([2]).arrays == {}
    assert table.image_present.tolist() == [n % 3 != 2 for n in range(9)]
    empty = build_feature_table(dataset, "test", cache, NEEDS, VOCABULARY, tmp_path)
    assert len(empty) == 0
    assert empty.rows([]).arrays["text_states"].shape == (0, 0, 5)
    with pytest.raises(IndexError):
        table.rows([9])
