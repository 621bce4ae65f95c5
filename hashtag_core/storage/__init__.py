"""Files on a local disk and on S3, behind one set of functions; the only package that speaks to S3.

A URI is a local path (`file:` and `file://` are taken off) or `s3://bucket/key`. Keys are taken verbatim: nothing is percent-decoded, so a
name may hold spaces, `%`, `#`, `=` or any script. What is written is visible whole or not at all: local files are
written beside their place, flushed to disk and renamed; an S3 object appears when its upload completes.

Credentials, region and endpoint come from the standard AWS environment. With an endpoint of one's own (MinIO, Ceph),
addressing is by path and checksums are sent only where the protocol demands them, since such stores refuse the trailing
checksums that today's SDKs send by default.

`web` reads pictures at `https://` addresses, which is all that is done with them.

A missing file raises NotFoundError; anything else that fails after the SDK's retries raises StorageError with the URI,
the operation and the cause.

What a function promises is said here; `local` and `s3` hold one function each of the same name that keeps it.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs as pafs

from hashtag_core.errors import ConfigError, NotFoundError, StorageError
from hashtag_core.storage import local as disk
from hashtag_core.storage import s3, s3_client
from hashtag_core.storage import web as web
from hashtag_core.storage.base import FileInfo as FileInfo
from hashtag_core.storage.conditions import ON_DISK, ConditionalWrites
from hashtag_core.storage.conditions import conditional_writes as _conditional_writes
from hashtag_core.storage.local import local_path as local_path
from hashtag_core.storage.s3_client import worker_environment as worker_environment


def is_remote(uri: str) -> bool:
    """Whether the URI is on S3. ConfigError for a scheme that is neither, and for `s3:` without a bucket, which is no folder's name."""
    if re.match(r"s3:(?!//)|s3:/*$", uri, re.IGNORECASE):
        raise ConfigError(f"{uri}: expected s3://bucket/key")
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", uri)
    if scheme is None or scheme[1].lower() == "file":
        return False
    if scheme[1] == "s3":
        return True
    raise ConfigError(f"{uri}: a URI is a local path or s3://bucket/key")


def join(uri: str, *parts: str) -> str:
    """The URI below `uri`; a part may hold slashes.

    ConfigError for a part that is absolute or climbs (`..`): parts come from archives and file names, and none of them leads out of
    the folder. On S3 a part is verbatim: slashes at its ends and doubled ones belong to the key, and lead nowhere.
    """
    remote = is_remote(uri)
    for part in parts:
        if (part.startswith("/") and not remote) or ".." in part.split("/"):
            raise ConfigError(f"{part!r} leads out of {uri}")
    if remote:
        return "/".join([uri.rstrip("/"), *filter(None, parts)])
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts if part)]) or "/"


def exists(uri: str) -> bool:
    """Whether there is a file or a folder (on S3: some key below it)."""
    return s3.exists(uri) if is_remote(uri) else disk.exists(uri)


def file_info(uri: str) -> FileInfo:
    """Size, etag and time of one file."""
    return s3.file_info(uri) if is_remote(uri) else disk.file_info(uri)


def list_files(uri: str, suffix: str = "", *, hidden: bool = False) -> list[FileInfo]:
    """All files below a folder, at any depth, sorted by relative path; a single file is a list of one.

    A file or folder whose name starts with `_` or `.` is skipped unless `hidden`. NotFoundError where there is nothing
    of that name at all (on S3: no key below it).
    """
    found = sorted(s3.list_files(uri) if is_remote(uri) else disk.list_files(uri), key=lambda info: info.path)
    return [
        info
        for info in found
        if info.path.endswith(suffix) and (hidden or not any(step[:1] in ("_", ".") for step in info.path.split("/")))
    ]


def walk_folders(uri: str, *, hidden: bool = False) -> Iterator[tuple[str, list[FileInfo]]]:
    """Each folder at or below `uri` that holds files: its path relative to `uri` (empty for itself) and its files, sorted
    by name; one folder at a time, so that millions of files are never in one list. A folder comes before those in it,
    and these by name.

    A file or folder whose name starts with `_` or `.` is skipped unless `hidden`. NotFoundError where there is nothing of
    that name.
    """
    empty = True
    for folder, found in s3.walk_folders(uri, hidden) if is_remote(uri) else disk.walk_folders(uri, hidden):
        empty = False
        seen = [info for info in found if hidden or info.path.rpartition("/")[2][:1] not in ("_", ".")]
        if seen:
            yield folder, sorted(seen, key=lambda info: info.path)
    if empty and not exists(uri):
        raise NotFoundError(f"{uri}: not found")


def read_bytes(uri: str, *, max_bytes: int | None = None, timeout_s: int = s3_client.READ_TIMEOUT_S) -> bytes:
    """The whole content. TooLargeError for more than `max_bytes` (before they are read), StorageError for an object of which
    every answer broke off: the SDK repeats a request that failed, not a body that did."""
    return s3.read_bytes(uri, max_bytes, timeout_s) if is_remote(uri) else disk.read_bytes(uri, max_bytes)


def read_json(uri: str) -> Any:
    """The content as JSON; StorageError where it is none."""
    try:
        return json.loads(read_bytes(uri))
    except ValueError as error:
        raise StorageError(f"{uri}: not JSON: {error}") from None


