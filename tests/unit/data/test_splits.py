"""Which posts are one, which belong together, and which split each goes to."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hashtag_core.config import SplitSection
from hashtag_core.data.decide_splits import REASONS, REPEATED_ID, Partition, content_hash
from hashtag_core.data.splits import (
    OUT,
    TEST,
    TRAIN,
    VALIDATION,
    PostColumns,
    cut_by_hash,
    group_labels,
    near_duplicate_labels,
)
from hashtag_core.errors import ConfigError
from tests.unit.data.small_posts import index_of, many, reasons_of, split_of

POSTS = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.sampled_from([f"p{n}" for n in range(40)]),
            "user": st.none() | st.sampled_from([f"u{n}" for n in range(8)]),
            "day": st.none() | st.integers(0, 30),
            "caption": st.none()
            | st.sampled_from(
                ["hi", "oh my", "one two three four five", "a b c d e f", *[f"only {n}" for n in range(20)]]
            ),
            "image": st.none() | st.sampled_from([f"i{n}" for n in range(25)]),
            "tags": st.lists(st.sampled_from("abc"), max_size=3, unique=True),
        }
    ),
    min_size=12,
    max_size=40,
)


KINDS = st.sampled_from(["random", "by_user", "by_time"])


def is_repeat(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """The rule of near-duplicates, read plainly."""
    if a["image"] and b["image"]:
        return a["image"] == b["image"] and a["caption"] == b["caption"]
    if a["image"] or b["image"] or not a["caption"]:
        return False
    return a["caption"] == b["caption"] and len(a["caption"].split()) >= 5


def is_common(post: dict[str, Any], posts: list[dict[str, Any]]) -> bool:
    """Whether more users have the post's caption than hold together by one."""
    sharing = [other for other in posts if other["caption"] == post["caption"]]
    users = {other["user"] for other in sharing if other["user"]}
    without = sum(not other["user"] for other in sharing)
    return len(users) + without > (10 if len(post["caption"].split()) >= 5 else 3)


@settings(max_examples=60, deadline=None)
@given(posts=POSTS, kind=KINDS, seed=st.integers(0, 3))
def test_the_promises_hold_on_any_archive(posts: list[dict[str, Any]], kind: str, seed: int) -> None:
    try:
        part = split_of(posts, kind=kind, seed=seed, validation=0.25, test=0.25)
    except ConfigError:
        assume(False)
    kept = [(post, side) for post, side in zip(posts, part.split_of, strict=True) if side != OUT]
    assert len({post["id"] for post, _ in kept}) == len(kept)
    reasons = np.array(reasons_of(part))
    assert set(reasons[part.split_of == OUT]) <= {*REASONS, REPEATED_ID}
    assert set(reasons[part.split_of != OUT]) == {""}
    assert sum(part.posts.values()) + sum(part.left_out.values()) + (reasons == REPEATED_ID).sum() == len(posts)
    assert all(post["tags"] for post, side in kept if side == TRAIN)
    for (a, side_a), (b, side_b) in itertools.combinations(kept, 2):
        assert not is_repeat(a, b)
        if side_a != side_b:
            assert not a["image"] or a["image"] != b["image"]
            assert not a["caption"] or a["caption"] != b["caption"] or (kind == "by_user" and is_common(a, posts))
            assert kind != "by_user" or not a["user"] or a["user"] != b["user"]
            if kind == "by_time":
                assert (a["day"] < b["day"]) == (side_a < side_b)
    train = [set(post["tags"]) for post, side in kept if side == TRAIN]
    assert dict(zip(part.vocabulary.tags, part.vocabulary.counts, strict=True)) == {
        tag: sum(tag in tags for tags in train) for tag in set().union(*train)
    }


