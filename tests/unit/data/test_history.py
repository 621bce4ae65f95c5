"""Whose posts stand in whose history: by hand, against a search post by post, and on a prepared dataset."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashtag_core.config import HistorySection, Section
from hashtag_core.data.history import UNDATED, HistoryColumns, HistoryRule, find_history
from hashtag_core.schema import PREPARED

Post = dict[str, Any]


def columns_of(posts: list[Post]) -> HistoryColumns:
    rows = [{**dict.fromkeys(PREPARED.names), "post_id": f"p{n}", **post} for n, post in enumerate(posts)]
    return HistoryColumns.of(pa.Table.from_pylist(rows, schema=PREPARED))


def at(day: int) -> datetime:
    return datetime(2020, 1, day, tzinfo=UTC)


def history(posts: list[Post], posts_each: int = 3, order: Any = "earlier", first: int = 0) -> list[list[int]]:
    found = find_history(columns_of(posts), HistoryRule(order, posts_each), first)
    assert found.shape == (len(posts) - first, posts_each)
    assert found.dtype == np.int32
    return [[int(row) for row in line if row >= 0] for line in found]


def test_earlier_posts_of_the_user_newest_first() -> None:
    posts = [
        {"user_id": "a", "created_at": at(4)},
        {"user_id": "b", "created_at": at(1)},
        {"user_id": "a", "created_at": at(1)},
        {"user_id": "a", "created_at": at(3)},
        {"user_id": "a", "created_at": at(2)},
        {"user_id": "b", "created_at": at(2)},
    ]
    assert history(posts, 2) == [[3, 4], [], [], [4, 2], [2], [1]]
    assert history(posts, 5) == [[3, 4, 2], [], [], [4, 2], [2], [1]]


def test_posts_of_one_moment_are_not_earlier_than_each_other() -> None:
    posts = [{"user_id": "a", "created_at": at(day)} for day in (1, 2, 2, 3)]
    found = history(posts)
    assert found[:3] == [[], [0], [0]]
    assert sorted(found[3][:2]) == [1, 2]
    assert found[3][2] == 0


def test_without_user_or_date_there_is_no_history() -> None:
    posts: list[Post] = [
        {"user_id": None, "created_at": at(1)},
        {"user_id": None, "created_at": at(2)},
        {"user_id": "a", "created_at": None},
        {"user_id": "a", "created_at": at(3)},
        {"user_id": "a", "created_at": at(4)},
    ]
    assert history(posts) == [[], [], [], [], [3]]
    other = history(posts, order="other")
    assert other[:2] == [[], []]
    assert other[2:] == [[4, 3], [2, 4], [3, 2]]  # in a circle: 2 (undated), 3, 4


def test_a_repeat_of_the_post_is_not_in_its_history() -> None:
    def post(day: int, image: str | None, caption: str | None) -> Post:
        return {"user_id": "a", "created_at": at(day), "image_key": image, "caption_key": caption}

    posts = [
        post(1, "i", "c"),
        post(2, "i", "other"),
        post(3, "j", "c"),
        post(4, "i", "c"),
        post(5, "i", "c"),
        post(6, None, None),
        post(7, None, None),
    ]
    found = history(posts, 7)
    assert found[4] == [2, 1]  # the same image or the same caption alone is no repeat
    assert found[3] == [2, 1]
    assert found[6] == [5, 4, 3, 2, 1, 0]  # posts of nothing are not the same
    other = history(posts, 7, order="other")
    assert [set(line) for line in other] == [
        {5, 6},
        {2, 5, 6},
        {1, 5, 6},
        {5, 6},
        {5, 6},
        {0, 1, 2, 3, 4, 6},
        {0, 1, 2, 3, 4, 5},
    ]


def test_earlier_splits_stand_in_histories_and_are_not_asked_for() -> None:
    posts = [{"user_id": "a", "created_at": at(day)} for day in (1, 5, 3, 6)]
    assert history(posts, first=2) == [[0], [1, 2, 0]]
    assert history(posts[:2]) == [[], [0]]  # what comes later in the table is another split's


def test_a_user_of_ten_thousand_posts() -> None:
    n = 10_000
    created = np.random.default_rng(0).permutation(n)
    columns = HistoryColumns(
        np.ones(n, np.uint64), np.arange(n, dtype=np.uint64), created, np.ones(n, np.uint64), np.zeros(n, np.uint64)
    )
    assert (find_history(columns, HistoryRule("earlier", 5)) == -1).all()  # all of them are repeats of each other
    columns.caption[:] = np.arange(n)
    row_at = np.argsort(created)
    found = find_history(columns, HistoryRule("earlier", 5))
    assert found[row_at[9_999]].tolist() == row_at[9_998:9_993:-1].tolist()
    assert (find_history(columns, HistoryRule("other", 50)) == -1).all()  # one image in all of them
    columns.image[:] = 0
    assert (find_history(columns, HistoryRule("other", 50)) >= 0).sum() > 50 * (n - 2)


POST = st.fixed_dictionaries(
    {
        "user_id": st.sampled_from([None, "a", "b"]),
        "created_at": st.sampled_from([None, *map(at, range(1, 7))]),
        "image_key": st.sampled_from([None, "i", "j"]),
        "caption_key": st.sampled_from([None, "c", "d"]),
    }
)


@settings(max_examples=300, deadline=None)
@given(st.lists(POST, max_size=24), st.integers(1, 6), st.sampled_from(["earlier", "other"]), st.data())
def test_equals_a_search_post_by_post(posts: list[Post], posts_each: int, order: Any, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(posts)))
    columns = columns_of(posts)
    found = find_history(columns, HistoryRule(order, posts_each), first)
    key = [(int(columns.created_us[n]), int(columns.post[n])) for n in range(len(posts))]
    for row in range(first, len(posts)):
        mine, line = posts[row], found[row - first].tolist()
        others = [n for n in range(len(posts)) if n != row and posts[n]["user_id"] == mine["user_id"] is not None]
        others.sort(key=lambda n: key[n], reverse=True)
        same = {n: [posts[n][k] == mine[k] is not None for k in ("image_key", "caption_key")] for n in others}
        if order == "earlier":
            before = [n for n in others if UNDATED < key[n][0] < key[row][0]]
            equal = {n: all(posts[n][k] == mine[k] for k in ("image_key", "caption_key")) for n in before}
            expected = [n for n in before if not (any(same[n]) and equal[n])]
        else:
            before = [n for n in others if key[n] < key[row]]
            circle = before + [n for n in others if key[n] > key[row]]
            expected = [n for n in circle if not any(same[n])]
        expected = expected[:posts_each]
        assert line == expected + [-1] * (posts_each - len(expected))
        assert row not in line


def test_the_order_of_the_table_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    posts = [
        {"post_id": f"p{n}", "user_id": f"u{n % 3}", "created_at": at(int(rng.integers(1, 28)))} for n in range(40)
    ]
    shuffled = [posts[n] for n in rng.permutation(40)]
    for order in ("earlier", "other"):
        named = []
        for table in (posts, shuffled):
            lines = history(table, 4, order)
            named.append(
                {post["post_id"]: [table[n]["post_id"] for n in line] for post, line in zip(table, lines, strict=True)}
            )
        assert named[0] == named[1]


@pytest.mark.parametrize("posts", [[], [{"user_id": "a", "created_at": at(1)}]])
def test_hardly_any_posts(posts: list[Post]) -> None:
    assert history(posts) == [[] for _ in posts]
    assert history(posts, order="other") == [[] for _ in posts]


def test_which_models_read_a_history() -> None:
    def rule(inputs: list[str], reads: frozenset[str] = frozenset({"history"}), **changes: Any) -> HistoryRule | None:
        options = Options(**{"inputs": inputs, "history_posts": 7, **changes})
        return HistoryRule.of(reads | {"image_vector", "text_states"}, options, HistorySection(order="other"))

    assert rule(["image", "caption", "history"]) == HistoryRule("other", 7, ("image_vector",))
    assert rule(["caption", "history"]) == HistoryRule("other", 7, ())
    assert rule(["image", "caption"]) is None
    assert rule(["image", "history"], frozenset()) is None
    assert rule(["history"], history_posts=0) is None
    kept = {"order": "other", "posts": 7, "reads": ["image_vector"]}
    assert HistoryRule.from_json(kept) == HistoryRule("other", 7, ("image_vector",))


class Options(Section):
    inputs: list[str]
    history_posts: int
