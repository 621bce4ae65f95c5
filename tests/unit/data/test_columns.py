"""Columns by what they mean, and that a column, a line of JSON and a dict are read by one definition."""

import datetime
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashtag_core.data.columns import cast_column, refused_type
from hashtag_core.data.posts import iter_post_batches, normalise_posts
from hashtag_core.data.reading import Reading
from hashtag_core.data.values import is_missing, read_degrees, read_id, read_tags, read_text, read_time
from hashtag_core.schema import POST

UTC = datetime.UTC
DAY = datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "array", "read"),
    [
        ("post_id", pa.array([Decimal(2**70), None], pa.decimal128(38, 0)), [str(2**70), None]),
        ("post_id", pa.array([Decimal("7.00"), Decimal("7.50")], pa.decimal128(10, 2)), ["7", "expected"]),
        ("post_id", pa.array([Decimal(-5)], pa.decimal256(50, 0)), ["-5"]),
        ("post_id", pa.array([7.0, 1.5, float("nan"), 2.0**53, None]), ["7", "expected", None, "expected", None]),
        ("post_id", pa.array([16_777_217.0], pa.float32()), ["expected"]),
        ("post_id", pa.array([2**64 - 1], pa.uint64()), [str(2**64 - 1)]),
        ("post_id", pa.array([uuid.UUID(int=5).bytes, None], pa.uuid()), [str(uuid.UUID(int=5)), None]),
        ("post_id", pa.array([b"007", b"\xff"]), ["007", "expected UTF-8"]),
        ("post_id", pa.array([True]), ["expected string, found bool"]),
        ("user_id", pa.array(["", " ", "ann", None]), [None, None, "ann", None]),
        ("latitude", pa.array([float("nan"), float("inf"), 1.5]), [None, "expected a number", 1.5]),
        ("user_id", pa.array([b"a\xff", b"a\xfe"]), ["a\\xff", "a\\xfe"]),
        ("created_at", pa.array(["2020-01-02T03:04:05Z", "", None, "soon"]), [DAY, None, None, "expected an ISO 8601"]),
        ("created_at", pa.array(["2020-01-02 03:04:05 UTC", "2020-01-01 19:04:05 -0800"]), [DAY, DAY]),
        ("created_at", pa.array(["2020-01-02 03:04:05.123456789"]), [DAY.replace(microsecond=123456)]),
        ("created_at", pa.array(["Thu Jan 02 03:04:05 +0000 2020"]), [DAY]),
        ("created_at", pa.array([DAY.date()], pa.date64()), [DAY.replace(hour=0, minute=0, second=0)]),
        ("created_at", pa.array([7], pa.time64("us")), ["expected timestamp, found time64"]),
        ("hashtags", pa.array(['["a", "b"]', "", None, "a b"]), [["a", "b"], None, None, "expected list<string>"]),
        (
            "hashtags",
            pa.array(["['a', \"b\"]", "#a #b", "{a,b}", "[1]"]),
            [["a", "b"], ["#a", "#b"], ["a", "b"], "expected"],
        ),
        ("hashtags", pa.array([[{"text": "a", "indices": [0, 1]}], []]), [["a"], []]),
        ("hashtags", pa.array([{"list": [{"element": "a"}]}, {"list": []}, None]), [["a"], [], None]),
        ("hashtags", pa.array([{"bag": ["a"]}]), [["a"]]),
        ("image", pa.array([[255, 216], None], pa.list_(pa.uint8())), [b"\xff\xd8", None]),
        ("image", pa.array([[-1, -40]], pa.list_(pa.int8())), [b"\xff\xd8"]),
        ("latitude", pa.array(["52.5", " ", None, "north"]), [52.5, None, None, "expected a number"]),
        ("latitude", pa.array([Decimal("52.5")]), [52.5]),
    ],
)
def test_what_is_unambiguous_is_taken(name: str, array: pa.Array, read: list[Any]) -> None:
    """Text at the place of another value is how the reason of a refused row begins."""
    cast = cast_column(name, array)
    assert cast.values.type == POST.field(name).type
    for row, (found, wanted) in enumerate(zip(cast.values.to_pylist(), read, strict=True)):
        if cast.bad[row]:
            assert isinstance(wanted, str)
            assert cast.why(row).startswith(wanted)
            assert found is None
        else:
            assert found == wanted


