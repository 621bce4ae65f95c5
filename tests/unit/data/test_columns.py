"""Columns by what they mean, and that a column, a line of JSON and a dict are read by one definition."""

import datetime
import uuid
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashtag_core.data.columns import cast_column
from hashtag_core.data.parquet_rows import iter_post_batches
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
