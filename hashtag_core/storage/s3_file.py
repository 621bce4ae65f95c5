"""The bytes of an object: all of them, or as a seekable file of which only the ranges that are asked for travel."""

import io
from contextlib import closing
from typing import cast

from hashtag_core.errors import StorageError
from hashtag_core.storage.base import check_size, guard
from hashtag_core.storage.s3_client import READ_TIMEOUT_S, asked_again, client, split

TAIL_BYTES = 64 << 10
"""Asked for when a file is opened: what Parquet's readers want first, and small files whole."""


def get_object(
    uri: str, span: tuple[int, int] | None = None, max_bytes: int | None = None, timeout_s: int = READ_TIMEOUT_S
) -> tuple[bytes, str]:
    """Content (or `size` bytes from `start` on, `span`) and ETag, asked for again where the body breaks off."""
    wanted = None if span is None else f"bytes={span[0]}-{span[0] + span[1] - 1}"
    return _get(uri, wanted, max_bytes, timeout_s)[:2]


def _get(uri: str, wanted: str | None, max_bytes: int | None, timeout_s: int) -> tuple[bytes, str, int]:
    """Content, ETag and the size of the whole object."""
    from botocore.exceptions import BotoCoreError

    bucket, key = split(uri)
    options = {} if wanted is None else {"Range": wanted}
    began = False

    def get() -> tuple[bytes, str, int]:
        nonlocal began
        began = False
        answer = client(timeout_s).get_object(Bucket=bucket, Key=key, **options)
        with closing(answer["Body"]) as body:
            check_size(uri, answer["ContentLength"], max_bytes)
            began = True
            data = cast(bytes, body.read())
        whole = answer.get("ContentRange", "").rpartition("/")[2]
        return data, cast(str, answer.get("ETag", "")), int(whole) if whole.isdigit() else len(data)

    return asked_again(uri, get, lambda error: is_reset(error) or (began and isinstance(error, BotoCoreError)))


def _tail(uri: str) -> tuple[bytes, str, int]:
    """The last bytes of an object, its ETag and its size, by one request."""
    from botocore.exceptions import ClientError

    try:
        return _get(uri, f"bytes=-{TAIL_BYTES}", None, READ_TIMEOUT_S)
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") not in ("InvalidRange", "416"):
            raise
    bucket, key = split(uri)  # of an empty object there is no range
    head = client().head_object(Bucket=bucket, Key=key)
    return b"", head.get("ETag", ""), int(head["ContentLength"])


def is_reset(error: Exception) -> bool:
    """Whether the body of a refusal broke off, which the SDK lets through as urllib3's error. Its own errors, some of which are
    urllib3's too, come after it has asked again often enough."""
    from botocore.exceptions import BotoCoreError
    from urllib3.exceptions import HTTPError

    return isinstance(error, HTTPError) and not isinstance(error, BotoCoreError)


class RangedFile(io.RawIOBase):
    """Reads ranges of one object.

    By the same client as everything else, so that every key can be opened that can be listed: Arrow's own refuses keys
    with `//` in them. An object that is replaced meanwhile is no longer the one that was opened: StorageError.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._tail, self._etag, self._size = _tail(uri)
        self._position = 0

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
        """Up to `size` bytes, fewer at the end alone; StorageError where no answer comes whole."""
        left = max(0, self._size - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        if not wanted:
            return b""
        if (begin := self._position - (self._size - len(self._tail))) >= 0:
            self._position += wanted
            return self._tail[begin : begin + wanted]
        with guard(self._uri, "read"):
            data, etag = get_object(self._uri, (self._position, wanted))
        if etag != self._etag or len(data) != wanted:
            raise StorageError(f"{self._uri}: changed while it was read")
        self._position += len(data)
        return data
