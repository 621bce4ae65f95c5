"""`instaloader`: what instaloader (https://instaloader.github.io) downloads, in folders at any depth.

    <target>/<date>_UTC.json.xz         the post: {"node": {...}, "instaloader": {"node_type": "Post", ...}}; `.json` too
    <target>/<date>_UTC.txt             its caption, where instaloader's default for `--post-metadata-txt` was left
    <target>/<date>_UTC.jpg             its picture, or the picture of its video
    <target>/<date>_UTC_1.jpg           the pictures of a carousel: the first that is there is taken

<target> is a profile, `#hashtag`, `:feed`, ... Any other `--filename-pattern` does as well: a post is the files that share the
name of a metadata file. Without one (`--no-metadata-json`), it is a caption or a picture with what has its name, its
`post_id` is its path, its user the profile whose folder it lies in, its date that of a default name.

Of the node: `shortcode` or `code` (`post_id`), `owner.id` or `.pk` or `.username` (`user_id`), `taken_at_timestamp` or `date`
(`created_at`), the first edge of `edge_media_to_caption` or `caption` (`caption`), `location.lat` and `.lng`. The hashtags are
in the caption. Metadata of profiles, stories and hashtags is rejected, with what it is; comments, locations, videos, profile pictures and
covers are no posts. A post that several targets brought is one: the other rows are rejected as repeated ids.

Checked against instaloader's own source (names of files, `get_json_structure`, what `Post` reads of its node).
"""

import json
import lzma
import re
from collections.abc import Container, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypedDict

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
from hashtag_core.data.values import plain, unexpected
from hashtag_core.errors import NotFoundError
from hashtag_core.storage import FileInfo

_METADATA = re.compile(r"(?!iterator_)(.+)(?<!_comments)\.json(?:\.xz)?", re.IGNORECASE)
_CAPTION = re.compile(r"(.+)(?<!_location)\.txt", re.IGNORECASE)
_OLD_CAPTION = re.compile(r".+_old_\d+\.txt", re.IGNORECASE)
_PICTURE = re.compile(r"(.+)(?<!_profile_pic)(?<!_cover)\.(?:jpe?g|png|webp|heic)", re.IGNORECASE)
_VIDEO = re.compile(r"(.+)\.(?:mp4|mov|webm)", re.IGNORECASE)
_SLIDE = re.compile(r"(.+)_(\d+)")
_DATED = re.compile(r"(\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d)_UTC")

Files = dict[str, str]
"""Names of the files of one post: `metadata`, `caption`, `image`."""


class Selection(TypedDict):
    """Posts of a folder: a post is its name and its files."""

    archive: str
    folder: str
    encoding: str | None
    begin: int
    posts: list[tuple[str, Files]]


def survey(archive_uri: str, reading: Reading) -> Listing[ArchivePart]:
    """Runs of PART_ROWS posts of each folder, one folder listed after another."""
    listing = Listing[ArchivePart](archive_uri, [], Tally(), "posts: .json, .json.xz, .txt captions or pictures")
    for folder, files in walk_seen(archive_uri):
        listing.parts += _parts(archive_uri, folder, files, listing.tally, reading)
    return listing


def problem(part: FileInfo) -> str | None:
    """Why no post can come from these files, told by the first; None if one can."""
    return problem_in(_read(part, 8))


def posts_of(names: Sequence[str]) -> dict[str, Files]:
    """Which files of a folder are one post, by the post's name."""
    posts: dict[str, Files] = {}
    for name in names:
        if found := _METADATA.fullmatch(name):
            posts.setdefault(found[1], {}).setdefault("metadata", name)
    for name in names:
        if (found := _CAPTION.fullmatch(name)) and not _OLD_CAPTION.fullmatch(name):
            posts.setdefault(found[1], {})["caption"] = name
    pictures: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        if found := _PICTURE.fullmatch(name):
            stem, slide = found[1], _SLIDE.fullmatch(found[1])
            if stem not in posts and slide and (slide[1] in posts or _DATED.fullmatch(slide[1])):
                pictures.setdefault(slide[1], []).append((int(slide[2]), name))
            else:
                pictures.setdefault(stem, []).append((0, name))
    for stem, found_pictures in pictures.items():
        posts.setdefault(stem, {})["image"] = min(found_pictures)[1]
    return dict(sorted(posts.items()))


def _parts(
    archive: str, folder: str, files: Sequence[FileInfo], tally: Tally, reading: Reading
) -> Iterator[ArchivePart]:
    named = {info.path.rpartition("/")[2]: info for info in files}
    posts = list(posts_of(list(named)).items())
    posts_here = {stem for stem, _ in posts}
    taken = {name for _, found in posts for name in found.values()}
    for name, info in named.items():
        if name in taken:
            tally.read += 1
        else:
            tally.leave(info.path, _why_not_read(name, posts_here))
    for begin in range(0, len(posts), PART_ROWS):
        run = posts[begin : begin + PART_ROWS]
        chosen = [named[name] for _, found in run for name in found.values()]
        uri, size = storage.join(archive, folder), sum(info.size for info in chosen)
        values: Selection = {
            "archive": archive,
            "folder": folder,
            "encoding": reading.encoding,
            "begin": begin,
            "posts": run,
        }
        selection = json.dumps(values)
        yield ArchivePart(uri, folder or ".", size, etag_of(chosen), chosen[0].modified, selection)


