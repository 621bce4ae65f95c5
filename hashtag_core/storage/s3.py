"""The side of S3: each function does what that of its name in `hashtag_core.storage` promises. The only module with boto3."""

import functools
import io
import itertools
import logging
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import pyarrow as pa
import pyarrow.fs as pafs

from hashtag_core.errors import AlreadyExistsError, ConfigError, NotFoundError
from hashtag_core.storage.base import FileInfo, check_size, guard, writing

logger = logging.getLogger(__name__)

T = TypeVar("T")

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


def exists(uri: str) -> bool:
    """Whether there is the key, or some key below it."""
    bucket, key = _split(uri)
    try:
        with guard(uri, "look-up"):
            if key and not key.endswith("/"):
                with suppress(NotFoundError), guard(uri, "look-up"):
                    _client().head_object(Bucket=bucket, Key=key)
                    return True
            found = _client().list_objects_v2(Bucket=bucket, Prefix=_folder(key), MaxKeys=1)
            return bool(found.get("KeyCount"))
    except NotFoundError:
        return False


def file_info(uri: str) -> FileInfo:
    """By one request for the head."""
    with guard(uri, "look-up"):
        bucket, key = _split(uri)
        head = _client().head_object(Bucket=bucket, Key=key)
        name = uri.rstrip("/").rsplit("/", 1)[-1]
        return FileInfo(uri, name, head["ContentLength"], head["ETag"].strip('"'), head["LastModified"])


def list_files(uri: str) -> Iterator[FileInfo]:
    """Every object below a folder, hidden ones too, page by page."""
    bucket, key = _split(uri)
    prefix = _folder(key)
    empty = True
    with guard(uri, "listing"):
        for page in _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", []):
                empty = False
                info = _info(bucket, item, len(prefix))
                if info.path and not info.path.endswith("/"):
                    yield info
    if empty:
        if not key:
            return
        yield file_info(uri)


def walk_folders(uri: str, hidden: bool = False, relative: str = "") -> Iterator[tuple[str, list[FileInfo]]]:
    """Every folder with objects (unless `hidden`, those that are not hidden), with all of them, from the folder `relative` of
    `uri` on."""
    bucket, key = _split(uri)
    prefix, below, found = _folder(key) + relative, list[str](), list[FileInfo]()
    with guard(uri, "listing"):
        for page in _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/"):
            below += [item["Prefix"][len(prefix) :] for item in page.get("CommonPrefixes", [])]
            found += [_info(bucket, item, len(_folder(key))) for item in page.get("Contents", [])]
    if found:
        yield relative.rstrip("/"), [info for info in found if info.path and not info.path.endswith("/")]
    for name in sorted(step.rstrip("/") for step in below):
        if hidden or name[:1] not in ("_", "."):
            yield from walk_folders(uri, hidden, f"{relative}{name}/")


def read_bytes(uri: str, max_bytes: int | None, timeout_s: int) -> bytes:
    """The whole content, asked for again where the body breaks off; StorageError for more than `max_bytes`."""
    with guard(uri, "read"):
        return _get(uri, max_bytes, timeout_s)[0]


def _get(uri: str, max_bytes: int | None = None, timeout_s: int = READ_TIMEOUT_S) -> tuple[bytes, str]:
    """Content and ETag of an object."""
    from botocore.exceptions import BotoCoreError

    bucket, key = _split(uri)
    began = False

    def get() -> tuple[bytes, str]:
        nonlocal began
        began = False
        answer = _client(timeout_s).get_object(Bucket=bucket, Key=key)
        with closing(answer["Body"]) as body:
            check_size(uri, answer["ContentLength"], max_bytes)
            began = True
            return cast(bytes, body.read()), cast(str, answer.get("ETag", ""))

    return _asked_again(uri, get, lambda error: _is_reset(error) or (began and isinstance(error, BotoCoreError)))


def _is_reset(error: Exception) -> bool:
    """Whether the body of a refusal broke off, which the SDK lets through as urllib3's error. Its own errors, some of which are
    urllib3's too, come after it has asked again often enough."""
    from botocore.exceptions import BotoCoreError
    from urllib3.exceptions import HTTPError

    return isinstance(error, HTTPError) and not isinstance(error, BotoCoreError)


