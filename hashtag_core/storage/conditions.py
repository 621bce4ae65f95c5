"""What a store makes of conditions on writes, found by trying: documentation and version numbers do not tell.

Amazon honours `If-None-Match: *` and `If-Match: "<etag>"`. Ceph's gateway (version 16) compares the header with the bare
etag letter by letter, so it refuses the quoted one that itself gave. Others ignore conditions without a word, so that of two
writers both win, or answer 501. A probe writes one small object beside what is to be written, and removes it.
"""

import functools
import hashlib
import logging
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from hashtag_core.errors import ConfigError
from hashtag_core.storage.base import guard
from hashtag_core.storage.s3_client import client, endpoint, split
from hashtag_core.storage.s3_file import get_object

logger = logging.getLogger(__name__)

Etag = Literal["quoted", "bare"]

_NO_SUCH_THING = {"NotImplemented", "XNotImplemented", "MethodNotAllowed", "InvalidArgument", "InvalidRequest"}
_NO_SUCH_THING |= {"400", "405", "501"}
_FAILED = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}


@dataclass(frozen=True)
class ConditionalWrites:
    """What may be relied on. A writer of Delta tables needs `create` alone (object_store's `conditional_put=etag`)."""

    create: bool
    """Of several who create one name exactly one wins (`If-None-Match: *`; on a disk a hard link)."""
    replace: Etag | Literal["lock"] | None
    """How a replacement is made conditional: `If-Match` with the etag in quotes or without them; on a disk by a lock."""
    remove: bool
    """Whether a removal can be conditional too."""
    reason: str = ""
    """What was seen where `create` or `replace` is not to be had."""

    def require(self, uri: str, *, replace: bool = False) -> None:
        """ConfigError, with what was seen, where the store does not do it: two runs could not be kept apart."""
        if not self.create or (replace and self.replace is None):
            what = "replaced" if self.create else "created"
            raise ConfigError(
                f"{uri}: nothing can be {what} here without the risk that two runs do it at once: the store "
                f"({endpoint() or 'Amazon S3'}) {self.reason}; take a local disk, or a store that honours conditional writes "
                "(Amazon S3, MinIO, Ceph)"
            )


ON_DISK = ConditionalWrites(create=True, replace="lock", remove=True)


def conditional_writes(folder: str) -> ConditionalWrites:
    """What the store of `folder` (`s3://`, where this process may write) does; found once for a process, endpoint and bucket.

    StorageError where the probe itself fails, for want of a permission for instance.
    """
    bucket, key = split(folder)
    known = _known(endpoint(), bucket)
    if not known:
        name = f".probe-{uuid.uuid4().hex}"
        with guard(folder, "probe of conditional writes"):
            known.append(_probe(bucket, f"{key.rstrip('/')}/{name}" if key.strip("/") else name))
        logger.debug("%s: %s", folder, known[-1])
    return known[-1]


@functools.lru_cache(maxsize=64)
def _known(address: str | None, bucket: str) -> list[ConditionalWrites]:
    return []


def _probe(bucket: str, key: str) -> ConditionalWrites:
    """By writing twice under each condition: once where it holds and once where it does not."""
    store = _Prober(bucket, key)
    try:
        first = store.put(b"1", IfNoneMatch="*")
        if first != "done" and store.held() != b"1":  # a reply that was lost makes the SDK ask again: then it is there
            return ConditionalWrites(False, None, False, f"answers `If-None-Match: *` with {store.answer}")
        if store.put(b"2", IfNoneMatch="*") == "done":
            return ConditionalWrites(False, None, False, "ignores `If-None-Match: *`: it replaced what was there")
        replace, reason = _replacing(store)
        return ConditionalWrites(True, replace, replace is not None and store.removes(replace), reason)
    finally:
        with suppress(Exception):
            store.remove()


def _replacing(store: "_Prober") -> tuple[Etag | None, str]:
    reason = ""
    for way in ("quoted", "bare"):
        if store.put(b"3", IfMatch=written(store.etag_of_another, way)) == "done":
            return None, "ignores `If-Match`: it replaced what was another"
        body = f"4 {way}".encode()
        if store.put(body, IfMatch=written(store.etag(), way)) == "done" or store.held() == body:
            return way, ""
        reason = f"answers `If-Match` with the etag it gave, quoted or bare, with {store.answer}"
    return None, reason


def written(etag: str, way: str | None) -> str:
    """The etag as the store wants it in `If-Match`."""
    bare = etag.strip('"')
    return bare if way == "bare" else f'"{bare}"'


class _Prober:
    """One object, written under conditions."""

    etag_of_another = hashlib.md5(b"another", usedforsecurity=False).hexdigest()

    def __init__(self, bucket: str, key: str) -> None:
        self._at = {"Bucket": bucket, "Key": key}
        self._uri = f"s3://{bucket}/{key}"
        self.answer = ""

    def put(self, body: bytes, **condition: str) -> str:
        done, self.answer = self._tried(lambda: client().put_object(**self._at, Body=body, **condition))
        return done

    def held(self) -> bytes | None:
        held: list[bytes] = []
        self._tried(lambda: held.append(get_object(self._uri)[0]))
        return held[0] if held else None

    def etag(self) -> str:
        return str(client().head_object(**self._at)["ETag"])

    def removes(self, way: Etag) -> bool:
        """Whether a removal under a condition that does not hold is refused, and one under one that holds is done."""
        wrong = {"IfMatch": written(self.etag_of_another, way)}
        if self._tried(lambda: client().delete_object(**self._at, **wrong))[0] != "refused" or self.held() is None:
            return False
        right = {"IfMatch": written(self.etag(), way)}
        return self._tried(lambda: client().delete_object(**self._at, **right))[0] == "done"

    def remove(self) -> None:
        client().delete_object(**self._at)

    def _tried(self, request: Callable[[], Any]) -> tuple[str, str]:
        """`done`, `refused` (the condition did not hold) or `no such thing`, and the answer; anything else is raised."""
        from botocore.exceptions import ClientError

        try:
            request()
            return "done", ""
        except ClientError as error:
            status = str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
            code = str(error.response.get("Error", {}).get("Code", ""))
            answer = f"{status} {code}".strip()
            if {status, code} & _FAILED:
                return "refused", answer
            if status == "404" or {status, code} & _NO_SUCH_THING:
                return "no such thing", answer
            raise
