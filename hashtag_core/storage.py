"""Files on a local disk and on S3, behind one set of functions; the only module that speaks to S3.

A URI is a local path (`file://` is taken off) or `s3://bucket/key`. Keys are taken verbatim: nothing is percent-decoded, so a
name may hold spaces, `%`, `#`, `=` or any script. What is written is visible whole or not at all: local files are
written beside their place, flushed to disk and renamed; an S3 object appears when its upload completes.

Credentials, region and endpoint come from the standard AWS environment. With an endpoint of one's own (MinIO, Ceph),
addressing is by path and checksums are sent only where the protocol demands them, since such stores refuse the trailing
checksums that today's SDKs send by default.

A missing file raises NotFoundError; anything else that fails after the SDK's retries raises StorageError with the URI,
the operation and the cause.
"""

import errno
import fcntl
import functools
import itertools
import json
import os
import random
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.fs as pafs

from hashtag_core.errors import AlreadyExistsError, ConfigError, NotFoundError, StorageError

MAX_ATTEMPTS = 6
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
BODY_ATTEMPTS = 4

_FORWARDED = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_CA_BUNDLE",
    "AWS_MAX_ATTEMPTS",
    "AWS_RETRY_MODE",
    "AWS_EC2_METADATA_DISABLED",
)
_CHECKSUMS = ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION")
_MISSING = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}
_TAKEN = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}


@dataclass(frozen=True)
class FileInfo:
    """One file: `path` is relative to the folder that was listed; `etag` changes when the content does."""

    uri: str
    path: str
    size: int
    etag: str
    modified: datetime


