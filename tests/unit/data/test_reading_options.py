"""What a person says of an archive."""

import datetime

import pyarrow as pa

from hashtag_core.data.columns import cast_column, refused_type
from hashtag_core.data.parquet_rows import normalise_posts
from hashtag_core.data.reading_options import Reading

UTC = datetime.UTC


DAY = datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)


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


def test_columns_of_other_names_and_cases() -> None:
    table = pa.table({"ID": ["1"], "CAPTION": ["x"], "Body": ["y"]})
    posts, _ = normalise_posts(table, reading=Reading({"post_id": "ID"}))
    assert posts.select(["post_id", "caption"]).to_pylist() == [{"post_id": "1", "caption": "x"}]
    posts, _ = normalise_posts(table, reading=Reading({"post_id": "ID", "caption": "Body"}))
    assert posts["caption"].to_pylist() == ["y"]
    twice, _ = normalise_posts(table, reading=Reading({"post_id": "ID", "caption": "ID"}))
    assert twice.select(["post_id", "caption"]).to_pylist() == [{"post_id": "1", "caption": "1"}]