def test_dates_as_a_person_says() -> None:
    said = Reading(date_format="%d.%m.%Y %H:%M:%S")
    assert cast_column("created_at", pa.array(["02.01.2020 03:04:05"]), said).values.to_pylist() == [DAY]
    for unit, value in {"unix": 1577934245, "unix_ms": 1577934245000, "unix_us": 1577934245000000}.items():
        for held in (pa.array([value]), pa.array([str(value)]), pa.array([float(value)])):
            assert cast_column("created_at", held, Reading(date_format=unit)).values.to_pylist() == [DAY], unit
    refused = cast_column("created_at", pa.array([1577934245]))
    assert "--date-format" in refused.why(0)
    assert refused_type("created_at", pa.int64()) == "created_at: expected timestamp, found int64"
    assert refused_type("created_at", pa.int64(), Reading(date_format="unix")) is None


IDS = st.one_of(
    st.none(), st.text(max_size=8), st.integers(-(2**63), 2**63 - 1), st.floats(width=64), st.uuids(),
    st.decimals(-(10**20), 10**20, allow_nan=False, allow_infinity=False, places=3), st.binary(max_size=6),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(value=IDS)
def test_an_id_of_a_column_is_that_of_a_value(value: Any) -> None:
    kinds = {uuid.UUID: pa.uuid(), Decimal: pa.decimal128(30, 3)}
    try:
        array = pa.array([value.bytes if isinstance(value, uuid.UUID) else value], kinds.get(type(value)))
    except (pa.ArrowInvalid, UnicodeEncodeError):
        return
    cast = cast_column("post_id", array)
    try:
        assert cast.values.to_pylist() == [read_id("post_id", value)]
        assert not cast.bad[0]
    except ValueError:
        assert cast.bad[0]


@pytest.mark.parametrize(
    "value", [None, float("nan"), np.nan, np.float32("nan"), pd.NaT, pd.NA, np.datetime64("NaT"), Decimal("nan")]
)
def test_missing_values_of_all_libraries_are_missing(value: Any) -> None:
    assert is_missing(value)
    for read in (read_id, read_text, read_tags, read_time, read_degrees):
        assert read("x", value) is None


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (pd.Timestamp("2020-01-02 03:04:05.000000007", tz="UTC"), DAY),
        (np.datetime64("2020-01-02T03:04:05", "ns"), DAY),
        (datetime.date(2020, 1, 2), DAY.replace(hour=0, minute=0, second=0)),
        ("20200102T030405Z", DAY),
        ("2020-01-02T04:04:05+01:00", DAY),
    ],
)
def test_times_of_all_libraries(value: Any, read: datetime.datetime) -> None:
    assert read_time("created_at", value) == read


def test_int96_keeps_the_years(tmp_path) -> None:
    when = [
        datetime.datetime(1, 1, 1),
        datetime.datetime(1066, 10, 14),
        datetime.datetime(2262, 5, 1),
        datetime.datetime(9999, 12, 31),
    ]
    table = pa.table({"post_id": ["a", "b", "c", "d"], "created_at": pa.array(when, pa.timestamp("us"))})
    pq.write_table(table, tmp_path / "a.parquet", use_deprecated_int96_timestamps=True)
    (batch,) = iter_post_batches(str(tmp_path / "a.parquet"), 10)
    assert [time.replace(tzinfo=None) for time in batch.posts["created_at"].to_pylist()] == when


def test_columns_of_other_names_and_cases() -> None:
    table = pa.table({"ID": ["1"], "CAPTION": ["x"], "Body": ["y"]})
    posts, _ = normalise_posts(table, reading=Reading({"post_id": "ID"}))
    assert posts.select(["post_id", "caption"]).to_pylist() == [{"post_id": "1", "caption": "x"}]
    posts, _ = normalise_posts(table, reading=Reading({"post_id": "ID", "caption": "Body"}))
    assert posts["caption"].to_pylist() == ["y"]
    twice, _ = normalise_posts(table, reading=Reading({"post_id": "ID", "caption": "ID"}))
    assert twice.select(["post_id", "caption"]).to_pylist() == [{"post_id": "1", "caption": "1"}]
