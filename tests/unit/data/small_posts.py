"""Posts given as a few words, as the index of prepare has them."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from hashtag_core.config import SplitSection, VocabularySection
from hashtag_core.data.dataset_rows import INDEX
from hashtag_core.data.decide_splits import Partition, partition_posts

ANY = VocabularySection(min_count=1)


def reasons_of(part: Partition) -> list[str]:
    return part.reasons(np.arange(len(part.split_of)))


def index_of(posts: list[dict[str, Any]]) -> pa.Table:
    """INDEX rows of posts given as id, user, day, caption (words) and image (name, and perceptual hash)."""
    rows = []
    for number, post in enumerate(posts):
        caption, image = post.get("caption"), post.get("image")
        tags = post.get("tags", ["t"])
        rows.append(
            {
                "part": post.get("part", 0),
                "row": number,
                "post_id": post["id"],
                "user_id": post.get("user"),
                "created_at": None if post.get("day") is None else post["day"] * 86_400_000_000,
                "hashtags": tags,
                "words": len((caption or "").split()),
                "caption_key": hashlib.sha256(caption.encode()).digest() if caption else None,
                "caption_hash": int.from_bytes(hashlib.sha256(caption.encode()).digest()[:7], "big")
                if caption
                else None,
                "caption_words": len((caption or "").split()),
                "image_key": hashlib.sha256(image.encode()).digest() if image else None,
                "image_hash": post.get("hash", sum(map(ord, image)) if image else None),
                "image_too_large": False,
                "content_hash": hashlib.sha256(
                    repr((post.get("user"), post.get("day"), caption, image, tags)).encode()
                ).digest(),
            }
        )
    return pa.Table.from_pylist(rows, schema=INDEX)


def split_of(
    posts: list[dict[str, Any]],
    vocabulary: VocabularySection = ANY,
    tests: int = 0,
    min_words: int = 0,
    deny: frozenset[str] = frozenset(),
    **split: Any,
) -> Partition:
    """The last `tests` posts are the test archive."""
    from_test = np.arange(len(posts)) >= len(posts) - tests
    return partition_posts(index_of(posts), from_test, SplitSection(**split), vocabulary, min_words, deny)


def many(count: int, **fields: Callable[[int], Any] | Any) -> list[dict[str, Any]]:
    return [
        {
            "id": f"m{n}",
            "day": n,
            "caption": f"caption of {n}",
            **{key: value(n) if callable(value) else value for key, value in fields.items()},
        }
        for n in range(count)
    ]