def is_remote(uri: str) -> bool:
    """Whether the URI is on S3. ConfigError for a scheme that is neither."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", uri)
    if scheme is None or scheme[1] == "file":
        return False
    if scheme[1] == "s3":
        return True
    raise ConfigError(f"{uri}: a URI is a local path or s3://bucket/key")


def local_path(uri: str) -> str:
    """The path of a local URI."""
    return uri.removeprefix("file://")


def join(uri: str, *parts: str) -> str:
    """The URI below `uri`; a part may hold slashes.

    ConfigError for a part that is absolute or climbs (`..`): parts come from archives and file names, and none of them leads out of the folder.
    """
    for part in parts:
        if part.startswith("/") or ".." in part.split("/"):
            raise ConfigError(f"{part!r} leads out of {uri}")
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts if part)]) or "/"


def exists(uri: str) -> bool:
    """Whether there is a file or a folder (on S3: some key below it)."""
    if not is_remote(uri):
        return os.path.exists(local_path(uri))
    bucket, key = _split(uri)
    try:
        with _guard(uri, "look-up"):
            if key and not key.endswith("/"):
                with suppress(NotFoundError), _guard(uri, "look-up"):
                    _client().head_object(Bucket=bucket, Key=key)
                    return True
            found = _client().list_objects_v2(Bucket=bucket, Prefix=_folder(key), MaxKeys=1)
            return bool(found.get("KeyCount"))
    except NotFoundError:
        return False


def file_info(uri: str) -> FileInfo:
    """Size, etag and time of one file."""
    name = uri.rstrip("/").rsplit("/", 1)[-1]
    with _guard(uri, "look-up"):
        if not is_remote(uri):
            return _local_info(local_path(uri), name)
        bucket, key = _split(uri)
        head = _client().head_object(Bucket=bucket, Key=key)
        return FileInfo(uri, name, head["ContentLength"], head["ETag"].strip('"'), head["LastModified"])


def list_files(uri: str, suffix: str = "", *, hidden: bool = False) -> list[FileInfo]:
    """All files below a folder, at any depth, sorted by relative path; a single file is a list of one.

    A file or folder whose name starts with `_` or `.` is skipped unless `hidden`. NotFoundError where there is nothing
    of that name at all (on S3: no key below it).
    """
    found = sorted(_walk_remote(uri) if is_remote(uri) else _walk_local(uri), key=lambda info: info.path)
    return [
        info
        for info in found
        if info.path.endswith(suffix) and (hidden or not any(step[:1] in ("_", ".") for step in info.path.split("/")))
    ]


def walk_folders(uri: str) -> Iterator[tuple[str, list[FileInfo]]]:
    """Each folder at or below `uri` that holds files: its path relative to `uri` (empty for itself) and its files, sorted
    by name; one folder at a time, so that millions of files are never in one list. A folder comes before those in it,
    and these by name.

    A file or folder whose name starts with `_` or `.` is skipped. NotFoundError where there is nothing of that name.
    """
    empty = True
    for folder, found in _folders_remote(uri, "") if is_remote(uri) else _folders_local(uri):
        empty = False
        seen = [info for info in found if info.path.rpartition("/")[2][:1] not in ("_", ".")]
        if seen:
            yield folder, sorted(seen, key=lambda info: info.path)
    if empty and not exists(uri):
        raise NotFoundError(f"{uri}: not found")


def read_bytes(uri: str, *, max_bytes: int | None = None, timeout_s: int = READ_TIMEOUT_S) -> bytes:
    """The whole content. StorageError for more than `max_bytes` (before they are read), or for an object of which every
    answer broke off: the SDK repeats a request that failed, not a body that did."""
    with _guard(uri, "read"):
        if not is_remote(uri):
            path = Path(local_path(uri))
            _check_size(uri, path.stat().st_size, max_bytes)
            return path.read_bytes()
        return _read_object(uri, max_bytes, timeout_s)


def _check_size(uri: str, size: int, max_bytes: int | None) -> None:
    if max_bytes is not None and size > max_bytes:
        raise StorageError(f"{uri}: {size:,} bytes, more than {max_bytes:,}")


def _read_object(uri: str, max_bytes: int | None, timeout_s: int) -> bytes:
    from botocore.exceptions import BotoCoreError

    bucket, key = _split(uri)
    for attempt in itertools.count(1):
        answer = _client(timeout_s).get_object(Bucket=bucket, Key=key)
        with closing(answer["Body"]) as body:
            _check_size(uri, answer["ContentLength"], max_bytes)
            try:
                return cast(bytes, body.read())
            except BotoCoreError:
                if attempt == BODY_ATTEMPTS:
                    raise
        time.sleep(random.uniform(0, 0.25 * 2**attempt))
    raise AssertionError("unreachable")


def read_json(uri: str) -> Any:
    """The content as JSON; StorageError where it is none."""
    try:
        return json.loads(read_bytes(uri))
    except ValueError as error:
        raise StorageError(f"{uri}: not JSON: {error}") from None


def open_input(uri: str) -> pa.NativeFile:
    """A seekable file for reading, of which pyarrow fetches only the ranges it needs. Close it."""
    with _guard(uri, "open"):
        if not is_remote(uri):
            return pa.OSFile(local_path(uri), "rb")
        filesystem, path = arrow_filesystem(uri)
        return filesystem.open_input_file(path)


@contextmanager
def open_output(uri: str) -> Iterator[BinaryIO]:
    """A binary file that appears under its name when the block ends well, and never when it raises."""
    try:
        if is_remote(uri):
            bucket, key = _split(uri)
            with tempfile.TemporaryFile() as file:
                yield cast(BinaryIO, file)
                file.seek(0)
                with _guard(uri, "write"):
                    _client().upload_fileobj(file, bucket, key)
        else:
            with _local_output(local_path(uri)) as local:
                yield local
    except OSError as error:
        raise StorageError(f"{uri}: write failed: {_cause(error)}") from error


def write_bytes(uri: str, data: bytes) -> None:
    """Write the whole content, atomically."""
    if is_remote(uri):
        bucket, key = _split(uri)
        with _guard(uri, "write"):
            _client().put_object(Bucket=bucket, Key=key, Body=data)
    else:
        with open_output(uri) as file:
            file.write(data)


def write_json(uri: str, value: Any) -> None:
    """Write JSON (indented, keys in the order given), atomically."""
    write_bytes(uri, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def create_bytes(uri: str, data: bytes) -> None:
    """Write a file that must not exist yet; AlreadyExistsError, and nothing written, where it does.

    Of several at once exactly one wins. A reply lost on the way makes the SDK ask again, and the winner is then told that
    the name is taken: who must know reads the content back.
    """
    if is_remote(uri):
        bucket, key = _split(uri)
        with _guard(uri, "create"):
            _client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        return
    target = Path(local_path(uri))
    staged = _staged(target)
    with _guard(uri, "create"):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_through(staged, data)
            try:
                os.link(staged, target)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                    raise
                _write_through(target, data)  # a filesystem without hard links
            _sync_folder(target.parent)
        except FileExistsError:
            raise AlreadyExistsError(f"{uri}: exists already") from None
        finally:
            staged.unlink(missing_ok=True)


def replace_bytes(uri: str, expected: bytes, data: bytes | None) -> None:
    """Write `data` where the file holds `expected`, else AlreadyExistsError and nothing written; None removes the file.

    Of several at once exactly one wins: by a condition on S3, by a lock on a local disk. A reply lost on the way may
    make the SDK ask again, and the winner is then told that it lost: who must know reads the content back.
    """
    if is_remote(uri):
        bucket, key = _split(uri)
        with _guard(uri, "replace"):
            held = _client().get_object(Bucket=bucket, Key=key)
            if held["Body"].read() != expected:
                raise AlreadyExistsError(f"{uri}: holds something else by now")
            if data is None:
                _client().delete_object(Bucket=bucket, Key=key)
            else:
                _client().put_object(Bucket=bucket, Key=key, Body=data, IfMatch=held["ETag"])
        return
    with _guard(uri, "replace"):
        folder = os.open(Path(local_path(uri)).parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            if read_bytes(uri) != expected:
                raise AlreadyExistsError(f"{uri}: holds something else by now")
            if data is None:
                os.unlink(local_path(uri))
            else:
                with _local_output(local_path(uri)) as file:
                    file.write(data)
        finally:
            os.close(folder)


def move(source: str, target: str) -> None:
    """Rename a file, replacing the target: atomic on a local disk, a server-side copy and a removal on S3."""
    with _guard(source, "move"):
        if not is_remote(source):
            held = Path(local_path(target))
            held.parent.mkdir(parents=True, exist_ok=True)
            os.replace(local_path(source), held)
            _sync_folder(held.parent)
            return
        (bucket, key), (to_bucket, to_key) = _split(source), _split(target)
        _client().copy({"Bucket": bucket, "Key": key}, to_bucket, to_key)
        _client().delete_object(Bucket=bucket, Key=key)


def remove(uri: str) -> None:
    """Remove a file; one that is not there is no fault."""
    with suppress(NotFoundError), _guard(uri, "remove"):
        if not is_remote(uri):
            Path(local_path(uri)).unlink(missing_ok=True)
            return
        bucket, key = _split(uri)
        _client().delete_object(Bucket=bucket, Key=key)


def remove_tree(uri: str) -> None:
    """Remove a folder and all below it; one that is not there is no fault."""
    with suppress(NotFoundError):
        if not is_remote(uri):
            with _guard(uri, "remove"):
                shutil.rmtree(local_path(uri))
            return
        for info in _walk_remote(uri):
            remove(info.uri)


def download_folder(uri: str, local: str | Path) -> None:
    """Copy every file below `uri`, hidden ones too, to a local folder."""
    for info in list_files(uri, hidden=True):
        target = Path(join(str(local), info.path))
        target.parent.mkdir(parents=True, exist_ok=True)
        with _guard(info.uri, "download"):
            if is_remote(uri):
                bucket, key = _split(info.uri)
                _client().download_file(bucket, key, str(target))
            else:
                shutil.copyfile(local_path(info.uri), target)


def upload_folder(local: str | Path, uri: str) -> None:
    """Copy every file below a local folder, hidden ones too, to below `uri`; each appears whole."""
    for info in list_files(str(local), hidden=True):
        with open(info.uri, "rb") as source, open_output(join(uri, info.path)) as target:
            shutil.copyfileobj(source, target, 1 << 20)


def arrow_filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """Arrow's filesystem for the URI and the path in it, with the same endpoint, addressing, retries and timeouts."""
    if not is_remote(uri):
        return pafs.LocalFileSystem(), os.path.abspath(local_path(uri))
    bucket, key = _split(uri)
    endpoint = _endpoint()
    os.environ.update({name: value for name, value in _checksum_settings().items() if name not in os.environ})
    filesystem = pafs.S3FileSystem(
        endpoint_override=endpoint,
        scheme="http" if (endpoint or "").startswith("http://") else "https",
        region=_region() or ("us-east-1" if endpoint else None),
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=MAX_ATTEMPTS),
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=READ_TIMEOUT_S,
    )
    return filesystem, f"{bucket}/{key}".rstrip("/")


