"""Posts on their way to a model: the columns that are read of them, captions cleaned, images decoded, and what is missing
or broken in each noted. Needs no model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import pyarrow as pa

from hashtag_core.config import CaptionsSection
from hashtag_core.data.captions import clean_caption
from hashtag_core.data.images import decode_image
from hashtag_core.data.parquet_rows import normalise_posts
from hashtag_core.errors import ArchiveError, ConfigError, ImageError
from hashtag_core.recommend.image_uris import ImagePlaces, fetch_images
from hashtag_core.recommend.notebook_tables import Posts, as_table
from hashtag_core.schema import POST

READ = pa.schema([POST.field(name) for name in ("post_id", "user_id", "caption", "image", "image_uri")])
"""What is read of a post."""

READ_WITH_HISTORY = pa.schema([*READ, POST.field("created_at"), POST.field("hashtags")])
"""What is read of a post for a model that reads the history."""

CHECK_SIDE_PX = 64
"""Side that an image is decoded to when the model does not look at it and only its status is wanted."""


@dataclass
class OpenedPosts:
    """Posts with clean captions and decoded images (uint8 [side, side, 3]); None where there is none.

    `statuses` and `details` say what is missing or broken, as the TAGGED schema does.
    """

    post_ids: list[str] = field(default_factory=list)
    user_ids: list[str | None] = field(default_factory=list)
    captions: list[str | None] = field(default_factory=list)
    images: list[np.ndarray | None] = field(default_factory=list)
    image_keys: list[str | None] = field(default_factory=list)
    """Keys of images that a cache holds the features of; their pixels are not decoded."""
    statuses: list[str] = field(default_factory=list)
    details: list[str | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.post_ids)

    def extend(self, other: "OpenedPosts") -> None:
        """Append the posts of another."""
        for item in fields(self):
            getattr(self, item.name).extend(getattr(other, item.name))

    def select(self, rows: Sequence[int]) -> "OpenedPosts":
        """Those rows alone."""
        return OpenedPosts(**{item.name: [getattr(self, item.name)[row] for row in rows] for item in fields(self)})


def normalised(posts: Posts, where: str, schema: pa.Schema) -> pa.Table:
    """The columns of `schema` of the posts; ConfigError, headed by `where`, for a row that is no post."""
    table = as_table(posts, where, schema)
    try:
        found, rejected = normalise_posts(table, schema=schema)
    except ArchiveError as error:
        raise ConfigError(f"{where}{error}") from None
    if rejected:
        raise ConfigError(f"{where}row {rejected[0].row} is no post: {rejected[0].reason}")
    return found


def open_posts(
    posts: pa.Table,
    places: ImagePlaces,
    captions: CaptionsSection,
    side_px: int,
    known: Mapping[int, tuple[str | None, str | None]],
) -> OpenedPosts:
    """Clean the captions and decode the images of a table with at least the columns of `READ`.

    `side_px`: of the square that images are decoded to; 0 for a model that does not look at them. `known`: row -> key of an
    image whose features are cached, or None and why it is unreadable; neither is decoded. A post with bytes is not asked
    for its `image_uri`.
    """
    values = {name: posts[name].to_pylist() for name in READ.names}
    wanted = [uri if data is None else None for data, uri in zip(values["image"], values["image_uri"], strict=True)]
    fetched = fetch_images(wanted, places)
    opened = OpenedPosts(post_ids=values["post_id"], user_ids=values["user_id"])
    for row, raw in enumerate(values["caption"]):
        found, why_missing = next(fetched)
        data = found if values["image"][row] is None else values["image"][row]
        key, fault = known.get(row, (None, None))
        pixels, image_status = None, "ok"
        if data is None:
            image_status, fault = "image_missing", why_missing
        elif fault is not None:
            image_status = "image_unreadable"
        elif key is None:
            try:
                pixels = decode_image(data, side_px or CHECK_SIDE_PX, quoted=found is None)
            except ImageError as error:
                image_status, fault = "image_unreadable", str(error)
        caption = clean_caption(raw, captions)
        status, detail = _status(image_status, fault, raw, caption)
        opened.captions.append(caption)
        opened.images.append(pixels)
        opened.image_keys.append(key)
        opened.statuses.append(status)
        opened.details.append(detail)
    return opened


def _status(image: str, fault: str | None, raw: str | None, caption: str | None) -> tuple[str, str | None]:
    """Status and detail of a post. Without a usable image and caption it is `empty`; else the one that fails names it."""
    if caption is not None:
        return image, fault
    no_caption = "nothing is left of the caption" if raw and raw.strip() else "no caption"
    return ("caption_missing", no_caption) if image == "ok" else ("empty", f"{fault}; {no_caption}")