def _asked_again(uri: str, get: Callable[[], T], is_broken: Callable[[Exception], bool]) -> T:
    """What clients do not do by themselves once an answer has begun: `get`, up to `BODY_ATTEMPTS` times while it breaks off."""
    for attempt in itertools.count(1):
        try:
            return get()
        except Exception as error:
            if attempt == BODY_ATTEMPTS or not is_broken(error):
                raise
            logger.warning("%s: asked for again: %s", uri, error)
        time.sleep(random.uniform(0, 0.25 * 2**attempt))
    raise AssertionError("unreachable")


def open_input(uri: str) -> pa.NativeFile:
    """By Arrow's client, which reads ranges."""
    with guard(uri, "open"):
        filesystem, path = arrow_filesystem(uri)
        return pa.PythonFile(_PatientFile(uri, filesystem.open_input_file(path)), mode="r")


class _PatientFile(io.RawIOBase):
    """Reads a range again whose answer breaks off: Arrow's client does so only as long as no answer has begun."""

    def __init__(self, uri: str, file: pa.NativeFile) -> None:
        self._uri, self._file = uri, file
        self._size, self._position = file.size(), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes; OSError after `BODY_ATTEMPTS`."""
        left = max(0, self._size - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        data = _asked_again(
            self._uri,
            lambda: cast(bytes, self._file.read_at(wanted, self._position)),
            lambda error: isinstance(error, OSError),
        )
        self._position += len(data)
        return data

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def open_output(uri: str) -> Iterator[BinaryIO]:
    """A temporary file on the local disk, uploaded at the end, in several parts where it is large."""
    bucket, key = _split(uri)
    with writing(uri), tempfile.TemporaryFile() as file:
        yield cast(BinaryIO, file)
        file.seek(0)
        with guard(uri, "write"):
            _client().upload_fileobj(file, bucket, key)


def write_bytes(uri: str, data: bytes) -> None:
    """By one request."""
    bucket, key = _split(uri)
    with guard(uri, "write"):
        _client().put_object(Bucket=bucket, Key=key, Body=data)


def create_bytes(uri: str, data: bytes) -> None:
    """By `If-None-Match: *`."""
    bucket, key = _split(uri)
    with guard(uri, "create"):
        _client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")


def replace_bytes(uri: str, expected: bytes, data: bytes | None) -> None:
    """By `If-Match` with the etag of what was read."""
    bucket, key = _split(uri)
    with guard(uri, "replace"):
        held, etag = _get(uri)
        if held != expected:
            raise AlreadyExistsError(f"{uri}: holds something else by now")
        if data is None:
            _client().delete_object(Bucket=bucket, Key=key)
        else:
            _client().put_object(Bucket=bucket, Key=key, Body=data, IfMatch=etag)


def move(source: str, target: str) -> None:
    """By a copy on the server and a removal."""
    with guard(source, "move"):
        (bucket, key), (to_bucket, to_key) = _split(source), _split(target)
        _client().copy({"Bucket": bucket, "Key": key}, to_bucket, to_key)
        _client().delete_object(Bucket=bucket, Key=key)


def remove(uri: str) -> None:
    """No fault where there is none."""
    with suppress(NotFoundError), guard(uri, "remove"):
        bucket, key = _split(uri)
        _client().delete_object(Bucket=bucket, Key=key)


def remove_tree(uri: str) -> None:
    """One object after another; no fault where there is none."""
    with suppress(NotFoundError):
        for info in list_files(uri):
            remove(info.uri)


def download(uri: str, target: Path) -> None:
    """Copy one object to a local file, by several requests where it is large."""
    with guard(uri, "download"):
        bucket, key = _split(uri)
        _asked_again(uri, lambda: _client().download_file(bucket, key, str(target)), _is_reset)


def arrow_filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """Arrow's own client; it reads the settings of checksums from this process's environment alone."""
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


def _info(bucket: str, item: Mapping[str, Any], skip: int) -> FileInfo:
    return FileInfo(
        f"s3://{bucket}/{item['Key']}", item["Key"][skip:], item["Size"], item["ETag"].strip('"'), item["LastModified"]
    )
