"""The shared fixtures do what the other tests rely on."""

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from hashtag_core.schema import POST


def test_ray_workers_reach_the_s3_of_the_tests(ray_session: None, s3_bucket: str) -> None:
    import boto3
    import ray

    @ray.remote(num_cpus=0.5)
    def put(bucket: str) -> str:
        import boto3

        boto3.client("s3").put_object(Bucket=bucket, Key="from-worker", Body=b"hello")
        return os.environ["AWS_ENDPOINT_URL"]

    bucket = s3_bucket.removeprefix("s3://")
    assert ray.get(put.remote(bucket)) == os.environ["AWS_ENDPOINT_URL"]
    assert boto3.client("s3").get_object(Bucket=bucket, Key="from-worker")["Body"].read() == b"hello"


def test_the_environment_of_s3_is_gone_without_the_fixture(s3_environment: dict[str, str]) -> None:
    assert os.environ.get("AWS_ENDPOINT_URL") != s3_environment["AWS_ENDPOINT_URL"]


def test_an_archive_is_written_in_parts(tmp_path: Path, make_posts: Callable, write_archive: Callable) -> None:
    posts = make_posts(5)
    folder = write_archive(tmp_path / "archive", posts, parts=2)
    assert sorted(p.name for p in folder.iterdir()) == ["posts-0000.parquet", "posts-0001.parquet"]
    table = ds.dataset(folder).to_table()
    assert table.schema.equals(POST)
    assert table["post_id"].to_pylist() == [post["post_id"] for post in posts]
    assert len({post["image"] for post in posts}) == 5


def test_shared_data_skips_with_the_reason(shared_data: Callable[[str], Path]) -> None:
    with pytest.raises(pytest.skip.Exception, match=r"no archive \.\./shared/data/nowhere"):
        shared_data("nowhere")
