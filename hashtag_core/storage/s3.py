"""The side of S3: each function does what that of its name in `hashtag_core.storage` promises."""

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from hashtag_core.errors import AlreadyExistsError, NotFoundError
from hashtag_core.storage.base import FileInfo, guard, writing
from hashtag_core.storage.conditions import conditional_writes, written
from hashtag_core.storage.s3_client import asked_again, client, split
from hashtag_core.storage.s3_file import RangedFile, get_object, is_reset

CONFLICT_ATTEMPTS = 4


def exists(uri: str) -> bool:
    """Whether there is the key, or some key below it."""
    bucket, key = split(uri)
    try:
        with guard(uri, "look-up"):
            if key and not key.endswith("/"):
                with suppress(NotFoundError), guard(uri, "look-up"):
                    client().head_object(Bucket=bucket, Key=key)
                    return True
            found = client().list_objects_v2(Bucket=bucket, Prefix=_folder(key), MaxKeys=1)
            return bool(found.get("KeyCount"))
    except NotFoundError:
        return False


def file_info(uri: str) -> FileInfo:
    """By one request for the head."""
    with guard(uri, "look-up"):
        bucket, key = split(uri)
        head = client().head_object(Bucket=bucket, Key=key)
        name = uri.rstrip("/").rsplit("/", 1)[-1]
        return FileInfo(uri, name, head["ContentLength"], head["ETag"].strip('"'), head["LastModified"])


def list_files(uri: str) -> Iterator[FileInfo]:
    """Every object below a folder, hidden ones too, page by page."""
    bucket, key = split(uri)
    prefix = _folder(key)
    empty = True
    with guard(uri, "listing"):
        for page in client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", []):
                empty = False
                info = _info(bucket, item, len(prefix))
                if not _is_marker(info):
                    yield info
    if empty:
        if not key:
            return
        yield file_info(uri)


def walk_folders(uri: str, hidden: bool = False, relative: str = "") -> Iterator[tuple[str, list[FileInfo]]]:
    """Every folder with objects (unless `hidden`, those that are not hidden), with all of them, from the folder `relative` of
    `uri` on."""
    bucket, key = split(uri)
    prefix, below, found = _folder(key) + relative, list[str](), list[FileInfo]()
    with guard(uri, "listing"):
        for page in client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/"):
            below += [item["Prefix"][len(prefix) :] for item in page.get("CommonPrefixes", [])]
            found += [_info(bucket, item, len(_folder(key))) for item in page.get("Contents", [])]
    if found:
        yield relative[:-1], [info for info in found if not _is_marker(info)]
    for name in sorted(step[:-1] for step in below):
        if hidden or name[:1] not in ("_", "."):
            yield from walk_folders(uri, hidden, f"{relative}{name}/")


def read_bytes(uri: str, max_bytes: int | None, timeout_s: int) -> bytes:
    """The whole content, asked for again where the body breaks off; TooLargeError for more than `max_bytes`."""
    with guard(uri, "read"):
        return get_object(uri, None, max_bytes, timeout_s)[0]


def open_input(uri: str) -> pa.NativeFile:
    """By ranges."""
    with guard(uri, "open"):
        return pa.PythonFile(RangedFile(uri), mode="r")


@contextmanager
def open_output(uri: str) -> Iterator[BinaryIO]:
    """A temporary file on the local disk, uploaded at the end, in several parts where it is large."""
    bucket, key = split(uri)
    with writing(uri), tempfile.TemporaryFile() as file:
        yield cast(BinaryIO, file)
        file.seek(0)
        with guard(uri, "write"):
            client().upload_fileobj(file, bucket, key)


def write_bytes(uri: str, data: bytes) -> None:
    """By one request."""
    bucket, key = split(uri)
    with guard(uri, "write"):
        client().put_object(Bucket=bucket, Key=key, Body=data)


def create_bytes(uri: str, data: bytes) -> None:
    """By `If-None-Match: *`; ConfigError where the store does not honour it."""
    conditional_writes(_parent(uri)).require(uri)
    bucket, key = split(uri)
    with guard(uri, "create"):
        _settled(lambda: client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*"))


def replace_bytes(uri: str, expected: bytes, data: bytes | None) -> None:
    """By `If-Match` with the etag of what was read, as the store wants it written; ConfigError where it wants none.

    A removal is conditional where the store can do that; else what another writes in the moment between is removed.
    """
    writes = conditional_writes(_parent(uri))
    writes.require(uri, replace=data is not None)
    bucket, key = split(uri)
    with guard(uri, "replace"):
        found, etag = get_object(uri)
        if found != expected:
            raise AlreadyExistsError(f"{uri}: holds something else by now")
        condition = {"IfMatch": written(etag, writes.replace)}
        if data is None:
            client().delete_object(Bucket=bucket, Key=key, **(condition if writes.remove else {}))
        else:
            _settled(lambda: client().put_object(Bucket=bucket, Key=key, Body=data, **condition))


def _settled(request: Callable[[], Any]) -> None:
    """The request, again where another one on the same name was under way, which says nothing of the condition."""
    from botocore.exceptions import ClientError

    for attempt in range(1, CONFLICT_ATTEMPTS + 1):
        try:
            request()
            return
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code")
            if code != "ConditionalRequestConflict" or attempt == CONFLICT_ATTEMPTS:
                raise
        time.sleep(random.uniform(0, 0.1 * 2**attempt))


def move(source: str, target: str) -> None:
    """By a copy on the server and a removal."""
    with guard(source, "move"):
        (bucket, key), (to_bucket, to_key) = split(source), split(target)
        client().copy({"Bucket": bucket, "Key": key}, to_bucket, to_key)
        client().delete_object(Bucket=bucket, Key=key)


def remove(uri: str) -> None:
    """No fault where there is none."""
    with suppress(NotFoundError), guard(uri, "remove"):
        bucket, key = split(uri)
        client().delete_object(Bucket=bucket, Key=key)


def remove_tree(uri: str) -> None:
    """One object after another; no fault where there is none."""
    with suppress(NotFoundError):
        for info in list_files(uri):
            remove(info.uri)


def download(uri: str, target: Path) -> None:
    """Copy one object to a local file, by several requests where it is large."""
    with guard(uri, "download"):
        bucket, key = split(uri)
        asked_again(uri, lambda: client().download_file(bucket, key, str(target)), is_reset)


def _parent(uri: str) -> str:
    bucket, key = split(uri)
    return f"s3://{bucket}/{key.rpartition('/')[0]}"


def _folder(key: str) -> str:
    return key.rstrip("/") + "/" if key else ""


def _is_marker(info: FileInfo) -> bool:
    """Whether it only stands for a folder, as consoles make them."""
    return not info.path or (info.path.endswith("/") and not info.size)


def _info(bucket: str, item: Mapping[str, Any], skip: int) -> FileInfo:
    return FileInfo(
        f"s3://{bucket}/{item['Key']}", item["Key"][skip:], item["Size"], item["ETag"].strip('"'), item["LastModified"]
    )
