"""The Arrow schemas that archives, datasets, tagged output and caches are written in.

The only place that spells a column. A reader accepts any column order, absent optional columns and wider types
(`large_string`, dictionary, other timestamp units); what it hands on has exactly these types.
"""

from datetime import datetime
from typing import TypedDict

import pyarrow as pa

TIMESTAMP = pa.timestamp("us", tz="UTC")

POST = pa.schema(
    [
        pa.field("post_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string()),
        pa.field("created_at", TIMESTAMP),
        pa.field("caption", pa.string()),
        pa.field("hashtags", pa.list_(pa.string())),
        pa.field("image", pa.binary()),
        pa.field("image_uri", pa.string()),
        pa.field("latitude", pa.float64()),
        pa.field("longitude", pa.float64()),
    ]
)
"""One post of an archive. All but `post_id` may be null or absent."""


class PostRow(TypedDict, total=False):
    """A row of POST as Python values: all but `post_id` may be None or absent."""

    post_id: str
    user_id: str | None
    created_at: datetime | None
    caption: str | None
    hashtags: list[str] | None
    image: bytes | None
    image_uri: str | None
    latitude: float | None
    longitude: float | None


PREPARED = pa.schema(
    [
        *POST,
        pa.field("image_key", pa.string()),
        pa.field("caption_key", pa.string()),
        pa.field("source", pa.string()),
    ]
)
"""One post of a dataset: the caption is cleaned, the hashtags are found and normalised (all of them, in the author's
order, inside the vocabulary or not). `image_key` and `caption_key` are the SHA-256 (hex) of the image bytes and of the
cleaned caption in UTF-8, null where there is none; `source` is `<archive part>#<row>`."""

TAGGED = pa.schema(
    [
        pa.field("post_id", pa.string(), nullable=False),
        pa.field("hashtags", pa.list_(pa.string()), nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("detail", pa.string()),
        pa.field("model_name", pa.string(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
    ]
)
"""One tagged post: hashtags best first, scores in [0, 1] and not increasing, `detail` null when `status` is `ok`."""


class TaggedRow(TypedDict):
    """A row of TAGGED as Python values."""

    post_id: str
    hashtags: list[str]
    scores: list[float]
    status: str
    detail: str | None
    model_name: str
    model_version: str


PROVENANCE = pa.schema(
    [
        pa.field("created_at", TIMESTAMP),
        pa.field("part", pa.string(), nullable=False),
        pa.field("part_version", pa.string(), nullable=False),
        pa.field("part_row", pa.int64(), nullable=False),
        pa.field("content", pa.int64()),
        pa.field("history", pa.int64()),
        pa.field("user_key", pa.string()),
    ]
)
"""Where a tagged post came from: part, version and row of the archive. `content` is a hash of what was tagged and `history`
one of the posts that its tags were given with (null without a history): equal ones are not tagged again. `user_key` is the
salted hash of the user id by which users are forgotten."""

TABLE = pa.schema([*TAGGED, *PROVENANCE])
"""A row of the output table, but for its partition columns."""

STATUSES = ("ok", "image_missing", "image_unreadable", "caption_missing", "empty")
"""What `status` may hold. `empty`: neither a usable image nor a caption."""

RANKED = pa.schema(
    [
        pa.field("post_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string()),
        pa.field("true_hashtags", pa.list_(pa.string()), nullable=False),
        pa.field("hashtags", pa.list_(pa.string()), nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
        pa.field("hits", pa.list_(pa.bool_()), nullable=False),
        pa.field("status", pa.string(), nullable=False),
    ]
)
"""One post of a split as a model ranked it, in the report of `evaluate`; the three last lists have one length."""

REJECTED = pa.schema(
    [
        pa.field("part", pa.string(), nullable=False),
        pa.field("row", pa.int64()),
        pa.field("post_id", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""A row (or, with `row` null, a whole part) that is no post. Written as JSON lines."""


REJECTED_TABLE = pa.schema(
    [
        *REJECTED,
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("part_version", pa.string(), nullable=False),
        pa.field("created_at", TIMESTAMP),
        pa.field("user_key", pa.string()),
    ]
)
"""A line of the table of rejected rows, but for its partition columns. It stands for `rows` rows from `row` on, more than one
where they could not even be read; `row` null: the whole part, `rows` then 1 or what its footer counts."""


class RejectedLine(TypedDict):
    """A line of REJECTED_TABLE as Python values."""

    part: str
    row: int | None
    post_id: str | None
    reason: str
    rows: int
    part_version: str
    created_at: int | None
    """Microseconds since 1970."""
    user_key: str | None


RECORDS = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("sequence", pa.int64(), nullable=False),
        pa.field("value", pa.string()),
    ]
)
"""A record of the output's state, but for its partition columns: the one with the greatest `sequence` counts; `value` is
JSON, null where the record was removed."""


def features(dim: int, rows: int | None = None) -> pa.Schema:
    """The cache of one encoder output: `key` (SHA-256 of the content, hex) and the value, float16 in little-endian
    order, row-major, as bytes: 5 times faster to write and 3 times to read than a list of numbers in Parquet.

    `rows` is None for one vector of `dim`; else the value is `rows * dim` numbers (a grid) or, where `rows` is 0, any
    multiple of `dim` (token states of one caption).
    """
    value = pa.binary() if rows == 0 else pa.binary(2 * dim * (rows or 1))
    return pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("value", value, nullable=False)])
