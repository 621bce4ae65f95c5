"""The bytes of an object: all of them, or as a seekable file of which only the ranges that are asked for travel."""

import io
from contextlib import closing
from typing import cast

from hashtag_core.errors import StorageError
from hashtag_core.storage.base import check_size, guard
from hashtag_core.storage.s3_client import READ_TIMEOUT_S, asked_again, client, split


def get_object(
    uri: str, span: tuple[int, int] | None = None, max_bytes: int | None = None, timeout_s: int = READ_TIMEOUT_S
) -> tuple[bytes, str]:
    """Content (or `size` bytes from `start` on, `span`) and ETag, asked for again where the body breaks off."""
    from botocore.exceptions import BotoCoreError

    bucket, key = split(uri)
    options = {} if span is None else {"Range": f"bytes={span[0]}-{span[0] + span[1] - 1}"}
    began = False

    def get() -> tuple[bytes, str]:
        nonlocal began
        began = False
        answer = client(timeout_s).get_object(Bucket=bucket, Key=key, **options)
        with closing(answer["Body"]) as body:
            check_size(uri, answer["ContentLength"], max_bytes)
            began = True
            return cast(bytes, body.read()), cast(str, answer.get("ETag", ""))

    return asked_again(uri, get, lambda error: is_reset(error) or (began and isinstance(error, BotoCoreError)))


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
        bucket, key = split(uri)
        head = client().head_object(Bucket=bucket, Key=key)
        self._size, self._etag = int(head["ContentLength"]), head.get("ETag", "")
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
        with guard(self._uri, "read"):
            data, etag = get_object(self._uri, (self._position, wanted))
        if etag != self._etag or len(data) != wanted:
            raise StorageError(f"{self._uri}: changed while it was read")
        self._position += len(data)
        return data