def _why_not_read(name: str, posts: Container[str]) -> str:
    """Why a file beside the posts of its folder is none of those that are read."""
    picture, video = _PICTURE.fullmatch(name), _VIDEO.fullmatch(name)
    stem = found[1] if (found := picture or video) else ""
    slide = _SLIDE.fullmatch(stem)
    of_post = stem in posts or (slide is not None and slide[1] in posts)
    if picture and of_post:
        return "a further picture of a post"
    return "a video of a post" if video and of_post else "no metadata, caption or picture of a post"


def files_etag(part: FileInfo) -> str:
    """The etag that the files of a part have now."""
    chosen: Selection = selection_of(part)
    return etag_now([_uri(chosen, name) for _, found in chosen["posts"] for name in found.values()])


def _uri(chosen: Selection, name: str) -> str:
    return storage.join(chosen["archive"], chosen["folder"], name)


def _read(part: FileInfo, batch_rows: int, columns: Columns = None) -> Iterator[PartBatch]:
    chosen: Selection = selection_of(part)
    rows = in_threads(partial(read_post, chosen, pictures=wants_pictures(columns)), chosen["posts"])
    yield from batches(part.path, rows, chosen["begin"], batch_rows, columns)


def read_post(
    chosen: Selection, entry: tuple[str, Files], user_of_folder: bool = True, pictures: bool = True
) -> Post | Fault:
    """The post of these files (without `pictures`, all but its picture), or why they are none."""
    stem, files = entry
    try:
        post = _of_metadata(_uri(chosen, files["metadata"])) if "metadata" in files else _of_names(chosen, stem)
        if user_of_folder and "metadata" not in files:
            post["user_id"] = _profile(chosen["folder"])
        if "caption" in files and "caption" not in post:
            post["caption"] = decode_text(
                storage.read_bytes(_uri(chosen, files["caption"])), chosen["encoding"], strict=True
            )
        if "image" in files and pictures:
            post["image"] = storage.read_bytes(_uri(chosen, files["image"]))
    except NotFoundError as error:
        return Fault(f"a file went while the archive was read: {error}")
    except ValueError as error:
        return Fault(f"{' '.join(files.values())}: {error}")
    return post


def _of_names(chosen: Selection, stem: str) -> Post:
    """What the name of a post without metadata tells."""
    post: Post = {"post_id": plain(f"{chosen['folder']}/{stem}".lstrip("/"))}
    if dated := _DATED.match(stem):
        post["created_at"] = datetime.strptime(f"{dated[1]}+0000", "%Y-%m-%d_%H-%M-%S%z")
    return post


def _profile(folder: str) -> str | None:
    """The profile whose folder this is, by instaloader's names of targets."""
    name = folder.rpartition("/")[2]
    return plain(name) if name[:1] not in ("", "#", ":", "%", "-") else None


def _of_metadata(uri: str) -> Post:
    """What a metadata file tells; ValueError that names field, expected and found. No `caption` where it does not say."""
    data = storage.read_bytes(uri)
    try:
        value = json.loads(lzma.decompress(data) if uri.lower().endswith(".xz") else data)
    except (lzma.LZMAError, ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON, found: {error}") from None
    kind = _at(value, "instaloader", "node_type") or "Post"
    node = _at(value, "node") or value
    if kind != "Post" or not isinstance(node, dict):
        raise unexpected("node_type", "Post", kind if isinstance(node, dict) else type(node).__name__)
    code = node.get("shortcode", node.get("code"))
    if not isinstance(code, str) or not code.strip():
        raise unexpected("shortcode", "a non-empty string", code)
    post: Post = {"post_id": plain(code), "created_at": _time(node.get("taken_at_timestamp", node.get("date")))}
    user = _at(node, "owner", "id") or _at(node, "owner", "pk") or _at(node, "owner", "username")
    post["user_id"] = plain(str(user)) if user else None
    if "edge_media_to_caption" in node or "caption" in node:
        text = _at(node, "edge_media_to_caption", "edges", 0, "node", "text") or node.get("caption")
        text = _at(text, "text") if isinstance(text, dict) else text
        if text is not None and not isinstance(text, str):
            raise unexpected("caption", "string", text)
        post["caption"] = plain(text) if text else None
    for name, step in (("latitude", "lat"), ("longitude", "lng")):
        degrees = _at(node, "location", step)
        post[name] = float(degrees) if isinstance(degrees, int | float) else None
    return post


def _time(value: Any) -> datetime | None:
    if value is None:
        return None
    try:
        return datetime.fromtimestamp(value, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        raise unexpected("taken_at_timestamp", "seconds since 1970", value) from None


def _at(value: Any, *steps: str | int) -> Any:
    """What lies at the end of a path of keys; None where it does not go on."""
    for step in steps:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


INSTALOADER = ArchiveFormat(
    "instaloader",
    "folders of posts: .json(.xz) metadata, .txt captions, pictures",
    survey,
    problem,
    _read,
    files_etag,
)