@settings(max_examples=30, deadline=None)
@given(posts=POSTS, kind=KINDS, data=st.data())
def test_the_order_of_posts_and_parts_decides_nothing(
    posts: list[dict[str, Any]], kind: str, data: st.DataObject
) -> None:
    posts = [{**post, "part": data.draw(st.integers(0, 3))} for post in posts]
    shuffled = data.draw(st.permutations([{**post, "part": 0} for post in posts]))
    settings_ = {"kind": kind, "validation": 0.25, "test": 0.25}
    try:
        one, other = split_of(posts, **settings_), split_of(shuffled, **settings_)
    except ConfigError:
        with pytest.raises(ConfigError):
            split_of(shuffled, **settings_)
        return

    def content(held: list[dict[str, Any]], part: Partition) -> set[tuple]:
        return {
            (p["id"], p["day"], p["caption"], p["image"], tuple(p["tags"]), s)
            for p, s in zip(held, part.split_of, strict=True)
            if s != OUT
        }

    assert content(posts, one) == content(shuffled, other)
    assert content_hash(index_of(posts), one.split_of, {}) == content_hash(index_of(shuffled), other.split_of, {})
    assert one.left_out == other.left_out


@settings(max_examples=60, deadline=None)
@given(
    hashes=st.lists(
        st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 3), st.sampled_from([None, "x", "y"])), max_size=14
    ),
    bits=st.integers(0, 3),
)
def test_close_hashes_against_every_pair(hashes: list[tuple[int, int, str | None]], bits: int) -> None:
    held = [
        (value ^ flip if number % 3 else hashes[0][0] ^ flip, caption)
        for number, (value, flip, caption) in enumerate(hashes)
    ]
    posts = [
        {"id": f"{n}", "image": f"image {n}", "hash": value, "caption": caption}
        for n, (value, caption) in enumerate(held)
    ]
    labels = near_duplicate_labels(PostColumns.of(index_of(posts)), bits)
    expected = list(range(len(held)))
    for _ in held:
        for a, b in itertools.combinations(range(len(held)), 2):
            if held[a][1] == held[b][1] and (held[a][0] ^ held[b][0]).bit_count() <= bits:
                expected[a] = expected[b] = min(expected[a], expected[b])
    same = [[labels[a] == labels[b] for b in range(len(held))] for a in range(len(held))]
    assert same == [[expected[a] == expected[b] for b in range(len(held))] for a in range(len(held))]


