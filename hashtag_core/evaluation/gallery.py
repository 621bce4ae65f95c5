"""The posts of a report, as its page reads them: small records, tags and pictures by number, within a budget of bytes."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypedDict

MOST_POSTS = 5_000
MOST_TAGS = 10
"""Places of a list that are kept."""
CAPTION_CHARACTERS = 600
CAPTION_BUDGET = 3_000_000
"""Characters of all captions together; beyond it each is cut shorter."""
THUMBNAIL_BUDGET_BYTES = 16_000_000
"""Of all pictures together, in base64; a page stays below 25 MB."""
SIDES_PX = ((1_500, 160), (10**9, 112))
"""Up to so many pictures -> the longer side of each."""


class SometimesData(TypedDict, total=False):
    """`x`: the caption is longer than what is shown of it. `a`: where each model looked."""

    x: int
    a: list[str]


class PostData(SometimesData):
    """A post as `gallery.js` reads it: id, user, caption; status and slices (a bit each); true tags; the number of its thumbnail (-1:
    no picture, -2: not shown); of each model its tags and their scores in thousandths."""

    i: str
    u: str
    c: str
    s: int
    k: int
    g: list[int]
    t: int
    r: list[list[int]]
    v: list[list[int]]


class GalleryData(TypedDict):
    """What `gallery.js` reads; `known`: tags from this number on are outside the vocabulary."""

    models: list[str]
    slices: list[str]
    statuses: list[str]
    tags: list[str]
    known: int
    k: int
    posts: list[PostData]
    thumbnails: list[str]


@dataclass
class ShownPost:
    """A post of the gallery. `true` and `lists` hold numbers of tags (`Gallery.tags`); `scores` has the shape of `lists`."""

    post_id: str
    user: str | None
    caption: str | None
    status: str
    slices: int
    true: list[int]
    lists: list[list[int]]
    scores: list[list[float]]
    picture: str | None = None
    """What tells pictures apart; None where there is none."""
    looks: list[str] = field(default_factory=list)
    """Where each model looked: a digit a cell of a square grid, line by line; empty for a model that does not tell."""


@dataclass
class Gallery:
    """The posts, what their numbers mean, and the thumbnails (WebP) by what tells pictures apart."""

    models: list[str]
    slices: list[str]
    tags: list[str]
    known_tags: int
    """Tags from here on are outside the vocabulary."""
    k: int
    posts_in_all: int
    posts: list[ShownPost] = field(default_factory=list)
    thumbnails: dict[str, bytes] = field(default_factory=dict)

    def summary(self) -> str:
        """What of the split is shown."""
        if len(self.posts) == self.posts_in_all:
            return f"All {self.posts_in_all:,} posts of the split, with the first {self.k} tags of every model."
        return (
            f"{len(self.posts):,} of {self.posts_in_all:,} posts, evenly spaced over the split, with the first {self.k} tags of "
            "every model."
        )

    def data(self) -> GalleryData:
        """What `gallery.js` reads."""
        used = sorted({tag for post in self.posts for tag in (*post.true, *(tag for row in post.lists for tag in row))})
        number = {tag: index for index, tag in enumerate(used)}
        statuses = sorted({post.status for post in self.posts})
        longest = min(CAPTION_CHARACTERS, CAPTION_BUDGET // max(1, len(self.posts)))
        pictures, blobs = self._pictures()
        rows: list[PostData] = []
        for post in self.posts:
            caption = post.caption or ""
            looks: SometimesData = {"a": post.looks} if any(post.looks) else {}
            cut: SometimesData = {"x": 1} if len(caption) > longest else {}
            row: PostData = {
                "i": post.post_id,
                "u": post.user or "",
                "c": caption[:longest],
                **cut,
                "s": statuses.index(post.status),
                "k": post.slices,
                "g": [number[tag] for tag in post.true],
                "t": -1 if post.picture is None else pictures.get(post.picture, -2),
                "r": [[number[tag] for tag in row[:MOST_TAGS]] for row in post.lists],
                "v": [[round(1000 * score) for score in row[:MOST_TAGS]] for row in post.scores],
                **looks,
            }
            rows.append(row)
        return {
            "models": self.models,
            "slices": self.slices,
            "statuses": statuses,
            "tags": [self.tags[tag] for tag in used],
            "known": sum(tag < self.known_tags for tag in used),
            "k": self.k,
            "posts": rows,
            "thumbnails": blobs,
        }

    def _pictures(self) -> tuple[dict[str, int], list[str]]:
        """Each picture once, in the order of the posts, as long as the budget lasts."""
        places: dict[str, int] = {}
        blobs: list[str] = []
        left = THUMBNAIL_BUDGET_BYTES
        for post in self.posts:
            if post.picture is None or post.picture in places or post.picture not in self.thumbnails:
                continue
            blob = base64.b64encode(self.thumbnails[post.picture]).decode()
            if len(blob) <= left:
                places[post.picture] = len(blobs)
                blobs.append(blob)
                left -= len(blob)
        return places, blobs


def thumbnail_side_px(pictures: int) -> int:
    """The longer side of a thumbnail where there are so many."""
    return next(side for most, side in SIDES_PX if pictures <= most)


def shown_rows(posts: int, most: int = MOST_POSTS) -> Sequence[int]:
    """Which rows are shown: all, or `most` of them, evenly spaced."""
    return range(posts) if posts <= most else [index * posts // most for index in range(most)]
