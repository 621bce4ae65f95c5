"""The output read with what people have: each reader gives every post once, with its model, version and, by day, its day."""

import shutil
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from hashtag_core.schema import TABLE
from tests.tagging.outputs import rows_by_table, run

DAY_US = 86_400_000_000
DAYS = (0, 1, 1, None, 18_321, -1)
"""Of six posts, since 1970; None: no date."""

Rows = list[tuple[Any, ...]]


@pytest.fixture(params=[False, True], ids=["plain", "by day"])
def out(
    request: pytest.FixtureRequest,
    inline: None,
    tmp_path: Path,
    popularity: Path,
    make_posts: Callable,
    write_part: Callable,
) -> Path:
    """Two parts; the second takes a post over from the first, so that a file was replaced; a row that is none."""
    posts = [
        {**post, "created_at": None if day is None else day * DAY_US}
        for post, day in zip(make_posts(6), DAYS, strict=True)
    ]
    archive, made = tmp_path / "archive", tmp_path / "out"
    write_part(archive / "a.parquet", posts)
    run(archive, made, popularity, by_day=request.param)
    write_part(
        archive / "nested" / "b.parquet", [{**posts[0], "caption": "newer", "created_at": 2 * DAY_US}, {"post_id": ""}]
    )
    run(archive, made, popularity, by_day=request.param)
    return made


def expected(out: Path) -> Rows:
    """Id, first tag, model and version by the table's own log."""
    rows = rows_by_table(out)
    assert len(rows) == 6
    return sorted((row["post_id"], row["hashtags"][0], row["model_name"], row["model_version"]) for row in rows)


def told(rows: list[dict[str, Any]]) -> Rows:
    """The same of rows that a reader gave, the partition columns for the model's."""
    return sorted((row["post_id"], row["hashtags"][0], str(row["model"]), str(row["version"])) for row in rows)


def test_polars(out: Path) -> None:
    frame = pl.scan_delta(str(out))
    assert set(TABLE.names) | {"model", "version"} <= set(frame.collect_schema().names())
    assert told(frame.collect().to_dicts()) == expected(out)
    one = frame.filter(pl.col("model") == "toy", pl.col("part") == "nested/b.parquet").collect()
    assert one["post_id"].to_list() == ["post-0-00000"]


def test_duckdb_over_the_glob(out: Path) -> None:
    query = (
        f"SELECT * FROM read_parquet('{out}/model=*/version=*/**/part-*.parquet', hive_types={{'version': VARCHAR}})"
    )
    rows = duckdb.sql(query).to_arrow_table().to_pylist()
    assert told(rows) == expected(out)
    if list(out.glob("**/day=*")):
        days = {row["post_id"]: row["day"] for row in rows}
        assert [days[f"post-0-{n:05d}"] for n in (1, 3, 5)] == [date(1970, 1, 2), None, date(1969, 12, 31)]


def test_duckdb_over_the_log(out: Path) -> None:
    with duckdb.connect() as connection:
        try:
            connection.execute("LOAD delta")
        except duckdb.Error:
            pytest.skip("DuckDB's delta extension is not installed here (INSTALL delta fetches it)")
        rows = connection.sql(f"SELECT * FROM delta_scan('{out}')").to_arrow_table().to_pylist()
    assert told(rows) == expected(out)


def test_pandas(out: Path) -> None:
    folders = ds.partitioning(pa.schema([(name, pa.string()) for name in ("model", "version", "day")]), flavor="hive")
    frame = pd.read_parquet(out, partitioning=folders)  # without it, PyArrow stumbles over a folder of null
    assert told(frame.to_dict("records")) == expected(out)
    assert told(DeltaTable(str(out)).to_pandas().to_dict("records")) == expected(out)


@pytest.mark.usefixtures("ray_session")
def test_ray_data(out: Path) -> None:
    import ray.data

    files = sorted(str(path) for path in out.glob("model=*/version=*/**/part-*.parquet"))
    rows = ray.data.read_parquet(files, partitioning=ray.data.datasource.Partitioning("hive", base_dir=str(out)))
    assert told(rows.take_all()) == expected(out)


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    sql = pytest.importorskip("pyspark.sql", reason="pyspark is not installed here (the extra `spark`)")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java, which is not installed here")
    folder = tmp_path_factory.mktemp("spark")
    builder = sql.SparkSession.builder.master("local[1]").appName("readers").config("spark.ui.enabled", "false")
    builder = builder.config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1")
    builder = builder.config("spark.sql.session.timeZone", "UTC").config("spark.driver.memory", "512m")
    session = (
        builder.config("spark.sql.warehouse.dir", str(folder)).config("spark.local.dir", str(folder)).getOrCreate()
    )
    yield session
    session.stop()


def test_spark_over_the_folders(out: Path, spark: Any) -> None:
    rows = [
        row.asDict() for row in spark.read.option("basePath", str(out)).parquet(f"{out}/model=*/version=*").collect()
    ]
    assert told(rows) == expected(out)
    if list(out.glob("**/day=*")):
        assert {row["post_id"]: row["day"] for row in rows}["post-0-00003"] is None


def test_an_older_snapshot_while_its_files_are_kept(
    inline: None, tmp_path: Path, popularity: Path, make_posts: Callable, write_part: Callable
) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    write_part(archive / "a.parquet", make_posts(3))
    run(archive, out, popularity)
    before = DeltaTable(str(out)).version()
    write_part(archive / "a.parquet", make_posts(3, seed=1))
    run(archive, out, popularity, keep_history_h=24.0)
    old = pl.scan_delta(str(out), version=before).collect()["post_id"].to_list()
    assert sorted(old) == [f"post-0-{n:05d}" for n in range(3)]
    assert sorted(pl.scan_delta(str(out)).collect()["post_id"].to_list()) == [f"post-1-{n:05d}" for n in range(3)]


def test_folders_of_days_hold_what_they_say(out: Path) -> None:
    """Read with no reader's help: the folder's day is that of `created_at`, hive's own null where there is none."""
    for path in out.glob("model=*/version=*/**/part-*.parquet"):
        folder = path.parent.name
        times = pq.read_table(path, columns=["created_at"], partitioning=None)["created_at"].to_pylist()
        if folder.startswith("day="):
            days = {"__HIVE_DEFAULT_PARTITION__" if time is None else f"{time:%Y-%m-%d}" for time in times}
            assert days == {folder.removeprefix("day=")}
    assert bool(list(out.glob("**/day=*"))) == ("day" in DeltaTable(str(out)).metadata().partition_columns)
