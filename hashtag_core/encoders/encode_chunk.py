"""A chunk of posts becomes files of the feature cache: read, decode, encode, write."""

import logging
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hashtag_core import storage
from hashtag_core.config import EncodersSection
from hashtag_core.data.feature_cache import FeatureCache
from hashtag_core.data.images import decode_image
from hashtag_core.data.parquet_rows import READ_BUFFER_BYTES
from hashtag_core.encoders import load_encoders
from hashtag_core.errors import ImageError

logger = logging.getLogger(__name__)

READ_ROWS = 128

Slices = list[tuple[str, int, list[int], list[int]]]
"""A chunk: (file, row group, rows whose image is wanted, rows whose caption is wanted)."""


@dataclass
class Content:
    """What a chunk holds, read and decoded."""

    image_keys: list[str] = field(default_factory=list)
    image_posts: list[str] = field(default_factory=list)
    """The posts that these images are of."""
    pixels: list[np.ndarray] = field(default_factory=list)
    caption_keys: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    posts: int = 0


@dataclass(frozen=True)
class Encoded:
    """What came of a chunk: posts encoded, contents that could not be read."""

    posts: int
    unreadable: int


class EncodeChunk:
    """In an actor: chunks in, cache files out."""

    def __init__(
        self, section: EncodersSection, lacking: frozenset[str], cache: FeatureCache, threads: int | None
    ) -> None:
        self.encoders = load_encoders(section, lacking, threads=threads, as_they_are=True)
        self.cache = cache

    def __call__(self, chunk: "Slices | Content") -> list[Encoded]:
        content = chunk if isinstance(chunk, Content) else read_chunk(chunk, self.encoders.image_side_px)
        self._write(content)
        return [Encoded(content.posts, len(content.unreadable))]

    def _write(self, content: Content) -> None:
        step = max(READ_ROWS, self.encoders.section.batch_size)
        images = [
            self.encoders.encode_images(content.pixels[n : n + step]) for n in range(0, len(content.pixels), step)
        ]
        for kind in images[0] if images else []:
            self.cache.write(kind, content.image_keys, np.concatenate([part[kind] for part in images]))
        if self.encoders.precomputed and content.image_keys:
            self._write_precomputed(content)
        captions = self.encoders.encode_captions(content.captions) if content.captions else {}
        for kind in captions.keys() & self.cache.kinds.keys():
            mask = captions.get(f"{kind}_mask")
            self.cache.write(kind, content.caption_keys, captions[kind], None if mask is None else mask.sum(1))
        image_kinds = [name for name, kind in self.cache.kinds.items() if kind.of == "image"]
        if content.unreadable:
            self.cache.write_unreadable(image_kinds[0], content.unreadable)

    def _write_precomputed(self, content: Content) -> None:
        """Regions by the posts' ids. A post that has none counts as one without an image for who reads regions."""
        found, values = self.encoders.precomputed_regions(content.image_posts)
        for kind in values.keys() & self.cache.kinds.keys():
            keys = [key for key, here in zip(content.image_keys, found, strict=True) if here]
            self.cache.write(kind, keys, values[kind][found])
        absent = {
            key: f"{self.encoders.section.regions} has no row of post {post!r}"
            for key, post, here in zip(content.image_keys, content.image_posts, found, strict=True)
            if not here
        }
        if absent:
            logger.warning("%d posts with an image have no precomputed regions: %s", len(absent), min(absent.values()))
            self.cache.write_unreadable("image_grid", absent, alone=True)


def read_chunk(chunk: Slices, side_px: int) -> Content:
    """Read the rows of a chunk and decode their images; a row group is streamed, never held whole."""
    content = Content(posts=sum(len({*images, *captions}) for *_, images, captions in chunk))
    for uri, group, images, captions in chunk:
        columns = [name for name, rows in (("image", images), ("caption", captions)) if rows]
        columns = ["post_id", *(column for name in columns for column in (name, f"{name}_key"))]
        with storage.open_input(uri) as source:
            file = pq.ParquetFile(source, pre_buffer=False, buffer_size=READ_BUFFER_BYTES)
            start, last = 0, max([*images, *captions])
            for batch in file.iter_batches(batch_size=READ_ROWS, row_groups=[group], columns=columns):
                _take(content, batch, [row - start for row in images], [row - start for row in captions], side_px)
                start += batch.num_rows
                if start > last:
                    break
    return content


def _take(content: Content, batch: pa.RecordBatch, images: list[int], captions: list[int], side_px: int) -> None:
    for row in (row for row in images if 0 <= row < batch.num_rows):
        key = batch["image_key"][row].as_py()
        try:
            if side_px:  # else no encoder looks at it
                content.pixels.append(decode_image(batch["image"][row].as_py(), side_px))
            content.image_keys.append(key)
            content.image_posts.append(batch["post_id"][row].as_py())
        except ImageError as error:
            content.unreadable[key] = str(error)
    for row in (row for row in captions if 0 <= row < batch.num_rows):
        content.captions.append(batch["caption"][row].as_py())
        content.caption_keys.append(batch["caption_key"][row].as_py())
