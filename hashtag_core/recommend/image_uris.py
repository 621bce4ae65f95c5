"""Images by reference: which places an `image_uri` may name, and the bytes that are there.

A reference is content that strangers wrote, so it reaches nothing but what the operator named: the archive, its bucket,
and `[tagging] image_prefixes`. `https://` addresses are fetched from the hosts that `[archive] image_hosts` names, by default from
none: names resolve to what the asker likes (link-local addresses too), answers redirect, and a run depends on the weather;
pictures that are to be tagged every night are better copied to a bucket.
"""

import os
import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from hashtag_core import storage
from hashtag_core.config import ArchiveSection, Recipe
from hashtag_core.errors import ConfigError, HashtagError
from hashtag_core.faults import is_machine

FETCHES = 8
"""Images that are fetched at once; also how many wait in memory to be looked at."""

TIMEOUT_S = 15
"""For a part of an answer: one picture is not worth the patience that a part of the archive is."""

NO_IMAGE = "no image"
NOT_FETCHED = "image_uri not fetched: "
"""How `detail` begins where there is a reference and its bytes could not be had."""

TOLD_CHARACTERS = 300
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


@dataclass(frozen=True)
class ImagePlaces:
    """Where images may come from: the archive, and below `prefixes` (folders or `s3://` prefixes; None: the archive's own
    bucket, if it has one), and from `hosts` of the web, as `storage.web.Host` has them."""

    archive: str | None = None
    prefixes: tuple[str, ...] | None = None
    max_bytes: int = ArchiveSection().max_image_bytes
    hosts: tuple[str, ...] = ()

    @classmethod
    def of(cls, archive: str | None, recipe: Recipe) -> "ImagePlaces":
        """Where a recipe lets the pictures of an archive come from. ConfigError for a host that is none."""
        prefixes, section = recipe.tagging.image_prefixes, recipe.archive
        for entry in section.image_hosts:
            storage.web.Host.of(entry)
        return cls(
            archive, None if prefixes is None else tuple(prefixes), section.max_image_bytes, tuple(section.image_hosts)
        )

    def locate(self, uri: str) -> str:
        """The place in files or on S3 that a reference names: `s3://`, an absolute path (`file://` or not), or a path below the archive.

        ConfigError for another scheme, a place that is not allowed, and a path that leads out of every allowed folder,
        also by `..` or by a link.
        """
        if uri.startswith("s3://"):
            if ".." in uri.split("/") or not any((uri + "/").startswith(prefix) for prefix in self._remote):
                raise ConfigError(f"{_shown(uri)} is neither in the archive's bucket nor below tagging.image_prefixes")
            return uri
        path = uri.removeprefix("file://")
        if _SCHEME.match(path) or (self.archive is None and not self._local):
            raise ConfigError(f"{_shown(uri)}: expected s3:// or a path below the archive")
        if self.archive is not None and storage.is_remote(self.archive) and not os.path.isabs(path):
            return storage.join(self.archive, path)
        return self._below(uri, path)

    def _below(self, uri: str, path: str) -> str:
        if "\0" in path:
            raise ConfigError(f"{_shown(uri)}: a path without a null character expected")
        roots = [os.path.realpath(root) for root in self._local]
        base = roots[0] if roots and self.archive is not None and not storage.is_remote(self.archive) else None
        if base is None and not os.path.isabs(path):
            raise ConfigError(f"{_shown(uri)}: a relative path, and no archive that it is in")
        found = os.path.realpath(os.path.join(base or "/", path))
        if not any(os.path.commonpath([root, found]) == root for root in roots):
            raise ConfigError(f"{_shown(uri)} leads out of the archive and of tagging.image_prefixes")
        if os.path.exists(found) and not os.path.isfile(found):
            raise ConfigError(f"{_shown(uri)} is no regular file")
        return found

    @property
    def _local(self) -> list[str]:
        """Allowed folders, a local archive first."""
        places = [location for location in (self.archive, *(self.prefixes or ())) if location is not None]
        return [storage.local_path(location) for location in places if not storage.is_remote(location)]

    @property
    def _remote(self) -> list[str]:
        """Allowed prefixes, each to its last slash: `s3://photos` does not allow `s3://photos-of-others`."""
        places = [
            location for location in (self.archive, *(self.prefixes or ())) if location and storage.is_remote(location)
        ]
        if self.prefixes is None:
            places = ["/".join(location.split("/")[:3]) for location in places]
        return [location.rstrip("/") + "/" for location in places]


def fetch_image(uri: str, places: ImagePlaces) -> bytes:
    """The bytes behind an `image_uri`.

    ConfigError as `ImagePlaces.locate` and `storage.web.read`; NotFoundError, ImageError and StorageError as these and
    `storage.read_bytes`, after retries.
    """
    if storage.web.is_web(uri):
        return storage.web.read(uri, places.hosts, places.max_bytes, TIMEOUT_S)
    return storage.read_bytes(places.locate(uri), max_bytes=places.max_bytes, timeout_s=TIMEOUT_S)


def fetch_images(uris: Sequence[str | None], places: ImagePlaces) -> Iterator[tuple[bytes | None, str]]:
    """For each reference in order its bytes, or None and why. Null and blank ones are no reference.

    Fetched in parallel, and no further ahead of who takes them than `FETCHES`, so memory holds that many at most.
    StorageError where the storage failed, after its retries: that says nothing of the picture.
    """

    def fetch(uri: str) -> tuple[bytes | None, str]:
        try:
            return fetch_image(uri, places), ""
        except (HashtagError, ValueError) as error:
            if is_machine(error):
                raise
            detail = f"{NOT_FETCHED}{error}"
            half = TOLD_CHARACTERS // 2 - 2
            return None, detail if len(detail) <= TOLD_CHARACTERS else f"{detail[:half]}...{detail[-half:]}"

    named = (uri for uri in uris if uri and uri.strip())
    with ThreadPoolExecutor(FETCHES) as pool:
        ahead = deque(pool.submit(fetch, uri) for uri in islice(named, FETCHES))
        for uri in uris:
            if not (uri and uri.strip()):
                yield None, NO_IMAGE
                continue
            fetched = ahead.popleft().result()
            ahead.extend(pool.submit(fetch, following) for following in islice(named, 1))
            yield fetched


def _shown(uri: str) -> str:
    return repr(uri if len(uri) <= TOLD_CHARACTERS // 3 else uri[: TOLD_CHARACTERS // 3] + "...")
