"""What the first posts of an archive hold, told by a dry run: whether there is anything to learn from."""

import logging
from dataclasses import dataclass
from itertools import islice

from hashtag_core import storage
from hashtag_core.data.hashtags import find_hashtags
from hashtag_core.data.open_archive import Archive
from hashtag_core.errors import HashtagError

logger = logging.getLogger(__name__)

LOOKED_AT = 50


@dataclass(frozen=True)
class FirstLook:
    """Counts of `posts` posts."""

    posts: int
    captions: int
    hashtags: int
    named: int
    """With bytes, a path or an address of a picture."""
    missing: int
    """With a path at which nothing is."""

    def tell(self, archive: str) -> None:
        """Log it; a warning where nothing could be learned."""
        logger.info(
            "%s: of the first %d post(s) %d have a caption, %d hashtags, %d a picture%s",
            archive, self.posts, self.captions, self.hashtags, self.named - self.missing,
            f" ({self.missing} more name one that is not there)" if self.missing else "",
        )  # fmt: skip
        if not self.hashtags:
            logger.warning(
                "%s: none of the first %d post(s) has a hashtag, in its caption or in a column: nothing can be learned from such "
                "posts (--map caption=COLUMN, --map hashtags=COLUMN)", archive, self.posts,
            )  # fmt: skip
        if self.named and self.missing == self.named:
            logger.warning(
                "%s: none of the pictures that the first %d post(s) name is there: paths begin at the archive's folder",
                archive, self.posts,
            )  # fmt: skip


def look_at_first(archive: Archive) -> FirstLook | None:
    """Read the first posts of the first part that has any, and look whether pictures named by a path are there; addresses are not asked.
    None where they cannot be read: the run itself says why."""
    try:
        batches = archive.read(archive.first_readable(), LOOKED_AT)
        posts = next((batch.posts.to_pylist() for batch in islice(batches, 20) if batch.posts.num_rows), None)
        if posts is None:
            return None
        named = [post for post in posts if post.get("image") or post.get("image_uri")]
        paths = [post["image_uri"] for post in named if not post.get("image") and "://" not in post["image_uri"]]
        missing = sum(not storage.exists(storage.join(archive.root, path)) for path in paths)
    except HashtagError as error:
        logger.debug("%s: not looked at: %s", archive.uri, error)
        return None
    captions = [post.get("caption") or "" for post in posts]
    tagged = sum(
        bool(post.get("hashtags") or find_hashtags(caption)) for post, caption in zip(posts, captions, strict=True)
    )
    return FirstLook(len(posts), sum(bool(caption) for caption in captions), tagged, len(named), missing)
