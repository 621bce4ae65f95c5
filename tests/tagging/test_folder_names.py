"""Names of an archive's folders do not leak into the output: what a reader of hive folders sees there is ours alone."""

from collections.abc import Callable
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.dataset as ds
import pytest

from tests.tagging.outputs import run

pytestmark = pytest.mark.usefixtures("inline")

NAMES = [
    "status=published",
    "hashtags=cats",
    "post_id=0",
    "scores=1",
    "part=x/detail=none",
    "model=other/version=9/day=2020-01-01",
    "year=2024/month=01",
    "a=b=c",
    "empty=",
    "__HIVE_DEFAULT_PARTITION__",
]


def test_folders_of_the_archive_are_no_columns_of_the_output(
    popularity: Path, tmp_path: Path, write_part: Callable, make_posts: Callable
) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    expected = {}
    for n, name in enumerate(NAMES):
        posts = [{**post, "post_id": f"{n}-{post['post_id']}"} for post in make_posts(3)]
        (archive / name).mkdir(parents=True)
        write_part(archive / name / "a.parquet", posts)
        expected |= {post["post_id"]: f"{name}/a.parquet" for post in posts}
    assert run(archive, out, popularity).tagged == 3 * len(NAMES)
    glob = str(out / "model=*" / "version=*" / "**" / "part-*.parquet")
    read = {
        "pyarrow": ds.dataset(
            sorted(str(path) for path in out.glob("model=*/version=*/**/part-*.parquet")), partitioning="hive"
        )
        .to_table()
        .to_pylist(),
        "duckdb": duckdb.sql(f"select * from read_parquet('{glob}', hive_partitioning = true)")
        .arrow()
        .read_all()
        .to_pylist(),
        "polars": pl.read_parquet(glob, hive_partitioning=True).to_dicts(),
        "delta": pl.scan_delta(str(out)).collect().to_dicts(),
    }
    for reader, rows in read.items():
        assert {row["post_id"]: row["part"] for row in rows} == expected, reader
        assert len(rows) == len(expected), reader
        assert {row["model"] for row in rows} == {"toy"}, reader
        assert not {"year", "month", "a", "empty"} & set(rows[0]), reader
        assert all(row["status"] == "ok" and len(row["hashtags"]) == len(row["scores"]) == 10 for row in rows), reader
