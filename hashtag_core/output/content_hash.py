"""By what a post is known whose tags are kept: equal content is not tagged again."""

import hashlib
from collections.abc import Sequence

import pyarrow as pa

CONTENT_COLUMNS = ("user_id", "caption", "image", "image_uri")
"""What the content hash of a post is of, beside its id."""


def content_hashes(posts: pa.Table) -> list[int]:
    """Of each post a hash of all that its tags depend on, but for its history: 64 bits, signed, never 0."""
    columns = [posts[name].to_pylist() for name in ("post_id", *CONTENT_COLUMNS)]
    return [_content_hash(values) for values in zip(*columns, strict=True)]


def _content_hash(values: Sequence[str | bytes | None]) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for value in values:
        encoded = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        digest.update(b"-" if encoded is None else len(encoded).to_bytes(8, "little"))
        digest.update(encoded or b"")
    return int.from_bytes(digest.digest(), "little", signed=True) or 1
