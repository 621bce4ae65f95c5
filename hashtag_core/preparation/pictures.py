"""Pictures by reference, fetched while an archive is prepared: the same places and the same words as in tagging."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hashtag_core.data.formats.base import MAX_BATCH_BYTES
from hashtag_core.data.posts import PartBatch
from hashtag_core.recommend.images import ImagePlaces, fetch_images

SHOWN = 3
"""Pictures that could not be had of which a part tells."""


class Pictures:
    """Fetches what posts name in `image_uri`, and counts what could not be had.

    A fetched picture takes the place of its reference; one that could not be had leaves it, so that `image_uri` beside no
    `image` is a missing picture.
    """

    def __init__(self, places: ImagePlaces) -> None:
        self.places = places
        self.missing: list[str] = []
        """The first SHOWN, each with its reason."""

    def fetched(self, batches: Iterator[PartBatch]) -> Iterator[PartBatch]:
        """The batches with their pictures; one whose pictures pass MAX_BATCH_BYTES comes in several pieces."""
        for batch in batches:
            wanted = self._wanted(batch)
            if any(uri is not None for uri in wanted):
                yield from self._filled(batch, wanted)
            else:
                yield batch

    def _wanted(self, batch: PartBatch) -> list[str | None]:
        if batch.posts["image_uri"].null_count == batch.posts.num_rows:
            return []
        without = np.asarray(batch.posts["image"].is_null())
        return [uri if need else None for uri, need in zip(batch.posts["image_uri"].to_pylist(), without, strict=True)]

    def _filled(self, batch: PartBatch, wanted: list[str | None]) -> Iterator[PartBatch]:
        images, size, begin = list[bytes | None](), 0, 0
        for row, (data, why) in enumerate(fetch_images(wanted, self.places)):
            if data is None and (wanted[row] or "").strip() and len(self.missing) < SHOWN:
                self.missing.append(why)
            images.append(data)
            size += len(data or b"")
            if size >= MAX_BATCH_BYTES:
                yield _piece(batch, begin, images, last=row + 1 == len(wanted))
                images, size, begin = [], 0, row + 1
        if begin < len(wanted):
            yield _piece(batch, begin, images, last=True)


def _piece(batch: PartBatch, begin: int, images: list[bytes | None], *, last: bool) -> PartBatch:
    """Posts `begin` to `begin + len(images)` of a batch with these images, and the rejected rows between them."""
    end, rows = begin + len(images), batch.rows
    first = batch.first_row if begin == 0 else int(rows[begin])
    after = None if last else int(rows[end])
    rejected = [
        item
        for item in batch.rejected
        if (item.row is None and last)
        or (item.row is not None and first <= item.row and (after is None or item.row < after))
    ]
    posts = batch.posts.slice(begin, len(images))
    fetched = pa.array(images, pa.binary())
    held = posts["image"].combine_chunks()
    reference = posts["image_uri"].combine_chunks()
    found = fetched.is_valid()
    columns = {
        "image": pa.chunked_array([pc.if_else(found, fetched, held)]),
        "image_uri": pa.chunked_array([pc.if_else(found, pa.scalar(None, pa.string()), reference)]),
    }
    for name, column in columns.items():
        posts = posts.set_column(posts.schema.get_field_index(name), posts.schema.field(name), column)
    return PartBatch(first, posts, rejected)


def count_missing(posts: pa.Table) -> int:
    """Posts that name a picture and have none."""
    named = pc.not_equal(pc.utf8_trim_whitespace(pc.fill_null(posts["image_uri"], "")), "")
    return int(pc.sum(pc.and_(named, posts["image"].is_null())).as_py() or 0)
