"""Splits against a plain reading of the rules, on small random archives."""

from typing import Any

import pytest

from hashtag_core.config import SplitSection, VocabularySection
from hashtag_core.data.decide_splits import REPEATED_ID
from hashtag_core.errors import ConfigError
from tests.unit.data.small_posts import many, reasons_of, split_of


def test_the_latest_of_a_repeated_id_wins() -> None:
    posts = [
        {"id": "x", "day": 3, "tags": ["late"]},
        {"id": "x", "tags": ["undated"]},
        {"id": "x", "day": 1, "tags": ["early"]},
    ]
    part = split_of([*posts, *many(30)], kind="random")
    assert reasons_of(part)[:3] == ["", REPEATED_ID, REPEATED_ID]


def test_the_earliest_of_a_repost_stays() -> None:
    posts = [{"id": f"{n}", "day": day, "caption": "the very same five words"} for n, day in enumerate((5, 2, None, 2))]
    part = split_of([*posts, *many(30)], kind="random")
    assert reasons_of(part)[:4] == ["near_duplicate", "", "near_duplicate", "near_duplicate"]


def test_fractions_are_met() -> None:
    for kind in ("random", "by_user", "by_time"):
        part = split_of(many(2000, user=lambda n: f"u{n % 400}"), kind=kind, validation=0.1, test=0.2)
        assert part.posts["test"] == pytest.approx(400, abs=60), kind
        assert part.posts["validation"] == pytest.approx(200, abs=50), kind


def test_new_posts_move_no_other_post() -> None:
    before = split_of(many(500), kind="random")
    after = split_of(many(700), kind="random")
    assert after.split_of[:500].tolist() == before.split_of.tolist()
    other_seed = split_of(many(500), kind="random", seed=1)
    assert (other_seed.split_of != before.split_of).sum() > 50


def test_by_time_needs_dates() -> None:
    with pytest.raises(
        ConfigError, match=r"3 splits need as many distinct created_at, found 2 in 20 dated of 21 posts"
    ):
        split_of([*many(20, day=lambda n: n % 2), {"id": "undated", "caption": "undated"}], kind="by_time")


def test_few_groups_still_fill_every_side() -> None:
    for seed in range(8):
        part = split_of(many(30, user=lambda n: f"u{n % 3}"), kind="by_user", seed=seed)
        assert min(part.posts.values()) == 10


def test_one_group_cannot_be_split() -> None:
    with pytest.raises(
        ConfigError, match=r"leaves validation and test empty \(train 10, validation 0, test 0 of 10 posts\)"
    ):
        split_of(many(10, user="one"), kind="by_user")


@pytest.mark.parametrize(
    ("posts", "kind", "remedy"),
    [
        (many(10, user="one"), "by_user", r"too few users .*--set split\.kind=random draws posts one by one"),
        (many(1), "random", r"give more posts, raise the share"),
        ([{**post, "tags": []} for post in many(10, user="one")], "by_user", "says which column holds them"),
    ],
)
def test_an_empty_split_names_what_helps(posts: list[dict[str, Any]], kind: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        split_of(posts, kind=kind)


def test_the_test_archive_is_test_and_what_it_shares_is_left_out() -> None:
    main = [
        *many(40),
        {"id": "t0", "caption": "same id"},
        {"id": "a", "caption": "shared"},
        {"id": "b", "image": "picture", "caption": "another"},
    ]
    tests = [
        {"id": "t0", "caption": "shared", "image": "t"},
        {"id": "t1", "caption": "five words in this caption", "image": "picture", "tags": []},
        {"id": "t2", "caption": "six words are in this caption", "day": 4},
        {"id": "t3", "caption": "six words are in this caption", "day": 3},
    ]
    for kind in ("random", "by_user", "by_time"):
        part = split_of([*main, *tests], tests=4, kind=kind)
        assert reasons_of(part)[40:] == ["in_test_archive"] * 3 + ["", "", "near_duplicate", ""]
        assert part.posts["test"] == 3
        assert part.posts["train"] + part.posts["validation"] == 40
        assert part.posts["validation"] >= 1


def test_short_captions_are_left_out_everywhere() -> None:
    part = split_of([*many(40), {"id": "short", "caption": "two words"}], min_words=3, kind="random")
    assert reasons_of(part)[-1] == "caption_too_short"


def test_tags_a_post_before_and_after_the_cut() -> None:
    rare = {"id": "rare", "day": 0, "caption": "rare", "tags": ["a", "rare1", "rare2"]}
    posts = [rare, *many(60, tags=lambda n: ["a", "b"] if n % 2 else ["a"])]
    options = {"kind": "by_time", "validation": 0.1, "test": 0.1}
    before = split_of(posts, VocabularySection(min_count=2, min_tags_per_post=2), **options)
    assert reasons_of(before)[0] == ""
    assert set(before.vocabulary.tags) == {"a", "b"}
    after = split_of(
        posts, VocabularySection(min_count=2, min_tags_per_post=2, min_tags_counted="after_cut"), **options
    )
    assert reasons_of(after)[0] == "too_few_hashtags"
    assert after.vocabulary.counts.tolist() == [after.posts["train"]] * 2
    assert after.vocabulary.posts == after.posts["train"]


def test_an_empty_vocabulary_says_what_to_lower() -> None:
    with pytest.raises(
        ConfigError,
        match=r"vocabulary is empty .*: the most used hashtag 't' has \d+ train post\(s\), vocabulary.min_count is 99",
    ):
        split_of(many(40), VocabularySection(min_count=99), kind="random")
    with pytest.raises(ConfigError, match="all are denied"):
        split_of(many(40), deny=frozenset("t"), kind="random")


@pytest.mark.parametrize("kind", ["random", "by_user", "by_time"])
def test_posts_without_a_hashtag_are_told_as_that_and_not_as_an_empty_split(kind: str) -> None:
    with pytest.raises(ConfigError, match=r"not one of 40 posts has a hashtag.*--map hashtags=COLUMN"):
        split_of(many(40, tags=[]), kind=kind)


def test_a_fold_that_there_is_not() -> None:
    with pytest.raises(ValueError, match=r"fold 5 of parts of 0\.2, by_user: there is no such part"):
        SplitSection(test=0.2, fold=5)
    with pytest.raises(ValueError, match="by_time: there is no such part"):
        SplitSection(kind="by_time", test=0.2, fold=1)
