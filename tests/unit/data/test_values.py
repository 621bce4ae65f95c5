"""Single values of whatever an exporter wrote."""

import datetime
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashtag_core.data.columns import cast_column
from hashtag_core.data.values import is_missing, read_degrees, read_id, read_tags, read_text, read_time

UTC = datetime.UTC


DAY = datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)


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