def open_input(uri: str) -> pa.NativeFile:
    """A seekable file for reading, of which pyarrow fetches only the ranges it needs. Close it."""
    return s3.open_input(uri) if is_remote(uri) else disk.open_input(uri)


def open_output(uri: str) -> AbstractContextManager[BinaryIO]:
    """A binary file that appears under its name when the block ends well, and never when it raises."""
    return s3.open_output(uri) if is_remote(uri) else disk.open_output(uri)


def write_bytes(uri: str, data: bytes) -> None:
    """Write the whole content, atomically."""
    return s3.write_bytes(uri, data) if is_remote(uri) else disk.write_bytes(uri, data)


def write_json(uri: str, value: Any) -> None:
    """Write JSON (indented, keys in the order given), atomically."""
    write_bytes(uri, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def create_bytes(uri: str, data: bytes) -> None:
    """Write a file that must not exist yet; AlreadyExistsError, and nothing written, where it does.

    Of several at once exactly one wins; ConfigError where the store cannot promise that. A reply lost on the way makes the SDK ask again, and the winner is then told that
    the name is taken: who must know reads the content back.
    """
    return s3.create_bytes(uri, data) if is_remote(uri) else disk.create_bytes(uri, data)


def replace_bytes(uri: str, expected: bytes, data: bytes | None) -> None:
    """Write `data` where the file holds `expected`, else AlreadyExistsError and nothing written; None removes the file.

    Of several at once exactly one wins: by a condition on S3, by a lock on a local disk; ConfigError where the store has
    no such condition. A reply lost on the way may
    make the SDK ask again, and the winner is then told that it lost: who must know reads the content back.
    """
    return s3.replace_bytes(uri, expected, data) if is_remote(uri) else disk.replace_bytes(uri, expected, data)


def conditional_writes(uri: str) -> ConditionalWrites:
    """What may be relied on below a folder when several write at once; on S3 found by a probe, once for a process, an endpoint
    and a bucket. StorageError where the probe fails."""
    return _conditional_writes(uri) if is_remote(uri) else ON_DISK


def object_store_options(uri: str) -> dict[str, str]:
    """`storage_options` with which delta-rs and Polars reach what this package reaches; empty for a local path.

    They hold secrets (neither log them nor put them into a runtime_env), and temporary credentials end: ask anew for each
    opening of a table.
    """
    return s3_client.object_store_options(uri) if is_remote(uri) else {}


def absolute(uri: str) -> str:
    """The same place for every process, whatever its working folder, and in one spelling: links are followed."""
    return uri.rstrip("/") if is_remote(uri) else os.path.realpath(local_path(uri))


def object_store_url(uri: str) -> str:
    """The URL by which delta-rs finds the very folder that is `uri` here: it takes URLs, where `#`, `?` and `%` mean something.

    ConfigError for names that it cannot hold: a `//` in the key, and `%` followed by two hex digits, which its kernel
    decodes twice.
    """
    path = uri.rstrip("/") if is_remote(uri) else os.path.abspath(local_path(uri))
    if "//" in path.removeprefix("s3://") or re.search("%[0-9A-Fa-f]{2}", path):
        raise ConfigError(
            f"{uri}: a Delta table cannot lie at a name with `//` or `%` and two hex digits in it: take another"
        )
    return f"s3://{quote(path.removeprefix('s3://'))}" if is_remote(uri) else f"file://{quote(path)}"


def move(source: str, target: str) -> None:
    """Rename a file, replacing the target: atomic on a local disk, a server-side copy and a removal on S3."""
    return s3.move(source, target) if is_remote(source) else disk.move(source, target)


def remove(uri: str) -> None:
    """Remove a file; one that is not there is no fault."""
    return s3.remove(uri) if is_remote(uri) else disk.remove(uri)


def remove_tree(uri: str) -> None:
    """Remove a folder and all below it; one that is not there is no fault."""
    return s3.remove_tree(uri) if is_remote(uri) else disk.remove_tree(uri)


def download_folder(uri: str, local: str | Path) -> None:
    """Copy every file below `uri`, hidden ones too, to a local folder."""
    for info in list_files(uri, hidden=True):
        target = Path(join(str(local), info.path))
        target.parent.mkdir(parents=True, exist_ok=True)
        s3.download(info.uri, target) if is_remote(uri) else disk.download(info.uri, target)


def download_file(uri: str, target: Path) -> None:
    """Copy one file to the local disk."""
    s3.download(uri, target) if is_remote(uri) else disk.download(uri, target)


def upload_folder(local: str | Path, uri: str) -> None:
    """Copy every file below a local folder, hidden ones too, to below `uri`; each appears whole."""
    for info in list_files(str(local), hidden=True):
        with open(info.uri, "rb") as source, open_output(join(uri, info.path)) as target:
            shutil.copyfileobj(source, target, 1 << 20)


def arrow_filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """Arrow's filesystem for the URI and the path in it, with the same endpoint, addressing, retries and timeouts."""
    return s3_client.arrow_filesystem(uri) if is_remote(uri) else disk.arrow_filesystem(uri)
