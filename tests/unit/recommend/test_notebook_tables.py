"""Whatever a notebook has at hand gives the same posts, or is refused in words."""

import datetime
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from hashtag_core.errors import ConfigError
from hashtag_core.recommend.read_posts import READ_WITH_HISTORY, normalised

DAY = datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC)
POSTS = [
    {
        "post_id": "007",
        "user_id": "ann",
        "caption": "harbour",
        "image": b"jpeg",
        "created_at": DAY,
        "hashtags": ["sea"],
    },
    {"post_id": "2", "user_id": None, "caption": None, "image": None, "created_at": None, "hashtags": None},
]


def of_relation(_: Any) -> Any:
    frame = pd.DataFrame(POSTS)
    return duckdb.from_arrow(pa.Table.from_pandas(frame))


def stream(_: Any) -> Iterator[dict[str, Any]]:
    yield from POSTS


def with_gaps(_: Any) -> list[dict[str, Any]]:
    gaps = {"user_id": float("nan"), "caption": pd.NA, "image": np.nan, "created_at": pd.NaT, "hashtags": None}
    return [POSTS[0], {**POSTS[1], **gaps}]


@pytest.mark.parametrize(
    "made",
    [
        pa.Table.from_pylist,
        pa.RecordBatch.from_pylist,
        lambda rows: pa.Table.from_pylist(rows).to_reader(),
        pd.DataFrame,
        lambda rows: pd.DataFrame(rows).convert_dtypes(),
        lambda rows: pd.DataFrame(rows, index=[5, 9]),
        lambda rows: pd.DataFrame(rows).to_dict("records"),
        lambda rows: [row for _, row in pd.DataFrame(rows).iterrows()],
        pl.DataFrame,
        lambda rows: pl.DataFrame(rows).to_dicts(),
        of_relation,
        stream,
        tuple,
        with_gaps,
        lambda rows: {name: [row[name] for row in rows] for name in rows[0]},
    ],
)
def test_every_kind_of_table_gives_the_same_posts(made: Callable[[Any], Any]) -> None:
    table = normalised(made(POSTS), "", READ_WITH_HISTORY)
    assert table.schema.equals(READ_WITH_HISTORY)
    assert [{name: row[name] for name in POSTS[0]} for row in table.to_pylist()] == POSTS


def test_one_post_is_a_post_and_none_is_none() -> None:
    assert normalised(POSTS[0], "", READ_WITH_HISTORY).num_rows == 1
    assert normalised(pd.Series(POSTS[0]).to_dict(), "", READ_WITH_HISTORY).num_rows == 1
    assert normalised([], "", READ_WITH_HISTORY).num_rows == 0
    assert normalised(pd.DataFrame({"post_id": []}), "", READ_WITH_HISTORY).num_rows == 0


@pytest.mark.parametrize(
    ("post_id", "read"),
    [
        ("007", "007"),
        (7, "7"),
        (np.int64(7), "7"),
        (7.0, "7"),
        (Decimal("7"), "7"),
        (2**70, str(2**70)),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (b"7", "7"),
        (" 7", " 7"),
    ],
)
def test_ids_are_those_of_archives(post_id: Any, read: str) -> None:
    assert normalised({"post_id": post_id}, "", READ_WITH_HISTORY)["post_id"].to_pylist() == [read]


def test_ids_that_are_text_and_numbers_mixed() -> None:
    captions = pd.Series(["x", None, "y \ud83d"], dtype=object)
    frame = pd.DataFrame({"post_id": ["a", 7, 8.0], "caption": captions})
    table = normalised(frame, "", READ_WITH_HISTORY)
    assert table["post_id"].to_pylist() == ["a", "7", "8"]
    assert table["caption"].to_pylist() == ["x", None, "y ?"]


@pytest.mark.parametrize(
    ("posts", "told"),
    [
        ("harbour", "expected a table, a data frame, dicts with the fields of a post, or one dict, found str"),
        (7, "found int"),
        (["harbour"], "found a list of str"),
        ([POSTS[0], {"caption": "x"}], "row 1 is no post: post_id: expected a non-empty string, found null"),
        ([{"post_id": 1.5}], "row 0 is no post: post_id: expected a string or a whole number, found 1.5"),
        ([{"post_id": "a\ud83d"}], "row 0 is no post: post_id: expected Unicode, found half a surrogate pair"),
        ([{"post_id": "a", "created_at": "soon"}], "row 0 is no post: created_at: expected an ISO 8601 time"),
        ([{"post_id": "a", "image": "a.jpg"}], "row 0 is no post: image: expected bytes"),
        ([{"key": "a"}], "post_id: column missing, found key"),
        (pd.DataFrame({"key": ["a"]}), "post_id: column missing, found key"),
        ([{"id": "a"}], "the field 'id' is called 'post_id' here: rename it"),
        (pd.DataFrame({"post_id": ["a"], "text": ["x"]}), "the field 'text' is called 'caption' here: rename it"),
        (pl.DataFrame({"post_id": ["a"], "tags": [["x"]]}), "the field 'tags' is called 'hashtags' here: rename it"),
        (pl.DataFrame({"post_id": ["a"], "caption": [1]}), "row 0 is no post: caption: expected string, found int64"),
        ({"post_id": ["a", "b"], "caption": ["x"]}, "as many in each"),
    ],
)
def test_what_is_no_post_is_told(posts: Any, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        normalised(posts, "", READ_WITH_HISTORY)
    assert told in str(caught.value)
