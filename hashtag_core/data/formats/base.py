"""What a layout has to give, and what layouts share: rows into batches, pictures beside a listing, times."""

import errno
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa

from hashtag_core import storage
from hashtag_core.data.posts import PartBatch, Rejected
from hashtag_core.errors import ConfigError, NotFoundError, StorageError
from hashtag_core.schema import POST
from hashtag_core.storage import FileInfo

T = TypeVar("T")
R = TypeVar("R")

PART_ROWS = 5_000
"""Posts of one part, where the layout itself does not cut: a million posts are 200 tasks and at most 600 files."""

MAX_BATCH_BYTES = 128 << 20
"""A batch of large images has fewer rows than asked for."""

READ_THREADS = 16
"""Files that are read at once: on object storage a file is mostly waiting."""

Post = dict[str, Any]
"""Fields of POST; absent ones are null."""


@dataclass(frozen=True)
class ArchivePart(FileInfo):
    """A part that is some rows of a listing or some files of a folder; `selection` is JSON that its layout understands.

    `path` is what rejected rows and `source` name; several parts may share it, since a row's number goes on from part to part.
    """

    selection: str = ""


def selection_of(part: FileInfo) -> dict[str, Any]:
    """The selection of a part, read."""
    assert isinstance(part, ArchivePart)
    return dict(json.loads(part.selection))


def file_etag(part: FileInfo) -> str:
    """The etag that the file of a part has now."""
    return storage.file_info(part.uri).etag


@dataclass(frozen=True)
class ArchiveFormat:
    """A layout: `description` says which folder it expects.

    `list_parts(uri)` gives the parts, sorted (ArchiveError where there is none); `problem(part)` says cheaply why no post
    can come from a part, None if one can; `read(part, batch_rows)` streams it; `etag(part)` is the part's etag now.
    """

    name: str
    description: str
    list_parts: Callable[[str], Sequence[FileInfo]]
    problem: Callable[[FileInfo], str | None]
    read: Callable[[FileInfo, int], Iterator[PartBatch]]
    etag: Callable[[FileInfo], str] = field(default=file_etag)


class Fault(NamedTuple):
    """A row that is no post, and why; with `ends` the part cannot be read from here on."""

    reason: str
    post_id: str | None = None
    ends: bool = False


def batches(path: str, rows: Iterable[Post | Fault], first_row: int, batch_rows: int) -> Iterator[PartBatch]:
    """Rows of the part `path`, the first numbered `first_row`, as batches of at most `batch_rows` rows."""
    posts: list[Post] = []
    rejected: list[Rejected] = []
    row, size = first_row, 0
    for found in rows:
        if isinstance(found, Fault):
            rejected.append(Rejected(path, None if found.ends else row, found.post_id, found.reason))
            row += not found.ends
        else:
            posts.append(found)
            size += len(found.get("image") or b"")
            row += 1
        if row - first_row >= batch_rows or size >= MAX_BATCH_BYTES:
            yield PartBatch(first_row, pa.Table.from_pylist(posts, schema=POST), rejected)
            posts, rejected, first_row, size = [], [], row, 0
    if posts or rejected:
        yield PartBatch(first_row, pa.Table.from_pylist(posts, schema=POST), rejected)


def problem_in(found: Iterator[PartBatch]) -> str | None:
    """Why the first batch holds no post; None if it does."""
    first = next(found, None)
    if first is None:
        return "nothing in it"
    return None if first.posts.num_rows or not first.rejected else first.rejected[0].reason


def in_threads(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`work` of each item, in order, several at a time: for work that is mostly waiting for storage."""
    stream = iter(items)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        while some := list(itertools.islice(stream, READ_THREADS)):
            yield from pool.map(work, some)


def with_images(rows: Iterable[Post | Fault], archive: str) -> Iterator[Post | Fault]:
    """`with_image` of every row that is a post."""
    return in_threads(lambda row: row if isinstance(row, Fault) else with_image(row, archive), rows)


def with_image(post: Post, archive: str) -> Post | Fault:
    """The post, `image_uri` (a path below the archive) replaced by the bytes that are there.

    Where no file is, it keeps `image_uri` and has no image; a path that leads out of the archive makes the row a Fault.
    """
    path = post.get("image_uri")
    if not path:
        return post
    try:
        return {**post, "image": storage.read_bytes(storage.join(archive, path)), "image_uri": None}
    except NotFoundError:
        return post
    except StorageError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.EISDIR, errno.ENAMETOOLONG):
            return post
        raise
    except (ConfigError, ValueError) as error:
        return Fault(f"image: expected a path below the archive, found {path[:80]!r}: {error}", post.get("post_id"))


def etag_of(files: Iterable[FileInfo]) -> str:
    """One etag of several files: another one if a name, a size or a content is another."""
    digest = hashlib.sha256()
    for info in files:
        digest.update(repr((info.path.rpartition("/")[2], info.size, info.etag)).encode())
    return digest.hexdigest()[:32]


def etag_now(uris: Sequence[str]) -> str:
    """`etag_of` the files that are at these URIs now, in this order; of those that are still there."""

    def info(uri: str) -> list[FileInfo]:
        try:
            return [storage.file_info(uri)]
        except NotFoundError:
            return []

    return etag_of(itertools.chain.from_iterable(in_threads(info, uris)))


def read_time(name: str, value: Any) -> datetime | None:
    """An ISO 8601 time (no zone: UTC) as UTC; ValueError that names the field."""
    if value is None:
        return None
    try:
        held = datetime.fromisoformat(value)
        return held.replace(tzinfo=UTC) if held.tzinfo is None else held.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise unexpected(name, "an ISO 8601 time", value) from None


def plain(text: str) -> str:
    """Text that can be written: half a surrogate pair becomes '?'."""
    return text.encode("utf-8", "replace").decode()


def unexpected(name: str, expected: str, found: Any) -> ValueError:
    """The error of a field that is not what it should be."""
    return ValueError(f"{name}: expected {expected}, found {json.dumps(found, ensure_ascii=False)[:80]}")
