"""What a layout has to give, and what layouts share: rows into batches, pictures beside a listing, times."""

import errno
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar
from unicodedata import normalize
from urllib.parse import unquote

import pyarrow as pa

from hashtag_core import storage
from hashtag_core.data.list_parts import Listing
from hashtag_core.data.parquet_rows import PartBatch, Rejected
from hashtag_core.data.reading_options import AS_IT_IS, Reading
from hashtag_core.errors import ConfigError, NotFoundError, StorageError
from hashtag_core.schema import POST
from hashtag_core.storage import FileInfo

T = TypeVar("T")
R = TypeVar("R")

PART_ROWS = 5_000
"""Posts of one part, where the layout itself does not cut: a million posts are 200 tasks and at most 600 files."""

MAX_BATCH_BYTES = 128 << 20
"""A batch of large images has fewer rows than asked for."""

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|(?:data|file):")
"""How a URI begins that is no path below the archive."""

LOOKED_AT_ROWS = 1_000
"""Rows of a part that are tried before it is said that no post can come from it."""

READ_THREADS = 16
"""Files that are read at once: on object storage a file is mostly waiting."""

Columns = Sequence[str] | None
"""Fields of POST that are wanted (`post_id` comes always); None: all. Without `image` no picture is read."""

Post = dict[str, Any]
"""Fields of POST by name, absent ones are null: written and read field by field (`values.READERS`), checked by `batches`."""


@dataclass(frozen=True)
class ArchivePart(FileInfo):
    """A part that is some rows of a listing or some files of a folder; `selection` is JSON that its layout understands.

    `path` is what rejected rows and `source` name; several parts may share it, since a row's number goes on from part to part.
    """

    selection: str = ""


def selection_of(part: FileInfo) -> Any:
    """The selection of a part, read. Each layout gives it a type where it asks for it."""
    assert isinstance(part, ArchivePart)
    return json.loads(part.selection)


def file_etag(part: FileInfo) -> str:
    """The etag that the file of a part has now."""
    return storage.file_info(part.uri).etag


@dataclass(frozen=True)
class ArchiveFormat:
    """A layout: `description` says which folder it expects.

    `survey(uri, reading)` lists the parts, sorted, and tallies every file; a part holds all that reading it needs.
    `problem(part)` says cheaply why no post can come from a part, None if one can; `read(part, batch_rows, columns=None)` streams
    it, the same rows whatever columns are asked for; `etag(part)` is the part's etag now.
    """

    name: str
    description: str
    survey: Callable[[str, Reading], Listing[Any]]
    problem: Callable[[FileInfo], str | None]
    read: Callable[..., Iterator[PartBatch]]
    etag: Callable[[FileInfo], str] = field(default=file_etag)

    def list_parts(self, uri: str, reading: Reading = AS_IT_IS) -> Sequence[Any]:
        """The parts; ArchiveError where there is none, NotFoundError where nothing is."""
        return self.survey(uri, reading).required_parts()


def walk_seen(uri: str) -> Iterator[tuple[str, list[FileInfo]]]:
    """As `storage.walk_folders`, with names that begin with `_` (accounts, shortcodes and cameras have them) but without those
    that begin with `.` and what a Mac packs beside its files."""
    for folder, files in storage.walk_folders(uri, hidden=True):
        steps = folder.split("/") if folder else []
        if not any(step[:1] == "." or step == "__MACOSX" for step in steps):
            seen = [info for info in files if info.path.rpartition("/")[2][:1] != "."]
            if seen:
                yield folder, seen


class Fault(NamedTuple):
    """A row that is no post, and why; with `ends` the part cannot be read from here on."""

    reason: str
    post_id: str | None = None
    ends: bool = False


def wants_pictures(columns: Columns) -> bool:
    """Whether pictures have to be read."""
    return columns is None or "image" in columns


def batches(
    path: str, rows: Iterable[Post | Fault], first_row: int, batch_rows: int, columns: Columns = None
) -> Iterator[PartBatch]:
    """Rows of the part `path`, the first numbered `first_row`, as batches of at most `batch_rows` rows."""
    schema = pa.schema([field for field in POST if columns is None or field.name in {*columns, "post_id"}])
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
            yield PartBatch(first_row, pa.Table.from_pylist(posts, schema=schema), rejected)
            posts, rejected, first_row, size = [], [], row, 0
    if posts or rejected:
        yield PartBatch(first_row, pa.Table.from_pylist(posts, schema=schema), rejected)


def problem_in(found: Iterator[PartBatch]) -> str | None:
    """Why there is no post among the first LOOKED_AT_ROWS rows, told by the first of them; None if there is one."""
    first, rows = None, 0
    for batch in found:
        if batch.posts.num_rows:
            return None
        first = first or (batch.rejected[0].reason if batch.rejected else None)
        rows += len(batch.rejected)
        if rows >= LOOKED_AT_ROWS:
            break
    return first or "no rows in it"


def in_threads(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`work` of each item, in order, several at a time: for work that is mostly waiting for storage."""
    stream = iter(items)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        while some := list(itertools.islice(stream, READ_THREADS)):
            yield from pool.map(work, some)


LENIENT = "lenient"
"""Key of a post whose reference is its own affair: one that leads out of the archive leaves it without a picture."""


def with_images(rows: Iterable[Post | Fault], archive: str, columns: Columns = None) -> Iterator[Post | Fault]:
    """`with_image` of every row that is a post, several pictures at a time; where pictures are not wanted, the same rows."""
    if not wants_pictures(columns):
        yield from (row if isinstance(row, Fault) else with_image(row, archive, read=False) for row in rows)
        return
    stream = iter(rows)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        while some := list(itertools.islice(stream, READ_THREADS)):
            if any(not isinstance(row, Fault) and row.get("image_uri") for row in some):
                yield from pool.map(lambda row: row if isinstance(row, Fault) else with_image(row, archive), some)
            else:
                yield from some


def with_image(post: Post, archive: str, *, read: bool = True) -> Post | Fault:
    """The post, `image_uri` (a path below the archive) replaced by the bytes that are there.

    Where no file is, and for an absolute path or a URI with a scheme, it keeps `image_uri` and has no image; a path that leads
    out of the archive makes the row a Fault, unless the post is LENIENT. Without `read`, the path alone is looked at.
    """
    path = post.get("image_uri")
    if not path or path.startswith("/") or SCHEME.match(path):
        return post
    try:
        storage.join(archive, path)
        if "\0" in path:
            raise ValueError("a null character")
        return {**post, "image": read_by_any_name(archive, path), "image_uri": None} if read else post
    except NotFoundError:
        return post
    except StorageError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.EISDIR, errno.ENAMETOOLONG):
            return post
        raise
    except (ConfigError, ValueError) as error:
        if post.get(LENIENT):
            return post
        return Fault(f"image: expected a path below the archive, found {path[:80]!r}: {error}", post.get("post_id"))


def spellings(path: str) -> list[str]:
    """A path as it is written, and as a machine may have changed it on its way; each once."""
    return list(dict.fromkeys([path, *(normalize(form, path) for form in ("NFC", "NFD")), unquote(path)]))


def read_by_any_name(archive: str, path: str) -> bytes:
    """The file below the archive that a path names, as it is written or, where nothing is, in the spellings that the way from one machine
    to another makes of it: accents apart (a Mac's disk) or as one letter, `%20` for a blank. NotFoundError where none is there."""
    for spelling in spellings(path):
        with suppress(NotFoundError):
            return storage.read_bytes(storage.join(archive, spelling))
    raise NotFoundError(f"{storage.join(archive, path)}: not found")


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
