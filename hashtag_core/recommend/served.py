"""A model behind a service: rows as they come over HTTP in, TAGGED rows out; and the golden outputs of a model.

What a data frame says in its own way (NaN, base64 text, an ISO date) becomes a post, and the posts take the path that
bulk tagging takes.
"""

import base64
import binascii
import math
import struct
import threading
import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np

from hashtag_core.errors import ConfigError
from hashtag_core.recommend.recommender import Recommender
from hashtag_core.schema import POST, PostRow

if TYPE_CHECKING:
    from pandas import DataFrame

GOLDEN_TAGS = 10
GOLDEN_SIDE_PX = 64


class ServedModel:
    """One model for many callers at once: they take turns, since tokenizers are no good for two threads."""

    def __init__(self, model: str, **how: Any) -> None:
        self.recommender = Recommender.load(model, **how)
        self._lock = threading.Lock()

    def predict(self, frame: "DataFrame", top_k: int = 10) -> "DataFrame":
        """The TAGGED rows of posts, in their order. ConfigError for a row that is no post, naming row and field."""
        posts = [post_of(row, index) for index, row in enumerate(frame.to_dict("records"))]
        with self._lock:
            # alone, as a caller's own post comes: what else is in a batch changes the last digits of a score
            tagged = self.recommender.recommend(posts, top_k=int(top_k))
        frame = tagged.to_pandas()
        frame["detail"] = [None if detail is None else str(detail) for detail in tagged["detail"].to_pylist()]
        return frame.astype({"detail": object})


def post_of(row: Mapping[str, Any], index: int = 0) -> PostRow:
    """A post from a row of a data frame: absent values leave, base64 becomes bytes, a date becomes a timestamp."""
    unknown = next((name for name in row if name not in POST.names), None)
    if unknown is not None:
        raise ConfigError(f"row {index}: no field {unknown!r} in a post; there are {', '.join(POST.names)}")
    values = {name: _value(name, value, index) for name, value in row.items() if not _absent(value)}
    return cast(PostRow, values)


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or str(value) in ("NaT", "<NA>")


def _value(name: str, value: Any, index: int) -> Any:
    if name == "image" and isinstance(value, str):
        try:
            return base64.b64decode("".join(value.split()), validate=True)
        except binascii.Error as error:
            raise ConfigError(f"row {index}: image: base64 or bytes expected: {error}") from None
    if name == "created_at" and isinstance(value, str | datetime):
        try:
            moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        except ValueError:
            raise ConfigError(f"row {index}: created_at: ISO 8601 expected, found {value!r}") from None
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if isinstance(value, bytearray | np.bytes_):
        return bytes(value)
    return list(value) if isinstance(value, np.ndarray | tuple) else value


class GoldenPost(TypedDict, total=False):
    """A fixed post; its picture is base64."""

    post_id: str
    user_id: str
    caption: str
    image: str


class GoldenTags(TypedDict):
    """What the model gave to it."""

    post_id: str
    hashtags: list[str]
    scores: list[float]


class GoldenOutputs(TypedDict):
    """`golden.json`."""

    posts: list[GoldenPost]
    tagged: list[GoldenTags]


def golden_outputs(recommender: Recommender, posts: Sequence[GoldenPost] | None = None) -> GoldenOutputs:
    """What a model gives to fixed posts, JSON-able.

    A model that is loaded elsewhere, or with other versions of libraries, has to give the same: `golden_difference`.
    """
    fixed = [post.copy() for post in (_golden_posts() if posts is None else posts)]
    opened = [post_of(post, index) for index, post in enumerate(fixed)]
    tagged = recommender.recommend(opened, top_k=GOLDEN_TAGS).to_pylist()
    kept: list[GoldenTags] = [
        {"post_id": row["post_id"], "hashtags": row["hashtags"], "scores": row["scores"]} for row in tagged
    ]
    return {"posts": fixed, "tagged": kept}


def golden_difference(recommender: Recommender, golden: GoldenOutputs) -> float:
    """The greatest difference of a score to the golden outputs, by tag; a tag that is missing differs by its score less
    the lowest one given. ConfigError where `golden` is not what `golden_outputs` makes."""
    try:
        expected, posts = golden["tagged"], golden["posts"]
        found = golden_outputs(recommender, posts)["tagged"]
        worst = 0.0
        for before, now in zip(expected, found, strict=True):
            scores = dict(zip(now["hashtags"], now["scores"], strict=True))
            lowest = min(scores.values(), default=0.0)
            for tag, score in zip(before["hashtags"], before["scores"], strict=True):
                worst = max(worst, abs(score - scores.get(tag, lowest)))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"golden outputs cannot be read: {error!r}") from None
    return worst


def _golden_posts() -> list[GoldenPost]:
    """Posts of every kind that a model meets: with picture and caption, one of them, and neither."""
    side = GOLDEN_SIDE_PX
    rows = b"".join(
        b"\0" + bytes(part for x in range(side) for part in (4 * x, 4 * y, (x * y) % 256)) for y in range(side)
    )
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    image = base64.b64encode(png).decode()
    return [
        {"post_id": "golden-0", "caption": "a red sports car in the sun", "image": image, "user_id": "golden"},
        {"post_id": "golden-1", "caption": "ice cream on the beach with friends"},
        {"post_id": "golden-2", "image": image},
        {"post_id": "golden-3"},
    ]