def worker_environment() -> dict[str, str]:
    """The AWS variables that every worker needs and that are no secret; credentials are each node's own."""
    return {name: os.environ[name] for name in _FORWARDED if name in os.environ} | _checksum_settings()


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None


def _checksum_settings() -> dict[str, str]:
    settings = {name: os.environ[name] for name in _CHECKSUMS if name in os.environ}
    return dict.fromkeys(_CHECKSUMS, "when_required") | settings if _endpoint() else settings


def _client(read_timeout_s: int = READ_TIMEOUT_S) -> Any:
    credentials = tuple(
        os.environ.get(f"AWS_{name}") for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE")
    )
    checksums = tuple(_checksum_settings().items())
    return _make_client(os.getpid(), _endpoint(), _region(), checksums, hash(credentials), read_timeout_s)


@functools.lru_cache(maxsize=4)
def _make_client(
    pid: int,
    endpoint: str | None,
    region: str | None,
    checksums: tuple[tuple[str, str], ...],
    credentials: int,
    read_timeout_s: int,
) -> Any:
    import boto3  # 0.2 s that a run on local disk does not pay
    from botocore.config import Config

    chosen = dict(checksums)
    options: dict[str, Any] = {}
    for name, option in zip(_CHECKSUMS, ("request_checksum_calculation", "response_checksum_validation"), strict=True):
        if name in chosen:
            options[option] = chosen[name].lower()
    config = Config(
        retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=read_timeout_s,
        max_pool_connections=32,
        s3={"addressing_style": "path"} if endpoint else None,
        **options,
    )
    region = region or ("us-east-1" if endpoint else None)
    return boto3.Session().client("s3", endpoint_url=endpoint, region_name=region, config=config)


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise ConfigError(f"{uri}: expected s3://bucket/key")
    return bucket, key


