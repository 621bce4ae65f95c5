import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashtag_core.config import VocabularySection
from hashtag_core.data.vocabulary import Vocabulary, build_vocabulary, read_tag_rules
from hashtag_core.errors import ConfigError, IntegrityError, NotFoundError


def test_order_is_falling_count_then_name() -> None:
    built = build_vocabulary([["b", "a"], ["c", "a"], ["b", "c"], ["d"]], VocabularySection(min_count=1, max_size=3))
    assert built.tags == ["a", "b", "c"]
    assert built.counts.tolist() == [2, 2, 2]
    assert built.posts == 4


def test_a_tag_repeated_in_a_post_counts_once_and_denied_ones_do_not() -> None:
    built = build_vocabulary([["a", "a", "x"], ["a", "x"], ["b"]], VocabularySection(min_count=2), deny={"x"})
    assert (built.tags, built.counts.tolist()) == (["a"], [2])


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=5), max_size=20), st.integers(1, 4), st.integers(1, 6))
def test_against_a_plain_count(posts: list[list[str]], min_count: int, max_size: int) -> None:
    counts = Counter(tag for tags in posts for tag in set(tags))
    expected = sorted((-n, tag) for tag, n in counts.items() if n >= min_count)[:max_size]
    built = build_vocabulary(posts, VocabularySection(min_count=min_count, max_size=max_size))
    assert built.tags == [tag for _, tag in expected]
    assert built.counts.tolist() == [-n for n, _ in expected]


def test_encode_keeps_order_and_drops_unknown_and_repeated() -> None:
    held = Vocabulary(["a", "b", "c"], np.array([3, 2, 1]))
    assert held.encode(["c", "x", "a", "c"]) == [2, 0]
    assert len(held) == 3


def test_saved_and_loaded(tmp_path: Path) -> None:
    path = str(tmp_path / "vocabulary.json")
    held = Vocabulary(["é", "日本"], np.array([3, 2]), 7, {"min_count": 1})
    held.save(path)
    read = Vocabulary.load(path)
    assert (read.tags, read.counts.tolist(), read.posts, read.config) == (held.tags, [3, 2], 7, {"min_count": 1})
    assert "日本" in Path(path).read_text()


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        {"tags": ["a"]},
        {"tags": ["a"], "counts": [1, 2]},
        {"tags": ["a", "a"], "counts": [2, 1]},
        {"tags": ["a", "b"], "counts": [1, 2]},
        {"tags": ["a"], "counts": ["x"]},
    ],
)
def test_a_broken_file_is_told_by_its_name(tmp_path: Path, value: object) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_text(json.dumps(value))
    with pytest.raises(IntegrityError, match=r"vocabulary\.json"):
        Vocabulary.load(str(path))


def test_a_missing_file() -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        Vocabulary.load("/nowhere/vocabulary.json")


def test_rules_read_files_normalise_and_follow_chains(tmp_path: Path) -> None:
    (tmp_path / "deny").write_text("#NYC\n\nLondon\n")
    (tmp_path / "synonyms").write_text("#Pic\tphoto\nphotos  Photo\nphoto picture\n")
    section = VocabularySection(
        deny=["#Ad"],
        deny_file=str(tmp_path / "deny"),
        synonyms={"pics": "pic", "same": "same"},
        synonyms_file=str(tmp_path / "synonyms"),
    )
    rules = read_tag_rules(section)
    assert rules.deny == {"ad", "nyc", "london"}
    assert rules.apply(["#Pics", "PHOTOS", "sea", "nyc", "123", "same"]) == ["picture", "sea", "nyc", "same"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"synonyms": {"a": "b", "b": "a"}}, "circle"),
        ({"deny": ["123"]}, "vocabulary.deny: '123' is no hashtag"),
        ({"synonyms": {"a": "!"}}, "vocabulary.synonyms: '!' is no hashtag"),
    ],
)
def test_rules_that_cannot_be(options: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_tag_rules(VocabularySection(**options))


def test_rule_files_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "synonyms"
    path.write_text("ok fine\nonly-one\n")
    with pytest.raises(ConfigError, match=r"synonyms line 2: expected 2 word\(s\), found 1"):
        read_tag_rules(VocabularySection(synonyms_file=str(path)))
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_tag_rules(VocabularySection(deny_file=str(path)))
    with pytest.raises(NotFoundError):
        read_tag_rules(VocabularySection(deny_file=str(tmp_path / "missing")))
