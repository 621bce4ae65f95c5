"""Local disks and an S3 over HTTP, by the same tests; faults are caused by a small HTTP server that answers them."""

import errno
import os
import re
import signal
import socket
import stat
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashtag_core import storage
from hashtag_core.errors import AlreadyExistsError, ConfigError, NotFoundError, StorageError
from hashtag_core.storage import local as disk
from hashtag_core.storage import s3_client, s3_file
from hashtag_core.storage.conditions import ConditionalWrites
from hashtag_core.storage.conditions import _known as known

ODD = [
    "a b.bin",
    "100%25.bin",
    "#1.bin",
    "day=2024-01-01/x.bin",
    "画像/é.bin",
    "plus+and&.bin",
    "?q=1.bin",
    "'quote\".bin",
    "x" * 240,
]

ONLY_ON_S3 = ["a//b.bin", "/a.bin", "a/", "a b//#1?q=%2F+/x.bin", "a//", "./b.bin"]
"""Keys that are ordinary there, and that paths of a disk cannot be or mean something else as."""


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder, on disk and on S3."""
    if request.param == "local":
        return str(tmp_path / "root")
    return request.getfixturevalue("s3_bucket") + "/some/root"


def paths(uri: str, **options: object) -> list[str]:
    return [info.path for info in storage.list_files(uri, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_verbatim(root: str, name: str) -> None:
    uri = storage.join(root, name)
    storage.write_bytes(uri, name.encode())
    assert storage.read_bytes(uri) == name.encode()
    assert storage.exists(uri)
    with storage.open_input(uri) as file:
        assert file.read() == name.encode()
    assert paths(root) == [name]
    assert storage.list_files(root)[0].uri == uri
    storage.move(uri, storage.join(root, "moved", name))
    assert paths(root) == [f"moved/{name}"]
    storage.remove(storage.join(root, "moved", name))
    assert not storage.exists(storage.join(root, "moved", name))


@pytest.mark.parametrize("name", ONLY_ON_S3)
def test_keys_are_verbatim(s3_bucket: str, name: str) -> None:
    root = f"{s3_bucket}/some/root"
    uri = storage.join(root, name)
    assert uri == f"{root}/{name}"
    table = pa.table({"x": [1, 2]})
    with storage.open_output(uri) as file:
        pq.write_table(table, file)
    assert storage.exists(uri)
    (info,) = storage.list_files(root, hidden=True)
    assert (info.uri, info.path) == (uri, name)
    for around in ("some", "some/root", ""):
        walked = list(storage.walk_folders(f"{s3_bucket}/{around}"))
        assert [item.uri for _, found in walked for item in found] == ([] if name.startswith("./") else [uri])
    with storage.open_input(info.uri) as file:
        assert pq.read_table(file).equals(table)
    assert storage.file_info(uri).size == info.size == len(storage.read_bytes(info.uri))
    storage.move(uri, f"{s3_bucket}/moved")
    assert [found.path for found in storage.list_files(s3_bucket)] == ["moved"]


def test_markers_of_folders_are_no_files(s3_bucket: str) -> None:
    for key in ("a/", "a/b//", "a/x"):
        storage.write_bytes(f"{s3_bucket}/{key}", b"x" if key == "a/x" else b"")
    assert paths(f"{s3_bucket}/a") == paths(f"{s3_bucket}/a/") == ["x"]


@pytest.mark.parametrize("uri", ["file:{}", "file://{}", "file://localhost{}", "FILE://{}", "{}"])
def test_every_spelling_of_a_local_path(uri: str, tmp_path: Path) -> None:
    place = uri.format(tmp_path / "a b%20")
    storage.write_bytes(storage.join(place, "x"), b"1")
    assert (tmp_path / "a b%20" / "x").read_bytes() == b"1"
    assert storage.local_path(place) == str(tmp_path / "a b%20")
    assert not storage.is_remote(place)
    assert paths(place) == ["x"]


def test_listing_is_sorted_recursive_and_skips_hidden(root: str) -> None:
    for name in (
        "b/c/2.parquet",
        "a.parquet",
        "b/1.parquet",
        "_state/plan.json",
        "b/.x.tmp",
        "b/_meta/3.parquet",
        "b/1.txt",
    ):
        storage.write_bytes(storage.join(root, name), b"x" * len(name))
    assert paths(root) == ["a.parquet", "b/1.parquet", "b/1.txt", "b/c/2.parquet"]
    assert paths(root, suffix=".parquet") == ["a.parquet", "b/1.parquet", "b/c/2.parquet"]
    assert paths(root, hidden=True)[:3] == ["_state/plan.json", "a.parquet", "b/.x.tmp"]
    first = storage.list_files(root)[0]
    assert first.size == len("a.parquet")
    assert storage.file_info(first.uri).etag == first.etag
    assert [info.path for info in storage.list_files(first.uri)] == ["a.parquet"]


def test_folders_are_walked_one_at_a_time(root: str) -> None:
    for name in ("b.txt", "a.txt", "_no.txt", "x/2.txt", "x/1.txt", "x/deep/3.txt", "y/.no", "_z/4.txt", "x-/5.txt"):
        storage.write_bytes(storage.join(root, name), name.encode())
    found = dict(storage.walk_folders(root))
    assert {folder: [info.path for info in files] for folder, files in found.items()} == {
        "": ["a.txt", "b.txt"],
        "x": ["x/1.txt", "x/2.txt"],
        "x/deep": ["x/deep/3.txt"],
        "x-": ["x-/5.txt"],
    }
    assert storage.list_files(root) == sorted(
        (info for files in found.values() for info in files), key=lambda i: i.path
    )
    with pytest.raises(NotFoundError, match="nowhere: not found"):
        list(storage.walk_folders(storage.join(root, "nowhere")))


def test_etag_follows_the_content(root: str) -> None:
    uri = storage.join(root, "x")
    storage.write_bytes(uri, b"one")
    before = storage.file_info(uri).etag
    assert storage.file_info(uri).etag == before
    time.sleep(0.01)
    storage.write_bytes(uri, b"two")
    assert storage.file_info(uri).etag != before


def test_a_folder_listing_takes_no_neighbour_of_like_name(root: str) -> None:
    storage.write_bytes(storage.join(root, "part/1"), b"")
    storage.write_bytes(storage.join(root, "partial/2"), b"")
    assert paths(storage.join(root, "part")) == ["1"]


def test_missing(root: str) -> None:
    uri = storage.join(root, "nothing")
    assert not storage.exists(uri)
    for operation in (storage.read_bytes, storage.read_json, storage.open_input, storage.file_info, storage.list_files):
        with pytest.raises(NotFoundError, match=re.escape(uri)):
            operation(uri)
    storage.remove(uri)
    storage.remove_tree(uri)


def test_missing_bucket(s3_bucket: str) -> None:
    uri = "s3://no-such-bucket-at-all/x"
    assert not storage.exists(uri)
    with pytest.raises(NotFoundError, match="no such bucket"):
        storage.write_bytes(uri, b"x")
    with pytest.raises(NotFoundError, match="no such bucket"):
        storage.list_files(uri)
    with pytest.raises(NotFoundError), storage.open_output(uri) as file:
        file.write(b"x")


def test_json(root: str) -> None:
    uri = storage.join(root, "x.json")
    storage.write_json(uri, {"b": [1, 2.5, None], "a": "é"})
    assert storage.read_json(uri) == {"b": [1, 2.5, None], "a": "é"}
    assert "é" in storage.read_bytes(uri).decode()
    storage.write_bytes(uri, b"{")
    with pytest.raises(StorageError, match="not JSON"):
        storage.read_json(uri)


def fail_after_writing(file: BinaryIO) -> None:
    file.write(b"half")
    raise ValueError


def test_output_is_whole_or_absent(root: str) -> None:
    uri = storage.join(root, "x.bin")
    with pytest.raises(ValueError), storage.open_output(uri) as file:
        fail_after_writing(file)
    assert not storage.exists(uri)
    with storage.open_output(uri) as file:
        file.write(b"first")
        assert not storage.exists(uri)
    with pytest.raises(ValueError), storage.open_output(uri) as file:
        fail_after_writing(file)
    assert storage.read_bytes(uri) == b"first"
    assert paths(root, hidden=True) == ["x.bin"]


def test_a_killed_writer_leaves_nothing_visible(root: str, repository: Path) -> None:
    code = f"""
        import sys, time
        from hashtag_core import storage
        with storage.open_output({storage.join(root, "x.parquet")!r}) as file:
            file.write(b"x" * 20_000_000)
            file.flush()
            print("written", flush=True)
            time.sleep(60)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=repository, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    storage.write_bytes(storage.join(root, "other"), b"")
    assert paths(root) == ["other"]


