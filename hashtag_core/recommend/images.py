"""Images by reference: which places an `image_uri` may name, and the bytes that are there."""

import os
import re

from hashtag_core import storage
from hashtag_core.errors import ConfigError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def fetch_image(uri: str, archive: str | None) -> bytes:
    """The bytes behind an `image_uri`: an `s3://` object, or a path below the archive (absolute, or relative to it).

    ConfigError for any other place (another scheme, a path that leads out of the archive, also by a link, or a path
    with no archive); NotFoundError and StorageError as `storage.read_bytes`.
    """
    if uri.startswith("s3://"):
        return storage.read_bytes(uri)
    path = uri.removeprefix("file://")
    if _SCHEME.match(path) or archive is None:
        raise ConfigError(f"image_uri {uri!r}: expected s3:// or a path below the archive")
    if storage.is_remote(archive):
        return storage.read_bytes(storage.join(archive, path))
    root = os.path.realpath(storage.local_path(archive))
    found = os.path.realpath(os.path.join(root, path))
    if os.path.commonpath([root, found]) != root:
        raise ConfigError(f"image_uri {uri!r} leads out of the archive")
    return storage.read_bytes(found)
