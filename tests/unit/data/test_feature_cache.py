"""The cache of encoder outputs."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashtag_core.data import feature_cache
from hashtag_core.data.feature_cache import DIED, FeatureCache
from hashtag_core.data.features import build_feature_table
from tests.unit.data.small_features import BOXES, KINDS, NEEDS, VOCABULARY, key, posts, values_of, write, write_dataset


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
