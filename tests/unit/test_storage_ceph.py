"""The storage on a real Ceph gateway (version 16 is in Debian), which takes etags without quotes alone: `make soak`.

`SOAK_CEPH=1`, a gateway at `SOAK_CEPH_URL` (default http://127.0.0.1:7480) and a user `s3test` with the secret `s3testsecret`.
"""

import os
import uuid
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from hashtag_core import storage
from hashtag_core.errors import AlreadyExistsError
from hashtag_core.storage import s3_client

pytestmark = pytest.mark.skipif(os.environ.get("SOAK_CEPH") != "1", reason="SOAK_CEPH=1 and a Ceph gateway wanted")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in {
        "AWS_ENDPOINT_URL": os.environ.get("SOAK_CEPH_URL", "http://127.0.0.1:7480"),
        "AWS_ACCESS_KEY_ID": "s3test",
        "AWS_SECRET_ACCESS_KEY": "s3testsecret",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_SESSION_TOKEN", *s3_client.CHECKSUMS):
        monkeypatch.delenv(name, raising=False)
    name = f"soak-{uuid.uuid4().hex[:12]}"
    s3_client.client().create_bucket(Bucket=name)
    yield f"s3://{name}"
    storage.remove_tree(f"s3://{name}")
    s3_client.client().delete_bucket(Bucket=name)


def test_conditions(bucket: str) -> None:
    found = storage.conditional_writes(bucket)
    assert found.create
    assert found.replace in ("bare", "quoted")
    uri = f"{bucket}/a/lease.json"
    storage.create_bytes(uri, b"1")
    with pytest.raises(AlreadyExistsError):
        storage.create_bytes(uri, b"2")
    for before, after in ((b"1", b"2"), (b"2", b"3")):
        storage.replace_bytes(uri, before, after)
        with pytest.raises(AlreadyExistsError):
            storage.replace_bytes(uri, before, b"x")
    storage.replace_bytes(uri, b"3", None)
    assert storage.list_files(bucket, hidden=True) == []


@pytest.mark.parametrize("name", ["a b.bin", "100%25.bin", "a//b", "#1?q=%2F+&.bin", "画像/é", "'\"", "/a", "a/"])
def test_keys_are_verbatim(bucket: str, name: str) -> None:
    uri = storage.join(f"{bucket}/root", name)
    with storage.open_output(uri) as file:
        pq.write_table(pa.table({"x": [1, 2]}), file)
    (info,) = storage.list_files(f"{bucket}/root", hidden=True)
    assert (info.uri, info.path) == (uri, name)
    with storage.open_input(uri) as file:
        assert pq.read_table(file)["x"].to_pylist() == [1, 2]


def test_large_files_and_delta_tables(bucket: str) -> None:
    content = os.urandom(20 << 20)  # by parts
    storage.write_bytes(f"{bucket}/small", content[:100])
    with storage.open_output(f"{bucket}/large") as file:
        file.write(content)
    assert storage.read_bytes(f"{bucket}/large") == content
    uri = f"{bucket}/some table"
    for n in range(3):
        options = storage.object_store_options(uri)
        write_deltalake(storage.object_store_url(uri), pa.table({"x": [n]}), mode="append", storage_options=options)
    table = DeltaTable(storage.object_store_url(uri), storage_options=storage.object_store_options(uri))
    assert table.version() == 2
    assert sorted(table.to_pyarrow_table()["x"].to_pylist()) == [0, 1, 2]
