"""Features through Ray: what is missing and nothing else, equal to what the encoders give without Ray."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashtag_core import schema, storage
from hashtag_core.config import EncodersSection
from hashtag_core.data.dataset import Dataset
from hashtag_core.data.feature_cache import cache_root
from hashtag_core.data.images import decode_image
from hashtag_core.data.vocabulary import Vocabulary
from hashtag_core.distributed.features import (
    _cut,
    _missing,
    build_feature_table,
    ensure_features,
)
from hashtag_core.encoders import load_encoders
from hashtag_core.encoders.encode_chunk import read_chunk
from hashtag_core.errors import HashtagError, NotFoundError

NEEDS = frozenset({"image_vector", "image_grid", "text_vector", "text_states", "tokens"})
SECTION = EncodersSection(precision="float32")


def sha(data: bytes | str | None) -> str | None:
    return None if data is None else hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def write_dataset(folder, posts, split="train") -> Dataset:
    rows = [post | {"image_key": sha(post["image"]), "caption_key": sha(post["caption"])} for post in posts]
    path = folder / split / "part-00000-x.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema.PREPARED), path, row_group_size=7)
    counts = {name: len(posts) if name == split else 0 for name in ("train", "validation", "test")}
    info = {"format": 1, "content_hash": "abc", "posts": counts, "vocabulary": 1, "rejected": 0, "left_out": {}}
    info |= {"config": {}, "archive": "a", "fingerprint": "f"}
    info["files"] = [{"path": f"{split}/{path.name}", "rows": len(posts)}]
    (folder / "dataset.json").write_text(json.dumps(info))
    return Dataset.open(str(folder))


@pytest.fixture
def posts(make_posts):
    """Twenty posts; one image is truncated, one is no image, two are absent, one stands twice; two captions are absent."""
    posts = make_posts(20)
    posts[3]["image"] = posts[3]["image"][:300]
    posts[4]["image"] = b"<html>not found</html>"
    posts[5]["image"] = posts[6]["image"] = None
    posts[8]["image"] = posts[7]["image"]
    posts[6]["caption"] = posts[9]["caption"] = None
    return posts


@pytest.fixture
def dataset(tmp_path, posts):
    return write_dataset(tmp_path / "dataset", posts)


def cached_files(cache) -> dict[str, int]:
    return {info.path: info.size for info in storage.list_files(cache.root)}


def test_features_are_computed_once_and_are_the_encoders_own(ray_session, dataset, posts, tmp_path, caplog):
    first = ensure_features(dataset, SECTION, frozenset({"image_vector"}))
    assert first.root == str(tmp_path / "_features") == cache_root(dataset.uri, SECTION)
    assert set(first.unreadable("image_vector")) == {sha(posts[3]["image"]), sha(posts[4]["image"])}
    assert first.unreadable("image_vector")[sha(posts[3]["image"])].startswith("truncated JPEG")
    before = cached_files(first)

    cache = ensure_features(dataset, SECTION, NEEDS)
    after = cached_files(cache)
    assert before.items() <= after.items()
    assert sum("image_vector" in path for path in after) == 1  # the vectors were not computed again

    images = [post["image"] for n, post in enumerate(posts) if n not in (3, 4, 5, 6)]
    captions = [post["caption"] for post in posts if post["caption"]]
    encoders = load_encoders(SECTION, NEEDS, "cpu", threads=1)
    raw = encoders.encode_images([decode_image(image, encoders.image_side_px) for image in images])
    raw |= encoders.encode_captions(captions)
    for kind in ("image_vector", "image_grid", "text_vector", "text_states"):
        keys = [sha(content) for content in (images if "image" in kind else captions)]
        found, arrays = cache.lookup(kind, keys)
        assert found.all()
        assert np.array_equal(arrays[kind], raw[kind])
    assert np.array_equal(arrays["text_states_mask"], raw["text_states_mask"])

    caplog.clear()
    ensure_features(dataset, SECTION, NEEDS)
    assert "encoding" not in caplog.text
    assert cached_files(cache) == after

    vocabulary = Vocabulary.from_json({"tags": ["topic1"], "counts": [1], "posts": 1, "config": {}})
    table = build_feature_table(dataset, "train", cache, NEEDS, vocabulary, tmp_path / "tables")
    assert np.flatnonzero(~table.image_present).tolist() == [3, 4, 5, 6]
    assert np.flatnonzero(~table.text_present).tolist() == [6, 9]
    assert np.array_equal(table.rows([8]).arrays["image_grid"], table.rows([7]).arrays["image_grid"])


def test_a_run_that_was_stopped_goes_on(ray_session, dataset, posts, tmp_path, caplog):
    encoders = load_encoders(SECTION, frozenset({"text_vector"}), "cpu", threads=1)
    cache = encoders.open_cache(cache_root(dataset.uri, SECTION))
    done = [post["caption"] for post in posts[:12] if post["caption"]]
    cache.write("text_vector", [sha(caption) for caption in done], encoders.encode_captions(done)["text_vector"])
    before = cached_files(cache)
    with caplog.at_level("INFO"):
        ensure_features(dataset, SECTION, frozenset({"text_vector"}))
    new = [path for path in cached_files(cache) if path not in before]
    assert len(new) == 1
    table = pq.read_table(storage.join(cache.root, new[0]))
    assert table["key"].to_pylist() == [sha(post["caption"]) for post in posts[12:]]
    assert "encoded 8 posts" in caplog.text


def test_a_cache_that_cannot_be_written_is_an_error_not_an_absent_image(ray_session, dataset, tmp_path):
    (tmp_path / "taken").write_text("a file")
    section = SECTION.model_copy(update={"cache": str(tmp_path / "taken" / "cache")})
    with pytest.raises(HashtagError, match=r"1 of 1 chunks could not be encoded; the first: .*taken"):
        ensure_features(dataset, section, frozenset({"text_vector"}))


def test_a_family_without_features_needs_no_ray(dataset):
    assert ensure_features(dataset, SECTION, frozenset({"tokens"})).kinds == {}


def test_the_rows_that_lack_features_are_read_and_decoded(dataset):
    cache = load_encoders(SECTION, NEEDS, "cpu").open_cache(cache_root(dataset.uri, SECTION))
    lacking, slices = _missing(dataset, ("train",), cache)
    assert lacking == NEEDS - {"tokens"}
    assert sum(len(images) for _, _, images, _ in slices) == 17  # 18 posts have one, and one stands twice
    assert sum(len(captions) for *_, captions in slices) == 18
    contents = [read_chunk(chunk, 32) for chunk in _cut(slices, 6)]
    assert sum(len(content.image_keys) + len(content.unreadable) for content in contents) == 17
    assert sum(len(content.captions) for content in contents) == 18
    assert all(image.shape == (32, 32, 3) for content in contents for image in content.pixels)
    with pytest.raises(NotFoundError, match="nowhere"):
        read_chunk([("/nowhere.parquet", 0, [0], [])], 32)


@given(
    st.lists(st.tuples(st.sets(st.integers(0, 20)), st.sets(st.integers(0, 20))).filter(any), max_size=5),
    st.integers(1, 9),
)
def test_chunks_hold_every_row_once(groups, size):
    slices = [("file", n, sorted(images), sorted(captions)) for n, (images, captions) in enumerate(groups)]
    chunks = list(_cut(slices, size))
    posts = [len({(g, row) for _, g, *rows in chunk for row in rows[0] + rows[1]}) for chunk in chunks]
    assert all(count == size for count in posts[:-1])
    assert all(0 < count <= size for count in posts[-1:])
    for of in (2, 3):
        back = [(part[1], row) for chunk in chunks for part in chunk for row in part[of]]
        assert back == [(part[1], row) for part in slices for row in part[of]]


def test_precomputed_regions_go_into_the_cache(ray_session, dataset, posts, tmp_path):
    """By the posts' ids; a post that has none counts as one without an image for who reads regions, and for nobody else."""
    held = [n for n in range(20) if n not in (5, 6, 11)]
    rows = [
        {"post_id": posts[n]["post_id"], "boxes": [[0.0, 0.0, 1.0, 0.5]] * 4, "features": [[float(n)] * 3] * 4}
        for n in held
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "regions.parquet")
    section = EncodersSection(regions=f"precomputed:{tmp_path}/regions.parquet", grid_side=2, precision="float32")
    needs = frozenset({"image_grid"})
    cache = ensure_features(dataset, section, needs)
    vocabulary = Vocabulary.from_json({"tags": ["topic1"], "counts": [1], "posts": 1, "config": {}})
    table = build_feature_table(dataset, "train", cache, needs, vocabulary, tmp_path / "tables")
    assert np.flatnonzero(~table.image_present).tolist() == [5, 6, 11]
    got = table.rows([0, 11, 19])
    assert got.arrays["image_grid"][:, 0, 0].tolist() == [0.0, 0.0, 19.0]
    assert got.arrays["boxes"][2].tolist() == [[0.0, 0.0, 1.0, 0.5]] * 4
    assert cache.unreadable("image_grid").keys() == {sha(posts[11]["image"])}
    others = ensure_features(dataset, SECTION, frozenset({"image_vector"}))
    assert sha(posts[11]["image"]) not in others.unreadable("image_vector")
