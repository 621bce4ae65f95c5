"""The feature cache and the memory-mapped table give back what was put in, by key and by row."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import pytest

from hashtag_core import schema, storage
from hashtag_core.data.feature_cache import FeatureCache
from hashtag_core.data.features import FeatureTable, build_feature_table
from hashtag_core.errors import ConfigError, IntegrityError, NotFoundError
from tests.unit.data.small_features import (
    BOXES,
    KINDS,
    NEEDS,
    VOCABULARY,
    expected,
    key,
    posts,
    values_of,
    write,
    write_dataset,
)


def fill(cache: FeatureCache, images: list[str], captions: list[str]) -> None:
    for kind, of in KINDS.items():
        write(cache, kind, images if of.of == "image" else captions)


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(str(tmp_path / "cache"), KINDS, BOXES)


def test_an_empty_cache_finds_nothing(cache):
    found, arrays = cache.lookup("text_states", [key("a"), None])
    assert not found.any()
    assert arrays["text_states"].shape == (2, 0, 5)
    assert cache.lookup("image_grid", [])[1]["image_grid"].shape == (0, 4, 3)
    assert cache.missing("image_grid", [None, key("b"), key("a"), key("b")]) == [key("b"), key("a")]


def test_missing_leaves_out_the_cached_and_the_unreadable(cache):
    write(cache, "image_vector", ["a"])
    cache.write_unreadable("image_vector", {key("b"): "truncated JPEG"})
    assert cache.missing("image_vector", [key(text) for text in "abc"]) == [key("c")]
    assert cache.missing("image_grid", [key(text) for text in "abc"]) == [key("a"), key("c")]
    assert cache.unreadable("image_grid") == {key("b"): "truncated JPEG"}
    assert cache.unreadable("text_vector") == {}


def test_the_same_content_is_the_same_file(cache):
    write(cache, "image_vector", ["a", "b"])
    write(cache, "image_vector", ["a", "b"])
    assert len(storage.list_files(cache.root)) == 1


def test_concurrent_writers(cache):
    texts = [f"image {n}" for n in range(48)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: write(cache, "image_grid", texts[n : n + 8]), range(41)))
    assert cache.lookup("image_grid", [key(text) for text in texts])[0].all()


def test_wrong_shapes_and_keys_are_refused(cache):
    with pytest.raises(ValueError, match=r"image_grid: got float16 \(1, 3, 3\), expected float16 \(1, 4, 3\)"):
        cache.write("image_grid", [key("a")], np.zeros((1, 3, 3), np.float16))
    with pytest.raises(ValueError, match="expected float16"):
        cache.write("image_vector", [key("a")], np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match="is no SHA-256"):
        cache.missing("image_vector", ["short"])


def test_the_files_hold_what_the_schema_says(cache):
    fill(cache, ["a"], ["a"])
    for kind, of in KINDS.items():
        file = storage.list_files(storage.join(cache.root, of.folder))[0].uri
        table = pq.read_table(file)
        assert table.schema.equals(schema.features(of.dim, of.rows))
        assert np.array_equal(np.frombuffer(table["value"][0].as_py(), "<f2"), values_of("a")[kind].ravel())


def test_rows_of_the_table_are_the_posts_with_their_features(tmp_path, cache, monkeypatch):
    monkeypatch.setattr("hashtag_core.data.features.POSTS_BATCH", 7)
    rows = posts(33)
    dataset = write_dataset(tmp_path / "dataset", rows)
    fill(cache, [f"image {n}" for n in range(7)], [f"caption {n}" for n in range(5)])
    table = build_feature_table(dataset, "train", cache, NEEDS, VOCABULARY, tmp_path / "tables")
    assert len(table) == 33
    assert list(table.tags[:4]) == [[], [1, 0], [], [1, 0]]
    assert table.tags[-2] == [1, 0]
    assert table.column("post_id") == [f"p{n}" for n in range(33)]
    asked = [32, 0, 5, 5, 14, 3, 31]
    got = table.rows(asked)
    assert got.post_ids == [f"p{n}" for n in asked]
    assert got.user_ids == [rows[n]["user_id"] for n in asked]
    assert got.captions == [rows[n]["caption"] for n in asked]
    assert got.image_present.tolist() == [rows[n]["image_key"] is not None for n in asked]
    assert got.text_present.tolist() == [rows[n]["caption"] is not None for n in asked]
    assert np.array_equal(got.arrays["boxes"], BOXES)
    for b, n in enumerate(asked):
        for kind in KINDS:
            value, wanted = got.arrays[kind][b], expected(rows, n, kind)
            if kind == "text_states":
                mask = got.arrays["text_states_mask"][b]
                assert mask.sum() == (0 if wanted is None else len(wanted))
                assert not value[~mask].any()
                value = value[mask]
            assert np.array_equal(value, np.zeros_like(value) if wanted is None else wanted)


def test_unreadable_images_are_absent(tmp_path, cache):
    rows = posts(10)
    dataset = write_dataset(tmp_path / "dataset", rows)
    fill(cache, [f"image {n}" for n in range(1, 7)], [f"caption {n}" for n in range(5)])
    with pytest.raises(IntegrityError, match="1 of 6 image_grid are not in the cache"):
        build_feature_table(dataset, "train", cache, NEEDS, VOCABULARY, tmp_path / "tables")
    assert not any((tmp_path / "tables").iterdir())
    cache.write_unreadable("image_grid", {key("image 0"): "truncated JPEG"})
    cache.refresh()
    table = build_feature_table(dataset, "train", cache, NEEDS, VOCABULARY, tmp_path / "tables")
    assert table.image_present[:4].tolist() == [False, True, False, True]
    assert table.rows([0]).image_present.tolist() == [False]
    assert not table.rows([0]).arrays["image_grid"].any()


def test_the_folder_is_named_by_what_is_in_it(tmp_path, cache):
    rows = posts(10)
    fill(cache, [f"image {n}" for n in range(7)], [f"caption {n}" for n in range(5)])
    dataset = write_dataset(tmp_path / "dataset", rows)
    build = lambda of, needs: build_feature_table(of, "train", cache, needs, VOCABULARY, tmp_path / "tables")  # noqa: E731
    first = build(dataset, NEEDS)
    written = {file: file.stat().st_mtime_ns for file in first.folder.iterdir()}
    assert build(dataset, NEEDS).folder == first.folder
    assert {file: file.stat().st_mtime_ns for file in first.folder.iterdir()} == written
    assert build(dataset, frozenset({"text_vector"})).folder != first.folder
    assert build(write_dataset(tmp_path / "other", rows, "def"), NEEDS).folder != first.folder


def test_many_builders_at_once(tmp_path, cache):
    fill(cache, [f"image {n}" for n in range(7)], [f"caption {n}" for n in range(5)])
    dataset = write_dataset(tmp_path / "dataset", posts(20))
    make = lambda _: build_feature_table(dataset, "train", cache, NEEDS, VOCABULARY, tmp_path / "tables")  # noqa: E731
    with ThreadPoolExecutor(4) as pool:
        tables = list(pool.map(make, range(4)))
    assert len({table.folder for table in tables}) == 1
    assert [file.name for file in (tmp_path / "tables").iterdir()] == [tables[0].folder.name]
    assert all(len(table.rows(range(20)).post_ids) == 20 for table in tables)


def test_a_table_that_is_broken_or_not_there(tmp_path, cache):
    dataset = write_dataset(tmp_path / "dataset", posts(9))
    fill(cache, [f"image {n}" for n in range(7)], [f"caption {n}" for n in range(5)])
    table = build_feature_table(dataset, "train", cache, NEEDS, VOCABULARY, tmp_path / "tables")
    with (table.folder / "image_grid.bin").open("r+b") as file:
        file.truncate(5)
    with pytest.raises(IntegrityError, match="image_grid has 5 bytes"):
        FeatureTable.open(table.folder)
    with pytest.raises(NotFoundError, match="no feature table"):
        FeatureTable.open(tmp_path)
    with pytest.raises(ConfigError, match="local folder"):
        build_feature_table(dataset, "train", cache, NEEDS, VOCABULARY, "s3://bucket/tables")