def test_by_time_borders_by_hand() -> None:
    part = split_of(many(10, day=lambda n: n // 2), kind="by_time", validation=0.2, test=0.2)
    assert part.split_of.tolist() == [TRAIN] * 6 + [VALIDATION] * 2 + [TEST] * 2
    assert part.notes == ["test begins at 1970-01-05T00:00:00+00:00", "validation begins at 1970-01-04T00:00:00+00:00"]


def test_by_time_leaves_out_undated_posts_and_later_repeats() -> None:
    posts = [*many(20), {"id": "undated", "caption": "undated"}, {"id": "again", "day": 19, "caption": "caption of 2"}]
    part = split_of(posts, kind="by_time")
    assert part.left_out == {"undated": 1, "repeats_across_border": 1}
    assert reasons_of(part)[-2:] == ["undated", "repeats_across_border"]
    assert part.split_of[2] == TRAIN


def test_a_user_with_most_posts_goes_to_train() -> None:
    users = [lambda n: "giant" if n < 300 else f"u{n}"]
    for seed in range(6):
        part = split_of(many(400, user=users[0]), kind="by_user", seed=seed)
        assert set(part.split_of[:300].tolist()) == {TRAIN}


def test_the_content_hash_sees_every_change() -> None:
    posts = many(6)
    side = np.zeros(6, dtype=np.int8)
    first = content_hash(index_of(posts), side, {"seed": 0})
    assert first != content_hash(index_of(posts), side, {"seed": 1})
    moved = side.copy()
    moved[3] = TEST
    assert first != content_hash(index_of(posts), moved, {"seed": 0})
    for change in ({"tags": ["u"]}, {"caption": "other"}, {"image": "new"}, {"user": "u"}, {"day": 99}, {"id": "new"}):
        changed = [{**post, **change} if n == 2 else post for n, post in enumerate(posts)]
        assert first != content_hash(index_of(changed), side, {"seed": 0}), change


@pytest.mark.parametrize("pool", [1, 5, 20])
def test_a_greeting_does_not_make_one_group_of_half_the_users(pool: int) -> None:
    """2,000 posts of 100 users, 3 % of them a greeting out of a few."""
    greetings = [f"good morning {n}" for n in range(pool)]
    posts = [
        {"id": f"{n}", "user": f"u{n % 100}", "caption": greetings[n % pool] if n % 33 == 0 else f"caption of {n}"}
        for n in range(2_000)
    ]
    columns = PostColumns.of(index_of(posts))
    labels = group_labels(columns, near_duplicate_labels(columns, 0), by_user=True)
    assert np.bincount(labels).max() <= 60
    users = np.array([post["user"] for post in posts])
    assert all(len(set(labels[users == user])) == 1 for user in set(users))


@pytest.mark.parametrize(
    ("caption", "users", "joined"),
    [
        ("good morning", 3, True),
        ("good morning", 4, False),
        ("an unusual sentence of six words", 10, True),
        ("an unusual sentence of six words", 11, False),
    ],
)
def test_a_rare_caption_joins_users(caption: str, users: int, joined: bool) -> None:
    posts = [{"id": f"{n}", "user": f"u{n}", "caption": caption, "image": f"i{n}"} for n in range(users)]
    columns = PostColumns.of(index_of(posts))
    labels = group_labels(columns, near_duplicate_labels(columns, 0), by_user=True)
    assert (len(set(labels)) == 1) == joined


def test_groups_join_through_others() -> None:
    posts = [
        {"id": "a", "user": "u1", "caption": "x", "image": "1"},
        {"id": "b", "user": "u2", "caption": "x", "image": "2"},
        {"id": "c", "user": "u2", "caption": "y", "image": "3"},
        {"id": "d", "user": "u3", "caption": "z", "image": "3"},
        {"id": "e", "user": None, "caption": None, "image": None},
        {"id": "f", "user": None, "caption": None, "image": None},
    ]
    columns = PostColumns.of(index_of(posts))
    near = near_duplicate_labels(columns, 0)
    by_user = group_labels(columns, near, by_user=True)
    assert len(set(by_user[:4])) == 1
    assert len(set(by_user)) == 3
    alone = group_labels(columns, near, by_user=False)
    assert alone[0] == alone[1] != alone[2] == alone[3]
    sides = cut_by_hash(columns, alone, SplitSection(kind="random"), {VALIDATION: 0.3, TEST: 0.3})
    assert sides.split_of[0] == sides.split_of[1]


@pytest.mark.parametrize("kind", ["by_user", "random"])
def test_folds_hold_every_group_in_one_test_split(kind: str) -> None:
    """Users in five folds: tested once each, never taught and tested in one fold; the first fold is the split without folds."""
    posts = [{"id": f"p{n}", "user": f"u{n % 40}", "caption": f"caption number {n} of all"} for n in range(400)]
    columns = PostColumns.of(index_of(posts))
    labels = group_labels(columns, near_duplicate_labels(columns, 0), by_user=kind == "by_user")
    shares = {VALIDATION: 0.2, TEST: 0.2}
    sides = []
    for fold in range(5):
        section = SplitSection(kind=kind, validation=0.2, test=0.2, fold=fold)  # type: ignore[arg-type]
        sides.append(cut_by_hash(columns, labels, section, shares).split_of)
        if kind == "by_user":
            parts = [
                {posts[row]["user"] for row in np.flatnonzero(sides[-1] == side)} for side in (TRAIN, VALIDATION, TEST)
            ]
            assert all(parts)
            assert len(set.union(*parts)) == sum(map(len, parts)) == 40
    tested = np.stack([side == TEST for side in sides])
    assert (tested.sum(axis=0) == 1).all()
    plain = SplitSection(kind=kind, validation=0.2, test=0.2)  # type: ignore[arg-type]
    assert (cut_by_hash(columns, labels, plain, shares).split_of == sides[0]).all()
