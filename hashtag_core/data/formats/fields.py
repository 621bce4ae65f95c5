"""What tables and lines call the fields of a post, and where the pictures that they name lie: one definition for both.

    post_id       id, _id                       user_id      user, username, author, owner
    created_at    date, time, timestamp         caption      text, title, description
    hashtags      tags                          image_uri    *_url (below)
    latitude      lat                           longitude    lon, lng
    image         image_path, image_file, image_name, file, filename, file_name, img, photo, picture: the path of a picture

*_url: image_url, img_url, photo_url, picture_url, media_url. Case does not matter; `Reading.columns` (`--map`) goes before. A
path is looked for below the archive, below the folder of the
file that names it, and below each folder that holds pictures; what holds most of the first ones named is taken for all.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from hashtag_core import storage
from hashtag_core.data.formats.base import SCHEME, in_threads, spellings
from hashtag_core.data.list_parts import Tally, no_file
from hashtag_core.data.reading_options import Reading, missing_column
from hashtag_core.errors import ConfigError, NotFoundError, StorageError
from hashtag_core.faults import is_machine
from hashtag_core.storage import FileInfo

NAMES = {
    "post_id": ("post_id", "id", "_id"),
    "user_id": ("user_id", "user", "username", "author", "owner"),
    "created_at": ("created_at", "date", "time", "timestamp"),
    "caption": ("caption", "text", "title", "description"),
    "hashtags": ("hashtags", "tags"),
    "image": (
        "image", "image_path", "image_file", "image_name", "file", "filename", "file_name", "img", "photo", "picture",
    ),
    "image_uri": ("image_uri", "image_url", "img_url", "photo_url", "picture_url", "media_url"),
    "latitude": ("latitude", "lat"),
    "longitude": ("longitude", "lon", "lng"),
}  # fmt: skip
"""What a column may be called, the name that wins first."""

PICTURE = re.compile(r".+\.(?:jpe?g|png|webp|gif|heic|avif|bmp|tiff?)", re.IGNORECASE)
_DRIVE = re.compile(r"[A-Za-z]:/")

LOOKED_AT = 20
"""Pictures that are looked for to find the folder they lie in."""

MOST_FOLDERS = 20
"""Folders of pictures that are tried."""


def match_columns(names: Sequence[str], reading: Reading) -> tuple[dict[str, str], str | None]:
    """The column of each field that has one, and why the table holds no posts."""
    if problem := reading.absent(names):
        return {}, problem
    lower = [name.strip().lower() for name in names]
    columns: dict[str, str] = {}
    for field_name, aliases in NAMES.items():
        if field_name in reading.columns:
            columns[field_name] = reading.columns[field_name]
            continue
        spoken_for = set(reading.columns.values())
        alias = next(
            (alias for alias in aliases if alias in lower and names[lower.index(alias)] not in spoken_for), None
        )
        if alias is None:
            continue
        if lower.count(alias) > 1:
            return columns, f"{alias}: column occurs twice"
        columns[field_name] = names[lower.index(alias)]
    return columns, None if "post_id" in columns else missing_column("post_id", names)


@dataclass
class Folder:
    """An archive whose files of one kind name posts and, in them, pictures beside them."""

    root: str
    """Where paths of pictures begin: the archive, or the folder of the file that was named as one."""
    files: list[FileInfo]
    tally: Tally
    pictures: Counter[str] = field(default_factory=Counter)
    """How many pictures each folder holds."""
    found: list[str] = field(default_factory=list)
    """Where the pictures of the first files that name some lie; files after the first LOOKED_AT are taken to be like them."""


def look_through(archive: str, wanted: re.Pattern[str], description: str) -> Folder:
    """The files of an archive whose names are wanted, one folder listed after another; every other one is tallied.
    NotFoundError where nothing is."""
    if (single := _single(archive)) is not None:
        root = archive.rstrip("/").rpartition("/")[0] or "."
        return Folder(root, [single], Tally(read=1), Counter(dict.fromkeys(folders_beside(root), 0)))
    found = Folder(archive, [], Tally())
    for folder, files in storage.walk_folders(archive, hidden=True):
        hidden = any(step[:1] == "." or step == "__MACOSX" for step in folder.split("/"))
        for info in files:
            name = info.path.rpartition("/")[2]
            if hidden or name[:1] == ".":
                found.tally.leave(info.path, "a hidden file")
            elif wanted.fullmatch(name) and (why := no_file(info.uri)):
                found.tally.leave(info.path, why)
            elif wanted.fullmatch(name):
                found.files.append(info)
            elif PICTURE.fullmatch(name):
                found.pictures[folder] += 1
            else:
                found.tally.leave(info.path, f"no {description}, no picture")
    found.files.sort(key=lambda info: info.path)
    found.tally.read, found.tally.beside = len(found.files), sum(found.pictures.values())
    return found


def folders_beside(root: str) -> list[str]:
    """The first MOST_FOLDERS folders in a local one, by name, in which pictures may lie that a single table names: it may lie in a
    home, which is not looked through."""
    if storage.is_remote(root):
        return []
    with os.scandir(storage.local_path(root)) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and entry.name[:1] != ".")[:MOST_FOLDERS]


def _single(archive: str) -> FileInfo | None:
    """The file that the archive is, where it is one."""
    if not storage.is_remote(archive):
        return storage.file_info(archive) if os.path.isfile(storage.local_path(archive)) else None
    _, _, path = archive.partition("://")
    key = path.partition("/")[2].rstrip("/")
    try:
        return storage.file_info(archive) if "." in key.rpartition("/")[2] else None
    except NotFoundError:
        return None


def picture_path(written: str) -> str:
    """A path as tables have it, as a path below a folder: slashes for Windows' backslashes, no `./`; of one that begins with a
    drive its last part, which is all of it that can be here."""
    path = written.strip()
    if SCHEME.match(path):
        return path
    path = path.replace("\\", "/")
    if _DRIVE.match(path):
        return path.rpartition("/")[2]
    while path.startswith("./"):
        path = path[2:]
    return path


def picture_folder(folder: Folder, of: FileInfo, written: Iterable[str]) -> str:
    """The folder, below the root, that holds most of the first pictures named; the root where none does."""
    if len(folder.found) >= LOOKED_AT:
        return Counter(folder.found).most_common(1)[0][0]
    paths = [path for item in islice(written, LOOKED_AT) if not SCHEME.match(path := picture_path(item))]
    beside = of.path.rpartition("/")[0] if of.path != of.uri else ""
    candidates = list(
        dict.fromkeys(
            [*folder.found[-1:], "", beside, *(name for name, _ in folder.pictures.most_common(MOST_FOLDERS))]
        )
    )
    parents = [name.rpartition("/")[0] for name in candidates]
    candidates += [name for name in dict.fromkeys(parents) if name not in candidates]
    best, most = "", 0
    for candidate in candidates:
        hits = sum(in_threads(partial(_is_there, folder.root, candidate), paths))
        if hits > most:
            best, most = candidate, hits
        if most == len(paths):
            break
    folder.found.append(best)
    return best


def _is_there(root: str, folder: str, path: str) -> bool:
    try:
        return any(storage.exists(storage.join(root, folder, spelling)) for spelling in spellings(path))
    except (ConfigError, StorageError, ValueError) as error:
        if is_machine(error):
            raise
        return False


def below(folder: str, path: str) -> str:
    """A picture's path from the root, given the folder that it lies in; a URI stays what it is."""
    return path if not folder or SCHEME.match(path) or path.startswith(("/", "../")) else f"{folder}/{path}"


def first_values(rows: Iterator[dict[str, str]], names: Sequence[str]) -> list[str]:
    """The first pictures that rows name, under any of these names."""
    found = (
        value for row in rows for name in names if (value := row.get(name)) and isinstance(value, str) and value.strip()
    )
    return list(islice(found, LOOKED_AT))