def test_parquet_through_arrow(root: str) -> None:
    table = pa.table({"x": range(10_000), "s": ["text"] * 10_000})
    with storage.open_output(storage.join(root, "é #1.parquet")) as file:
        pq.write_table(table, file, row_group_size=1000)
    with storage.open_input(storage.join(root, "é #1.parquet")) as file:
        part = pq.ParquetFile(file)
        assert part.num_row_groups == 10
        assert part.read_row_group(9, columns=["x"])["x"].to_pylist() == list(range(9000, 10_000))
    filesystem, path = storage.arrow_filesystem(storage.join(root, "copy.parquet"))
    pq.write_table(table, path, filesystem=filesystem)
    assert pq.read_table(path, filesystem=filesystem).equals(table)
    assert storage.file_info(storage.join(root, "copy.parquet")).size > 0


def test_large_objects_go_in_several_parts(s3_bucket: str) -> None:
    data = os.urandom(20_000_000)
    with storage.open_output(f"{s3_bucket}/large") as file:
        file.write(data)
    assert storage.read_bytes(f"{s3_bucket}/large") == data
    storage.move(f"{s3_bucket}/large", f"{s3_bucket}/moved")
    assert storage.file_info(f"{s3_bucket}/moved").size == len(data)


def test_create_wins_once(root: str) -> None:
    uri = storage.join(root, "lease")
    won, lost = [], []
    barrier = threading.Barrier(8)

    def claim(n: int) -> None:
        barrier.wait()
        try:
            storage.create_bytes(uri, str(n).encode())
            won.append(n)
        except AlreadyExistsError:
            lost.append(n)

    threads = [threading.Thread(target=claim, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(lost) == 7
    assert storage.read_bytes(uri) == str(won[0]).encode()
    assert paths(root, hidden=True) == ["lease"]


def test_folders_are_copied_whole(root: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("weights.bin", "sub/x y#.json", "_hidden/z", ".dot"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    storage.upload_folder(source, storage.join(root, "model"))
    storage.download_folder(storage.join(root, "model"), tmp_path / "back")
    back = {
        p.relative_to(tmp_path / "back").as_posix(): p.read_text()
        for p in (tmp_path / "back").rglob("*")
        if p.is_file()
    }
    assert back == {name: name for name in ("weights.bin", "sub/x y#.json", "_hidden/z", ".dot")}
    storage.remove_tree(storage.join(root, "model"))
    assert not storage.exists(storage.join(root, "model"))
    with pytest.raises(NotFoundError):
        storage.download_folder(storage.join(root, "model"), tmp_path / "none")


@pytest.mark.parametrize("part", ["../x", "a/../../x", "/etc/passwd", ".."])
def test_join_does_not_climb(part: str) -> None:
    """On S3 a slash at the start is a letter of the key and leads nowhere."""
    for base in ("/data/out", "s3://bucket/out"):
        if base.startswith("s3") and part.startswith("/"):
            assert storage.join(base, part) == "s3://bucket/out//etc/passwd"
            continue
        with pytest.raises(ConfigError, match="leads out of"):
            storage.join(base, part)


def test_join() -> None:
    assert storage.join("/", "a") == "/a"
    assert storage.join("out/", "a/", "", "b..c") == "out/a/b..c"
    assert storage.join("s3://bucket", "a b/c") == "s3://bucket/a b/c"
    assert storage.join("s3://bucket/") == "s3://bucket"


def test_schemes(tmp_path: Path) -> None:
    assert storage.is_remote("s3://bucket/key")
    assert not storage.is_remote("/a/b")
    assert not storage.is_remote("odd:name/x")
    (tmp_path / "x").write_bytes(b"1")
    assert storage.read_bytes(f"file://{tmp_path}/x") == b"1"
    with pytest.raises(ConfigError, match="gs://"):
        storage.read_bytes("gs://bucket/key")
    with pytest.raises(ConfigError, match="expected s3://bucket/key"):
        storage.read_bytes("s3:///key")


def test_what_is_no_file_and_no_room(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="read failed: Is a directory"):
        storage.read_bytes(str(tmp_path))
    with pytest.raises(StorageError, match="write failed"):
        storage.write_bytes(str(tmp_path / "file" / "below"), b"")
    with pytest.raises(StorageError, match="write failed"):
        storage.write_bytes("/proc/nothing/here", b"")


class Faults:
    """An HTTP server that answers each request as told and remembers what it was asked."""

    def __init__(self) -> None:
        self.answer: Callable[[int], tuple[int, bytes]] = lambda n: (200, b"")
        self.breaks_off: Callable[[int], bool] = lambda n: False
        self.resets = False
        """Whether what breaks off ends with a reset."""
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def respond(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.seen.append((self.command, {k.lower(): v for k, v in self.headers.items()}, body))
                status, content = outer.answer(len(outer.seen))
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("ETag", '"0"')
                self.send_header("Last-Modified", "Wed, 01 Jan 2025 00:00:00 GMT")
                self.end_headers()
                if outer.breaks_off(len(outer.seen)):
                    self.wfile.write(content[: len(content) // 2])
                    self.close_connection = True
                    if outer.resets:
                        self.wfile.flush()
                        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        self.connection.close()
                elif self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = respond

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    made = Faults()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{made.server.server_port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", *s3_client.CHECKSUMS):
        monkeypatch.setenv(name, "")  # so that the test's end takes back what the code may set
        monkeypatch.delenv(name)
    yield made
    made.server.shutdown()
    made.server.server_close()


def is_known_to_honour() -> None:
    """Spare the server of `faults` the probe."""
    known(s3_client.endpoint(), "bucket")[:] = [ConditionalWrites(create=True, replace="quoted", remove=True)]


def error(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>told so</Message></Error>".encode()


def test_denied(faults: Faults) -> None:
    faults.answer = lambda n: (403, error("AccessDenied"))
    uri = "s3://bucket/key"
    for name, operation in {
        "read": storage.read_bytes,
        "look-up": storage.exists,
        "listing": storage.list_files,
    }.items():
        with pytest.raises(StorageError, match=rf"{uri}: {name} failed: .*(AccessDenied|Forbidden)"):
            operation(uri)
    for write in (storage.write_bytes, storage.create_bytes):
        with pytest.raises(StorageError, match="AccessDenied") as caught:
            write(uri, b"x")
        assert not isinstance(caught.value, AlreadyExistsError | NotFoundError)
    with pytest.raises(StorageError, match="open failed"):
        storage.open_input(uri)


def test_a_server_that_sends_every_request_elsewhere(faults: Faults) -> None:
    faults.answer = lambda n: (301, error("PermanentRedirect"))
    with pytest.raises(StorageError, match=r"s3://bucket/key: look-up failed: .*\(301\): is AWS_ENDPOINT_URL"):
        storage.exists("s3://bucket/key")


def test_busy_servers_are_asked_again_and_not_forever(faults: Faults) -> None:
    faults.answer = lambda n: (503, error("SlowDown")) if n < 3 else (200, b"data")
    assert storage.read_bytes("s3://bucket/key") == b"data"
    assert len(faults.seen) == 3


def test_a_body_that_breaks_off_is_asked_for_again_and_not_forever(faults: Faults) -> None:
    faults.answer = lambda n: (200, b"all of the data")
    faults.breaks_off = lambda n: n < 3
    assert storage.read_bytes("s3://bucket/key") == b"all of the data"
    assert len(faults.seen) == 3
    faults.breaks_off = lambda n: True
    with pytest.raises(StorageError, match="s3://bucket/key: read failed: "):
        storage.read_bytes("s3://bucket/key")
    assert len(faults.seen) == 3 + s3_client.BODY_ATTEMPTS


NO_SUCH_KEY = b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code><Message>none</Message></Error>"


def test_an_error_that_breaks_off_is_asked_for_again_and_not_forever(faults: Faults, tmp_path: Path) -> None:
    """The SDK lets urllib3's error through where the body of a refusal breaks off."""
    faults.answer = lambda n: (404, NO_SUCH_KEY)
    faults.breaks_off, faults.resets = (lambda n: n < 3), True
    with pytest.raises(NotFoundError, match="s3://bucket/key: not found"):
        storage.read_bytes("s3://bucket/key")
    assert len(faults.seen) == 3
    faults.breaks_off = lambda n: True
    with pytest.raises(StorageError, match=r"s3://bucket/key: read failed: .*Connection"):
        storage.read_bytes("s3://bucket/key")
    assert len(faults.seen) == 3 + s3_client.BODY_ATTEMPTS


def test_a_large_answer_that_breaks_off(faults: Faults, caplog: pytest.LogCaptureFixture) -> None:
    """Half of it had been handed on when the connection was reset; and not for ever."""
    content = os.urandom(8 << 20)
    faults.answer = lambda n: (200, content)
    faults.breaks_off, faults.resets = (lambda n: n in (1, 2)), True
    with storage.open_input("s3://bucket/key") as file:  # a store that does not know ranges gives the whole
        assert file.read() == content
        assert caplog.text.count("s3://bucket/key: asked for again") == 2
    faults.breaks_off = lambda n: True
    with pytest.raises(StorageError, match="s3://bucket/key: open failed"):
        storage.open_input("s3://bucket/key")
    assert len(faults.seen) == 3 + s3_client.BODY_ATTEMPTS


def test_a_file_is_read_by_ranges(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, asked = f"{s3_bucket}/x", []
    real = s3_file._get
    monkeypatch.setattr(s3_file, "_get", lambda uri, wanted, *rest: asked.append(wanted) or real(uri, wanted, *rest))
    monkeypatch.setattr(s3_file, "TAIL_BYTES", 4)
    storage.write_bytes(uri, b"0123456789")
    with storage.open_input(uri) as file:
        assert file.size() == 10
        file.seek(3)
        assert (file.read(2), file.tell(), file.read(2), file.read(), file.read(5)) == (b"34", 5, b"56", b"789", b"")
        assert file.read_at(3, 8) == b"89"
        assert file.read_at(9, 1) == b"123456789"
        assert asked == ["bytes=-4", "bytes=3-4", "bytes=5-6", "bytes=1-9"], "the end came with the opening"
        storage.write_bytes(uri, b"abcdefghij")
        with pytest.raises(StorageError, match="changed while it was read"):
            file.read_at(1, 0)
    storage.write_bytes(uri, b"")
    with storage.open_input(uri) as file:
        assert (file.size(), file.read()) == (0, b"")


def test_a_replacement_reads_again_where_the_body_breaks_off(faults: Faults) -> None:
    is_known_to_honour()
    faults.answer = lambda n: (200, b"held" if n < 3 else b"")
    faults.breaks_off = lambda n: n < 2
    storage.replace_bytes("s3://bucket/key", b"held", b"new")
    assert [command for command, _, _ in faults.seen] == ["GET", "GET", "PUT"]
    assert faults.seen[-1][2] == b"new"


def test_a_removal_is_conditional_where_the_store_can_do_that(faults: Faults) -> None:
    is_known_to_honour()
    faults.answer = lambda n: (200, b"held") if n == 1 else (412, error("PreconditionFailed"))
    with pytest.raises(AlreadyExistsError):
        storage.replace_bytes("s3://bucket/key", b"held", None)
    assert (faults.seen[-1][0], faults.seen[-1][1]["if-match"]) == ("DELETE", '"0"')


def test_a_creation_during_another_is_tried_again(faults: Faults) -> None:
    """Amazon's 409 says that another request was under way, not who won."""
    is_known_to_honour()
    faults.answer = lambda n: (409, error("ConditionalRequestConflict")) if n < 3 else (200, b"")
    storage.create_bytes("s3://bucket/key", b"x")
    assert len(faults.seen) == 3
    faults.answer = lambda n: (409, error("ConditionalRequestConflict"))
    with pytest.raises(AlreadyExistsError):
        storage.create_bytes("s3://bucket/key", b"x")


def test_what_is_too_large_is_not_read(root: str) -> None:
    uri = storage.join(root, "x")
    storage.write_bytes(uri, b"12345")
    assert storage.read_bytes(uri, max_bytes=5) == b"12345"
    with pytest.raises(StorageError, match="x: 5 bytes, more than 4"):
        storage.read_bytes(uri, max_bytes=4)


def test_a_server_that_is_gone_is_a_storage_error(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "MAX_ATTEMPTS", 2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=r"s3://bucket/key: read failed: .*connect"):
        storage.read_bytes("s3://bucket/key")


def test_no_trailing_checksums_for_an_endpoint_of_ones_own(faults: Faults) -> None:
    is_known_to_honour()
    storage.write_bytes("s3://bucket/key", b"data")
    storage.create_bytes("s3://bucket/key", b"data")
    with storage.open_output("s3://bucket/key") as file:
        file.write(b"data")
    puts = [(headers, body) for command, headers, body in faults.seen if command == "PUT"]
    assert len(puts) == 3
    for headers, body in puts:
        assert body == b"data"
        assert "x-amz-trailer" not in headers
    assert [headers.get("if-none-match") for headers, _ in puts] == [None, "*", None]
    storage.arrow_filesystem("s3://bucket/key")
    assert os.environ["AWS_REQUEST_CHECKSUM_CALCULATION"] == "when_required"


def test_worker_environment_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*s3_client.FORWARDED, *s3_client.CHECKSUMS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "secret")
    assert storage.worker_environment() == {}
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio:9000")
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_supported")
    assert storage.worker_environment() == {
        "AWS_ENDPOINT_URL": "http://minio:9000",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_supported",
    }


@pytest.mark.parametrize("code", ["EINVAL", "ENOTSUP", "EACCES"])
def test_folders_that_cannot_be_synced_are_told_of_once(
    tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on SMB, VirtualBox' shared folders and some FUSE file systems."""
    real = os.fsync

    def sync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    disk._told.cache_clear()
    for n in range(3):
        storage.write_bytes(str(tmp_path / f"{n}"), b"x")
        storage.create_bytes(str(tmp_path / f"{n}.new"), b"x")
    storage.move(str(tmp_path / "0"), str(tmp_path / "moved"))
    assert len(paths(str(tmp_path))) == 6
    assert [record.getMessage() for record in caplog.records if "cannot be synced" in record.getMessage()] == [
        f"{tmp_path}: folders cannot be synced here ({os.strerror(getattr(errno, code))}): a power cut may undo the last writes"
    ]


def test_a_disk_that_fails_to_sync_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sync(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(StorageError, match="Input/output error"):
        storage.write_bytes(str(tmp_path / "x"), b"x")


def test_linked_folders_are_followed_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A second disk, one of its folders again, a loop there, a link within, one upwards; and a link to a file, as ever."""
    archive, disk2 = tmp_path / "archive", tmp_path / "disk2"
    for place in ("archive/day=1/a", "archive/_work/h", "disk2/b", "disk2/in/c", "disk2/.x/d", "elsewhere/e"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(place)
    (archive / "day=2").symlink_to(disk2)
    (archive / "day=3").symlink_to(disk2 / "in")
    (archive / "day=4").symlink_to(archive / "day=1")
    (archive / "up").symlink_to("..")
    (archive / "work").symlink_to("_work")
    (archive / "gone").symlink_to(tmp_path / "nothing")
    (archive / "file").symlink_to(tmp_path / "elsewhere" / "e")
    (disk2 / "loop").symlink_to(disk2)
    (disk2 / "in" / "back").symlink_to(archive)
    seen = ["day=1/a", "day=2/b", "day=2/in/c", "file", "gone", "work/h"]
    walked = [(folder, [info.path for info in found]) for folder, found in storage.walk_folders(str(archive))]
    assert sorted(path for _, found in walked for path in found) == seen
    assert [folder for folder, _ in walked] == ["", "day=1", "day=2", "day=2/in", "work"]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 5
    assert all("a link that is not followed: it leads to" in text for text in told)
    assert {text.partition(":")[0].rpartition("/")[2] for text in told} == {"day=3", "day=4", "up", "loop", "back"}
    hidden = [*seen[:-1], "_work/h", "day=2/.x/d"]
    assert paths(str(archive), hidden=True) == sorted(hidden)
    assert storage.read_bytes(str(archive / "day=2" / "b")) == b"disk2/b"
    storage.remove_tree(str(archive))
    assert (disk2 / "b").exists()


def test_a_listing_from_within_a_link_is_like_any(tmp_path: Path) -> None:
    (tmp_path / "disk" / "sub").mkdir(parents=True)
    (tmp_path / "disk" / "sub" / "x").write_text("x")
    (tmp_path / "archive").symlink_to(tmp_path / "disk")
    assert paths(str(tmp_path / "archive")) == ["sub/x"]


@pytest.mark.parametrize("uri", ["s3:", "s3:/", "s3://", "s3:///", "s3:/bucket/key", "s3:bucket/key", "S3:/bucket"])
def test_a_store_without_a_bucket_is_no_folder(uri: str) -> None:
    with pytest.raises(ConfigError, match="expected s3://bucket/key"):
        storage.is_remote(uri)
    with pytest.raises(ConfigError, match="expected s3://bucket/key"):
        storage.list_files(uri.rstrip("/"))
