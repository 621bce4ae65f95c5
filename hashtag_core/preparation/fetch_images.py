"""Pictures by reference, fetched while an archive is prepared: the same places and the same words as in tagging."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hashtag_core import storage
from hashtag_core.data.dataset import HostPictures
from hashtag_core.data.formats.base import MAX_BATCH_BYTES
from hashtag_core.data.parquet_rows import PartBatch
from hashtag_core.recommend.image_uris import ImagePlaces, fetch_images

SHOWN = 3
"""Pictures that could not be had of which a part tells."""

SHOWN_HOSTS = 50
"""Hosts that a summary names: who wrote the archive may have named any number."""


@dataclass
class PictureTally:
    """What became of the pictures that posts name: the first that could not be had, each with its reason, and how many each
    host of the web gave and did not give."""

    missing: list[str] = field(default_factory=list)
    hosts: dict[str, HostPictures] = field(default_factory=dict)

    def count(self, uri: str, why: str | None) -> None:
        """One picture; `why` it could not be had, None if it could."""
        if why is not None and len(self.missing) < SHOWN:
            self.missing.append(why)
        if storage.web.is_web(uri):
            self._count_of(_host(uri), int(why is None), int(why is not None))

    def add(self, other: "PictureTally") -> None:
        """Add what another part counted."""
        self.missing += other.missing
        for host, counts in other.hosts.items():
            self._count_of(host, counts.had, counts.missing)

    def _count_of(self, host: str, had: int, missing: int) -> None:
        before = self.hosts.get(host, HostPictures(had=0, missing=0))
        self.hosts[host] = HostPictures(had=before.had + had, missing=before.missing + missing)

    def to_json(self) -> str:
        """As the footer of a converted part keeps it."""
        return json.dumps(
            {"missing": self.missing, "hosts": {host: counts.model_dump() for host, counts in self.hosts.items()}}
        )

    @classmethod
    def of_json(cls, text: str | bytes) -> "PictureTally":
        """What `to_json` wrote."""
        held = json.loads(text)
        hosts = {host: HostPictures(**counts) for host, counts in held.get("hosts", {}).items()}
        return cls(held.get("missing", []), hosts)

    def most_used(self) -> dict[str, HostPictures]:
        """The SHOWN_HOSTS hosts that posts name most, by name; the others as one, `others`."""
        by_use = sorted(self.hosts.items(), key=lambda item: (-item[1].had - item[1].missing, item[0]))
        shown, rest = dict(sorted(by_use[:SHOWN_HOSTS])), [counts for _, counts in by_use[SHOWN_HOSTS:]]
        if rest:
            shown["others"] = HostPictures(
                had=sum(counts.had for counts in rest), missing=sum(counts.missing for counts in rest)
            )
        return shown


def _host(uri: str) -> str:
    """The host of an address, with its port where it is not the usual one; `no host` where there is none."""
    try:
        parts = urlsplit(uri.strip())
        name = parts.hostname or "no host"
        return f"{name}:{parts.port}" if parts.port else name
    except ValueError:
        return "no host"


class Pictures:
    """Fetches what posts name in `image_uri`, and counts what could not be had.

    A fetched picture takes the place of its reference; one that could not be had leaves it, so that `image_uri` beside no
    `image` is a missing picture.
    """

    def __init__(self, places: ImagePlaces) -> None:
        self.places = places
        self.tally = PictureTally()

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
            if (uri := wanted[row] or "").strip():
                self.tally.count(uri, why if data is None else None)
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
    image_column = posts["image"].combine_chunks()
    reference = posts["image_uri"].combine_chunks()
    found = fetched.is_valid()
    columns = {
        "image": pa.chunked_array([pc.if_else(found, fetched, image_column)]),
        "image_uri": pa.chunked_array([pc.if_else(found, pa.scalar(None, pa.string()), reference)]),
    }
    for name, column in columns.items():
        posts = posts.set_column(posts.schema.get_field_index(name), posts.schema.field(name), column)
    return PartBatch(first, posts, rejected)


def count_missing(posts: pa.Table) -> int:
    """Posts that name a picture and have none."""
    named = pc.not_equal(pc.utf8_trim_whitespace(pc.fill_null(posts["image_uri"], "")), "")
    return int(pc.sum(pc.and_(named, posts["image"].is_null())).as_py() or 0)