def _folder(key: str) -> str:
    return key.rstrip("/") + "/" if key else ""


@contextmanager
def _guard(uri: str, operation: str) -> Iterator[None]:
    """Turn what the operating system and the SDKs raise into our errors."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"{uri}: not found") from None
    except OSError as error:
        raise StorageError(f"{uri}: {operation} failed: {_cause(error)}") from error
    except Exception as error:
        module = type(error).__module__.partition(".")[0]
        if module not in ("botocore", "boto3", "s3transfer"):
            raise
        response: Mapping[str, Any] = getattr(error, "response", None) or {}  # None: a body broke off
        code = str(response.get("Error", {}).get("Code", ""))
        if code in _MISSING:
            raise NotFoundError(f"{uri}: not found" + (" (no such bucket)" if code == "NoSuchBucket" else "")) from None
        if operation in ("create", "replace") and code in _TAKEN:
            raise AlreadyExistsError(f"{uri}: exists already, or was changed by another") from None
        raise StorageError(f"{uri}: {operation} failed: {error}") from error


def _cause(error: OSError) -> str:
    return error.strerror or str(error)


def _walk_local(uri: str) -> Iterator[FileInfo]:
    root = local_path(uri)
    with _guard(uri, "listing"):
        if os.path.isfile(root):
            yield _local_info(root, os.path.basename(root))
            return
        if not os.path.isdir(root):
            raise FileNotFoundError(root)

        def stop(error: OSError) -> None:
            raise error

        for folder, _, names in os.walk(root, onerror=stop):
            for name in names:
                path = os.path.join(folder, name)
                with suppress(FileNotFoundError):  # a temporary file of a writer at work
                    yield _local_info(path, os.path.relpath(path, root))


def _local_info(path: str, relative: str) -> FileInfo:
    """Of a link to nothing, the link's own: it is listed, and who opens it is told. The etag tells whether the file may be read."""
    try:
        held = os.stat(path)
    except FileNotFoundError:
        if not os.path.islink(path):
            raise
        held = os.lstat(path)
    modified = datetime.fromtimestamp(held.st_mtime, UTC)
    readable = "" if os.access(path, os.R_OK) else "-unreadable"
    return FileInfo(path, relative, held.st_size, f"{held.st_size:x}-{held.st_mtime_ns:x}{readable}", modified)


