"""`instacities`: InstaCities1M and InstaNY100K (Gomez et al. 2018, https://gombru.github.io/2018/08/01/InstaCities1M/).

    captions_resized_1M/cities_instagram/<city>/<id>.txt      the caption, hashtags in it
    img_resized_1M/cities_instagram/<city>/<id>.jpg           InstaCities1M

    captions/newyork/<id>.txt
    img_resized/newyork/<id>.jpg                              InstaNY100K

Checked against the authors' page, their public code and a description of the unpacked InstaNY100K, not against the data
itself. There are neither users nor dates: split `random`. `post_id` is `<city>/<id>`, as the authors' lists of their splits
name a post. A post without caption or without picture is one all the same.

One city after another is listed, and cut into runs of PART_ROWS posts.
"""

import heapq
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import TypedDict

from hashtag_core import storage
from hashtag_core.data.formats.base import (
    PART_ROWS,
    ArchiveFormat,
    ArchivePart,
    Columns,
    Fault,
    Post,
    batches,
    etag_now,
    etag_of,
    in_threads,
    problem_in,
    selection_of,
    walk_seen,
    wants_pictures,
)
from hashtag_core.data.formats.encodings import decode_text
from hashtag_core.data.list_parts import Listing, Tally
from hashtag_core.data.parquet_rows import PartBatch
from hashtag_core.data.reading_options import Reading
from hashtag_core.data.values import plain
from hashtag_core.errors import NotFoundError
from hashtag_core.storage import FileInfo

ROOTS = {
    "caption": ("captions_resized_1M/cities_instagram", "captions"),
    "image": ("img_resized_1M/cities_instagram", "img_resized"),
}
SUFFIXES = {"caption": (".txt",), "image": (".jpg", ".jpeg", ".png", ".webp")}


class Selection(TypedDict):
    """Posts of a city: `folders` are where each kind of file lies; a post is its stem and the names of its files by kind."""

    archive: str
    city: str
    folders: dict[str, str]
    encoding: str | None
    begin: int
    posts: list[tuple[str, dict[str, str]]]


def survey(archive_uri: str, reading: Reading) -> Listing[ArchivePart]:
    """Runs of PART_ROWS posts of each city."""
    roots = {kind: _root(archive_uri, candidates) for kind, candidates in ROOTS.items()}
    tally = Tally()
    walks = [_walk(archive_uri, root, kind) for kind, root in roots.items() if root]
    found = heapq.merge(*walks, key=lambda files: files[0].split("/"))
    parts = [
        part
        for city, of_city in itertools.groupby(found, itemgetter(0))
        for part in _parts(archive_uri, city, roots, {kind: files for _, kind, files in of_city}, tally, reading)
    ]
    if not parts and not storage.exists(archive_uri):
        raise NotFoundError(f"{archive_uri}: not found")
    return Listing(
        archive_uri, parts, tally, f"{' or '.join(itertools.chain(*ROOTS.values()))} below it, with files in it"
    )


def problem(part: FileInfo) -> str | None:
    """Why no post can come from these files, told by the first; None if one can."""
    return problem_in(_read(part, 8))


def _root(archive: str, candidates: Sequence[str]) -> str | None:
    return next((path for path in candidates if storage.exists(storage.join(archive, path))), None)


def _walk(archive: str, root: str, kind: str) -> Iterator[tuple[str, str, list[FileInfo]]]:
    return ((city, kind, files) for city, files in walk_seen(storage.join(archive, root)))


def _parts(
    archive: str,
    city: str,
    roots: Mapping[str, str | None],
    found: Mapping[str, list[FileInfo]],
    tally: Tally,
    reading: Reading,
) -> Iterator[ArchivePart]:
    posts: dict[str, dict[str, FileInfo]] = {}
    for kind, files in found.items():
        for info in files:
            stem, _, ending = info.path.rpartition("/")[2].rpartition(".")
            if stem and f".{ending.lower()}" in SUFFIXES[kind]:
                posts.setdefault(stem, {}).setdefault(kind, info)
            if posts.get(stem, {}).get(kind) is info:
                tally.read += 1
            else:
                tally.leave(info.path, f"no {kind} of a post, or another one of it")
    folders = {kind: f"{root}/{city}".rstrip("/") for kind, root in roots.items() if root}
    path = folders.get("caption") or folders["image"]
    stems = sorted(posts)
    for begin in range(0, len(stems), PART_ROWS):
        run = stems[begin : begin + PART_ROWS]
        files = [info for stem in run for info in posts[stem].values()]
        names = [{kind: info.path.rpartition("/")[2] for kind, info in posts[stem].items()} for stem in run]
        selection: Selection = {
            "archive": archive,
            "city": city,
            "folders": folders,
            "encoding": reading.encoding,
            "begin": begin,
            "posts": list(zip(run, names, strict=True)),
        }
        size, uri = sum(info.size for info in files), storage.join(archive, path)
        yield ArchivePart(uri, path, size, etag_of(files), files[0].modified, json.dumps(selection))


def _etag(part: FileInfo) -> str:
    chosen: Selection = selection_of(part)
    files = [_uri(chosen, kind, name) for _, names in chosen["posts"] for kind, name in names.items()]
    return etag_now(files)


def _uri(chosen: Selection, kind: str, name: str) -> str:
    return storage.join(chosen["archive"], chosen["folders"][kind], name)


def _read(part: FileInfo, batch_rows: int, columns: Columns = None) -> Iterator[PartBatch]:
    chosen: Selection = selection_of(part)
    rows = in_threads(partial(_post, chosen, wants_pictures(columns)), chosen["posts"])
    yield from batches(part.path, rows, chosen["begin"], batch_rows, columns)


def _post(chosen: Selection, pictures: bool, found: tuple[str, dict[str, str]]) -> Post | Fault:
    stem, names = found
    post: Post = {"post_id": plain(f"{chosen['city']}/{stem}".lstrip("/"))}
    try:
        if "caption" in names:
            text = storage.read_bytes(_uri(chosen, "caption", names["caption"]))
            post["caption"] = decode_text(text, chosen["encoding"])
        if "image" in names and pictures:
            post["image"] = storage.read_bytes(_uri(chosen, "image", names["image"]))
    except NotFoundError as error:
        return Fault(f"a file went while the archive was read: {error}", post["post_id"])
    return post


INSTACITIES = ArchiveFormat(
    "instacities", "captions/<city>/<id>.txt and img_resized/<city>/<id>.jpg", survey, problem, _read, _etag
)
