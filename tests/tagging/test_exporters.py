"""What people's exporters write is tagged as it is: every post once, none lost or changed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hashtag_core.config import Recipe
from tests.tagging.outputs import rejected, rows_by_glob, run
from tests.unit.data import test_exporters as exporters

PARQUET = [
    exporters.spark,
    exporters.pandas_parquet,
    exporters.pandas_gaps,
    exporters.polars_parquet,
    exporters.duckdb_parquet,
    exporters.bigquery,
    exporters.athena,
    exporters.snowflake,
    exporters.hive,
    exporters.arrow_types,
]
TABLES = [
    exporters.excel,
    exporters.excel_named_delimiter,
    exporters.excel_utf8,
    exporters.excel_unicode_text,
    exporters.pandas_csv,
    exporters.sheets,
    exporters.postgres,
    exporters.mysql,
]


def tagged(archive: Path, model: Path, layout: str) -> list[tuple[Any, ...]]:
    """Id, status and time of every row of the output; nothing may have been rejected."""
    out = archive.with_name("out")
    recipe = Recipe.model_validate({"archive": {"format": layout}, "tagging": {"chunk_rows": 2, "actors": 1}})
    summary = run(archive, out, model, recipe)
    assert (summary.posts, summary.tagged, summary.rejected) == (3, 3, 0), rejected(out)
    assert run(archive, out, model, recipe).posts == 0, "a second night tags nothing"
    return [(row["post_id"], row["status"], row["created_at"], bool(row["hashtags"])) for row in rows_by_glob(out)]


WANTED = [(post["post_id"], "image_missing", post["created_at"], True) for post in exporters.POSTS]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "archive").mkdir()
    return tmp_path / "archive"


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("write", PARQUET)
def test_parquet(write: Callable[[Path], None], archive: Path, popularity: Path) -> None:
    write(archive)
    assert tagged(archive, popularity, "posts") == WANTED


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("write", TABLES)
def test_tables(write: Callable[[Path], Any], archive: Path, popularity: Path) -> None:
    write(archive)
    assert tagged(archive, popularity, "csv") == WANTED


@pytest.mark.usefixtures("inline")
def test_lines(archive: Path, popularity: Path) -> None:
    (archive / "a.jsonl").write_text(exporters.lines(exporters.POSTS).replace("/", "\\/"))
    assert tagged(archive, popularity, "jsonl") == WANTED


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real one, of two threads."""
    sql = pytest.importorskip("pyspark.sql")
    place = tmp_path_factory.mktemp("spark")
    try:
        session = (
            sql.SparkSession.builder.master("local[2]")
            .config("spark.ui.enabled", "false")
            .config("spark.sql.session.timeZone", "UTC")
            .config("spark.local.dir", str(place))
            .config("spark.sql.warehouse.dir", str(place / "warehouse"))
            .config("spark.driver.host", "127.0.0.1")
            .getOrCreate()
        )
    except Exception as error:
        pytest.skip(f"Spark does not start here: {error}")
    yield session
    session.stop()


def frame_of(spark: Any) -> Any:
    from pyspark.sql import types as T  # noqa: N812

    kinds = [
        ("post_id", T.LongType()),
        ("user_id", T.IntegerType()),
        ("created_at", T.TimestampType()),
        ("caption", T.StringType()),
        ("hashtags", T.ArrayType(T.StringType())),
        ("latitude", T.DecimalType(9, 4)),
    ]
    schema = T.StructType([T.StructField(name, kind) for name, kind in kinds])
    rows = [
        (
            int(post["post_id"]),
            int(post["user_id"]),
            post["created_at"],
            post["caption"],
            post["hashtags"],
            exporters.Decimal(str(post["latitude"])),
        )
        for post in exporters.POSTS
    ]
    return spark.createDataFrame(rows, schema)


@pytest.mark.slow
@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize(
    ("conf", "codec", "by"),
    [
        ({"outputTimestampType": "INT96", "writeLegacyFormat": "true"}, "snappy", None),
        ({"outputTimestampType": "TIMESTAMP_MICROS"}, "gzip", "user_id"),
        ({"outputTimestampType": "TIMESTAMP_MILLIS"}, "zstd", "day"),
        ({"outputTimestampType": "INT96"}, "lz4", None),
        ({"outputTimestampType": "INT96"}, "none", "status"),
    ],
)
def test_what_spark_itself_writes(
    spark: Any, conf: dict[str, str], codec: str, by: str | None, archive: Path, popularity: Path
) -> None:
    from pyspark.sql import functions as F  # noqa: N812

    for name, value in {"writeLegacyFormat": "false", **conf}.items():
        spark.conf.set(f"spark.sql.parquet.{name}", value)
    frame = frame_of(spark)
    frame = frame.withColumn(by, F.lit("published")) if by in ("day", "status") else frame
    writer = frame.repartition(2).write.mode("overwrite").option("compression", codec)
    (writer.partitionBy(by) if by else writer).parquet(str(archive))
    assert list(archive.rglob("_SUCCESS"))
    assert tagged(archive, popularity, "posts") == WANTED
    if by == "status":  # the archive's folder does not hide the output's column
        assert {row["status"] for row in rows_by_glob(archive.with_name("out"))} == {"image_missing"}
    if by != "user_id":
        assert exporters.read(archive) == (exporters.POSTS, [])


@pytest.mark.slow
@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize(("layout", "kind"), [("jsonl", "json"), ("csv", "csv")])
def test_lines_and_tables_that_spark_writes(
    spark: Any, layout: str, kind: str, archive: Path, popularity: Path
) -> None:
    from pyspark.sql import functions as F  # noqa: N812

    frame = frame_of(spark)
    if kind == "csv":
        frame = frame.withColumn("hashtags", F.to_json("hashtags"))
    options = {"header": True, "escape": '"', "quoteAll": True} if kind == "csv" else {}
    frame.coalesce(1).write.mode("overwrite").options(**options).format(kind).save(str(archive))
    assert tagged(archive, popularity, layout) == WANTED