def _walk_remote(uri: str) -> Iterator[FileInfo]:
    bucket, key = _split(uri)
    prefix = _folder(key)
    empty = True
    with _guard(uri, "listing"):
        for page in _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", []):
                empty = False
                info = _remote_info(bucket, item, len(prefix))
                if info.path and not info.path.endswith("/"):
                    yield info
    if empty:
        if not key:
            return
        yield file_info(uri)


def _folders_local(uri: str) -> Iterator[tuple[str, list[FileInfo]]]:
    root = local_path(uri)

    def stop(error: OSError) -> None:
        raise error

    with _guard(uri, "listing"):
        for folder, below, names in os.walk(root, onerror=stop):
            below[:] = sorted(name for name in below if name[:1] not in ("_", "."))
            relative = os.path.relpath(folder, root)
            found = []
            for name in names:
                with suppress(FileNotFoundError):  # a temporary file of a writer at work
                    path = os.path.join(folder, name)
                    found.append(_local_info(path, os.path.normpath(os.path.join(relative, name))))
            yield "" if relative == "." else relative, found


def _folders_remote(uri: str, relative: str) -> Iterator[tuple[str, list[FileInfo]]]:
    bucket, key = _split(uri)
    prefix, below, found = _folder(key) + relative, list[str](), list[FileInfo]()
    with _guard(uri, "listing"):
        for page in _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/"):
            below += [item["Prefix"][len(prefix) :] for item in page.get("CommonPrefixes", [])]
            found += [_remote_info(bucket, item, len(_folder(key))) for item in page.get("Contents", [])]
    if found:
        yield relative.rstrip("/"), [info for info in found if info.path and not info.path.endswith("/")]
    for name in sorted(step.rstrip("/") for step in below):
        if name[:1] not in ("_", "."):
            yield from _folders_remote(uri, f"{relative}{name}/")


def _remote_info(bucket: str, item: Mapping[str, Any], skip: int) -> FileInfo:
    return FileInfo(
        f"s3://{bucket}/{item['Key']}", item["Key"][skip:], item["Size"], item["ETag"].strip('"'), item["LastModified"]
    )


def _staged(target: Path) -> Path:
    return target.with_name(f".{uuid.uuid4().hex}.tmp")


@contextmanager
def _local_output(path: str) -> Iterator[BinaryIO]:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = _staged(target)
    try:
        with open(staged, "xb") as file:
            yield cast(BinaryIO, file)
            _flush(file)
        os.replace(staged, target)
        _sync_folder(target.parent)
    finally:
        staged.unlink(missing_ok=True)


def _write_through(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        _flush(file)


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
