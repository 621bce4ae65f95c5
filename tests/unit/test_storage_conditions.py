"""Conditional writes on stores of every kind, and Delta tables beside them; the kinds are made by a proxy before one server."""

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from hashtag_core import storage
from hashtag_core.errors import AlreadyExistsError, ConfigError, NotFoundError, StorageError
from hashtag_core.storage import s3_client
from tests.faulty_s3 import WAYS, FaultyS3, faulty_s3


@pytest.fixture
def store(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """`with store("bare etags") as (uri, proxy)`: the bucket as a store of that kind."""
    server = os.environ["AWS_ENDPOINT_URL"]

    @contextmanager
    def open_store(
        conditions: str, share: float = 0.0, seed: int = 0, ways: tuple[str, ...] = WAYS
    ) -> Iterator[tuple[str, FaultyS3]]:
        with faulty_s3(server, share, seed, ways, conditions) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
            yield s3_bucket, proxy
            monkeypatch.setenv("AWS_ENDPOINT_URL", server)

    return open_store


@pytest.mark.parametrize(
    ("conditions", "create", "replace"),
    [
        ("honoured", True, "quoted"),
        ("bare etags", True, "bare"),
        ("ignored", False, None),
        ("501", False, None),
        ("only creation", True, None),
    ],
)
def test_what_a_store_does_is_found_out(store: Callable, conditions: str, create: bool, replace: str | None) -> None:
    with store(conditions) as (uri, proxy):
        found = storage.conditional_writes(f"{uri}/a/b")
        assert (found.create, found.replace) == (create, replace)
        assert storage.list_files(uri, hidden=True) == [], "the probe leaves nothing"
        asked = proxy.requests
        assert storage.conditional_writes(f"{uri}/elsewhere") is found
        assert proxy.requests == asked, "it is not repeated"


@pytest.mark.parametrize("conditions", ["honoured", "bare etags"])
def test_of_several_writers_one_wins(store: Callable, conditions: str) -> None:
    with store(conditions) as (bucket, _):
        uri = f"{bucket}/lease.json"
        with pytest.raises(NotFoundError):
            storage.replace_bytes(uri, b"", b"0")
        won: list[int] = []

        def race(write: Callable[[int], None]) -> list[int]:
            won.clear()

            def run(n: int) -> None:
                try:
                    write(n)
                    won.append(n)
                except AlreadyExistsError:
                    pass

            threads = [threading.Thread(target=run, args=(n,)) for n in range(5)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return won

        assert len(race(lambda n: storage.create_bytes(uri, str(n).encode()))) == 1
        held = storage.read_bytes(uri)
        assert held == str(won[0]).encode()
        assert len(race(lambda n: storage.replace_bytes(uri, held, f"again {n}".encode()))) == 1
        assert storage.read_bytes(uri) == f"again {won[0]}".encode()
        with pytest.raises(AlreadyExistsError):
            storage.replace_bytes(uri, held, None)
        storage.replace_bytes(uri, f"again {won[0]}".encode(), None)
        assert not storage.exists(uri)


@pytest.mark.parametrize(
    ("conditions", "told"), [("ignored", "ignores `If-None-Match: .`"), ("501", "501 NotImplemented")]
)
def test_without_a_safe_protocol_nothing_is_written(store: Callable, conditions: str, told: str) -> None:
    with store(conditions) as (bucket, _):
        for write in (storage.create_bytes, lambda uri, data: storage.replace_bytes(uri, b"", data)):
            with pytest.raises(ConfigError, match=rf"x: nothing can be created here .*{told}.*honours conditional"):
                write(f"{bucket}/x", b"data")
        storage.write_bytes(f"{bucket}/plain", b"x")
        assert [info.path for info in storage.list_files(bucket, hidden=True)] == ["plain"]


def test_creation_alone_is_enough_for_a_delta_table_and_not_for_a_replacement(store: Callable) -> None:
    with store("only creation") as (bucket, _):
        storage.create_bytes(f"{bucket}/x", b"1")
        with pytest.raises(ConfigError, match=r"x: nothing can be replaced here .*501 NotImplemented"):
            storage.replace_bytes(f"{bucket}/x", b"1", b"2")
        assert storage.read_bytes(f"{bucket}/x") == b"1"
        commit_twice(f"{bucket}/table")


@pytest.mark.parametrize("seed", range(2))
def test_the_probe_is_right_on_a_store_that_fails_now_and_then(store: Callable, seed: int) -> None:
    """A reply lost on the way makes the SDK ask again, and the condition then fails by its own first success."""
    for conditions, found in {"bare etags": (True, "bare"), "honoured": (True, "quoted")}.items():
        with store(conditions, share=0.4, seed=seed, ways=("reset after",)) as (bucket, proxy):
            writes = storage.conditional_writes(bucket)
            assert (writes.create, writes.replace) == found
            assert proxy.failed.total()


def test_the_probe_asks_again_where_what_it_reads_breaks_off(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A reply to a write is lost, so that the probe looks whether it was done: every other reading of a body breaks off."""
    ways = iter(["reset after", None, "half a body"] * 50)
    with faulty_s3(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setattr(proxy, "_next_way", lambda command: next(ways) if command in ("GET", "PUT") else None)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        writes = storage.conditional_writes(s3_bucket)
    assert (writes.create, writes.replace) == (True, "quoted")
    assert "asked for again" in caplog.text


def test_a_store_that_does_not_let_us_write_is_no_store_without_conditions(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "MAX_ATTEMPTS", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="probe of conditional writes failed"):
        storage.conditional_writes(s3_bucket)


def test_a_local_disk(tmp_path: Path) -> None:
    found = storage.conditional_writes(str(tmp_path))
    assert (found.create, found.replace, found.remove) == (True, "lock", True)
    assert storage.object_store_options(str(tmp_path)) == {}


@pytest.mark.parametrize("name", ["a b/t", "50%/t", "#1/t", "d=2024-01-01/t", "画像/é", "plus+and&/t", "?q/'t"])
@pytest.mark.parametrize("remote", [False, True])
def test_delta_tables_lie_where_their_name_says(name: str, remote: bool, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue("s3_bucket") if remote else str(request.getfixturevalue("tmp_path"))
    uri = storage.join(root, name)
    url, options = storage.object_store_url(uri), storage.object_store_options(uri)
    write_deltalake(url, pa.table({"x": [1]}), storage_options=options)
    found = [info.path for info in storage.list_files(root, hidden=True)]
    assert f"{name}/_delta_log/{0:020}.json" in found
    assert all(path.startswith(f"{name}/") for path in found)
    assert DeltaTable(url, storage_options=options).to_pyarrow_table()["x"].to_pylist() == [1]


@pytest.mark.parametrize("uri", ["s3://bucket/a//b", "s3://bucket/100%25", "/tmp/100%ab"])
def test_names_that_no_delta_table_can_have(uri: str) -> None:
    with pytest.raises(ConfigError, match="a Delta table cannot lie at"):
        storage.object_store_url(uri)


def commit_twice(uri: str) -> None:
    """Two writers of one table at one version: one commits, the other is told."""
    options = storage.object_store_options(uri)
    write_deltalake(uri, pa.table({"x": [1]}), storage_options=options)
    table = DeltaTable(uri, storage_options=options)
    write_deltalake(uri, pa.table({"x": [2]}), mode="append", storage_options=options)
    write_deltalake(table, pa.table({"x": [3]}), mode="append")
    assert sorted(DeltaTable(uri, storage_options=options).to_pyarrow_table()["x"].to_pylist()) == [1, 2, 3]
    assert [
        info.path for info in storage.list_files(f"{uri}/_delta_log", hidden=True) if info.path.endswith("json")
    ] == [f"{n:020}.json" for n in range(3)]


@pytest.mark.parametrize("conditions", ["honoured", "bare etags"])
def test_delta_tables_on_every_store_that_can_create(store: Callable, conditions: str) -> None:
    with store(conditions) as (bucket, _):
        commit_twice(f"{bucket}/some/table")


def test_credentials_of_a_profile(s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing but files: keys, region and endpoint, of the profile or of its S3 service."""
    address = os.environ["AWS_ENDPOINT_URL"]
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text(
        "[nightly]\naws_access_key_id = inafile\naws_secret_access_key = S3cret\naws_session_token = token\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "nightly")
    for text in (
        f"[profile nightly]\nregion = eu-west-1\nendpoint_url = {address}/\n",
        f"[profile nightly]\nregion = eu-west-1\nservices = ours\n[services ours]\ns3 =\n  endpoint_url = {address}/\n",
    ):
        (tmp_path / "config").write_text(text)
        s3_client._profile.cache_clear()
        options = storage.object_store_options(s3_bucket)
        assert options["aws_access_key_id"] == "inafile"
        assert (options["aws_session_token"], options["aws_region"]) == ("token", "eu-west-1")
        assert (options["aws_endpoint"], options["aws_allow_http"]) == (address, "true")
        name = f"{s3_bucket}/{uuid.uuid4().hex}"
        storage.create_bytes(name, b"x")
        with storage.open_input(name) as file:
            assert file.read() == b"x"
        commit_twice(f"{name}-table")


def test_a_role_that_is_asked_for_credentials(s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As single sign-on and a machine's role do, by a process that hands temporary ones out."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    given = '{"Version": 1, "AccessKeyId": "temporary", "SecretAccessKey": "s", "SessionToken": "t", "Expiration": "2999-01-01T00:00:00Z"}'
    (tmp_path / "given.json").write_text(given)
    (tmp_path / "config").write_text(f"[default]\ncredential_process = cat {tmp_path}/given.json\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    options = storage.object_store_options(s3_bucket)
    assert (options["aws_access_key_id"], options["aws_session_token"]) == ("temporary", "t")
    storage.create_bytes(f"{s3_bucket}/x", b"x")


def test_amazon_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked over the network: the region is named."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/none")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    options = storage.object_store_options("s3://bucket/table")
    assert options["aws_region"] == "eu-central-1"
    assert not options.keys() & {"aws_endpoint", "aws_allow_http", "aws_session_token"}
