"""What a person hands over to be tagged now: pictures, captions, folders of pictures, tables. Needs no torch.

Each becomes `Asked` posts, in the order given, a few at a time, so that a large folder does not stand in memory. What cannot
be read becomes a post that says so, never one that is left out.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hashtag_core import storage
from hashtag_core.data.formats.base import Post
from hashtag_core.data.formats.csv_lines import Lines, look_at, records
from hashtag_core.data.formats.csv_quotes import SWALLOWED, Swallowed
from hashtag_core.data.formats.csv_table import TABLE
from hashtag_core.data.formats.fields import NAMES
from hashtag_core.data.formats.packing import PackingError
from hashtag_core.data.reading import AS_IT_IS
from hashtag_core.data.values import read_time, says_none
from hashtag_core.errors import NotFoundError, UsageError

PICTURES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif"})
"""Endings of the files that are taken from a folder; a file that is named itself is taken as a picture whatever its ending."""

DATA = frozenset(
    {".parquet", ".parq", ".pq", ".jsonl", ".ndjson", ".json", ".xlsx", ".xls", ".arrow", ".feather", ".zip", ".txt"}
)
"""Endings of files that are neither pictures nor tables."""

USED = ("post_id", "user_id", "caption", "image", "image_uri", "created_at", "hashtags")
"""Fields that a column of a table may give."""


@dataclass
class Asked:
    """One post that a person asks about. `given` are the person's own columns, or the file's name; `fault` says why there is
    nothing to tag, and `post` is then None."""

    name: str
    given: dict[str, str]
    post: Post | None = None
    fault: str | None = None


@dataclass(frozen=True)
class Source:
    """One thing that was handed over: `kind` is `picture`, `caption`, `folder` or `table`."""

    kind: str
    path: Path | None = None
    caption: str | None = None
    user: str | None = None
    names: dict[str, str] = field(default_factory=dict)
    """Of a table: the field of POST -> its column."""

    @property
    def folder(self) -> str | None:
        """Where the pictures that a table names lie."""
        return str(self.path.resolve().parent) if self.kind == "table" and self.path is not None else None

    def posts(self, max_image_bytes: int) -> Iterator[Asked]:
        """The posts, in order. UsageError for a table that cannot be read as one."""
        if self.kind == "table" and self.path is not None:
            yield from _table_posts(self.path, self.names)
        elif self.path is None:
            yield Asked("caption", {"caption": self.caption or ""}, self._post("caption"))
        else:
            for path in _pictures(self.path) if self.kind == "folder" else [self.path]:
                name = str(path.relative_to(self.path)) if self.kind == "folder" else str(path)
                yield self._picture(path, name, max_image_bytes)

    def _post(self, post_id: str) -> Post:
        return {"post_id": post_id, "user_id": self.user, "caption": self.caption}

    def _picture(self, path: Path, name: str, max_image_bytes: int) -> Asked:
        try:
            size = path.stat().st_size
            if size > max_image_bytes:
                raise UsageError(f"{size:,} bytes, more than {max_image_bytes:,} (archive.max_image_bytes)")
            return Asked(name, {"file": name}, {**self._post(name), "image": path.read_bytes()})
        except (OSError, UsageError) as error:
            told = getattr(error, "strerror", None) or str(error)
            if self.kind == "picture":
                raise UsageError(f"{path}: {told}") from None
            return Asked(name, {"file": name}, None, told)


def sources(
    places: Sequence[str], caption: str | None, user: str | None, columns: dict[str, str | None]
) -> list[Source]:
    """What the places are: a folder, a table by its ending, else a picture; a caption alone where there is no place.

    `columns`: the column that the person names for a field, where the table's header does not. NotFoundError for what is
    not there; UsageError where nothing is asked, or a caption is given for more than one picture.
    """
    if not places:
        if not (caption and caption.strip()):
            raise UsageError(
                "nothing to tag: name a picture, a folder of pictures or a CSV file, or give --caption TEXT"
            )
        return [Source("caption", caption=caption, user=user)]
    found = [_source(Path(place), caption, user, columns) for place in places]
    if caption is not None and (len(found) > 1 or found[0].kind != "picture"):
        raise UsageError(
            "--caption belongs to one picture; captions of many posts go into a CSV file, beside their pictures"
        )
    if any(source.kind == "table" for source in found) and len(found) > 1:
        raise UsageError("a table is tagged alone: its columns are those of the result")
    return found


def history_rows(source: Source) -> list[Post]:
    """The table's posts of known users: where a model that reads the history finds it. A post that is tagged has the same id here,
    so that it is not in its own history."""
    if source.kind != "table":
        return []
    return [asked.post for asked in source.posts(0) if asked.post is not None and asked.post.get("user_id")]


def _source(path: Path, caption: str | None, user: str | None, columns: dict[str, str | None]) -> Source:
    if not path.exists():
        raise NotFoundError(f"{path}: not there (expected a picture, a folder of pictures or a CSV file)")
    if path.is_dir():
        if next(_pictures(path), None) is None:
            raise UsageError(f"{path}: no picture in it: no file ends in {', '.join(sorted(PICTURES))}")
        return Source("folder", path, user=user)
    if TABLE.fullmatch(path.name):
        return Source("table", path, names=_names(path, columns))
    if path.suffix.lower() in DATA:
        raise UsageError(
            f"{path}: expected a picture, a folder of pictures or a CSV file (jobs/tag.py tags archives of Parquet, JSON lines and others)"
        )
    return Source("picture", path, caption, user)


def _pictures(folder: Path) -> Iterator[Path]:
    """Pictures at any depth, by path; what begins with a dot is left out."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not entry.is_symlink():
            yield from _pictures(entry)
        elif entry.suffix.lower() in PICTURES:
            yield entry


def _records(path: Path) -> Iterator[list[str]]:
    """Rows of a table, the header first, read as an archive's tables are: delimiter, encoding, packing and quotes are found out."""
    try:
        with storage.open_input(str(path)) as source:
            dialect, found = look_at(source, storage.file_info(str(path)), AS_IT_IS)
            if found.other or dialect.encoding is None:
                told = str(found.told).partition(": name it")[0]
                raise UsageError(
                    f"{path}: {f'expected a table, found: {found.other}' if found.other else f'{told}: save it as `CSV UTF-8`'}"
                )
            for cells in records(Lines(source, dialect, dialect.begins)):
                decoded = [cell.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for cell in cells]
                yield Swallowed(decoded) if isinstance(cells, Swallowed) else decoded
    except (csv.Error, PackingError) as error:
        raise UsageError(f"{path}: not a readable table: {error}") from None


def _names(path: Path, columns: dict[str, str | None]) -> dict[str, str]:
    header = next(_records(path), [])
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UsageError(f"{path}: column {twice[0]!r} occurs twice")
    lower = {name.strip().lower(): name for name in reversed(header)}
    names = {}
    for name in USED:
        asked = columns.get(name)
        if asked is not None and asked not in header:
            raise UsageError(f"{path}: no column {asked!r}; it has {', '.join(header)[:300] or 'none'}")
        found = asked or next((lower[alias] for alias in NAMES[name] if alias in lower), None)
        if found is not None:
            names[name] = found
    if not names.keys() & {"caption", "image", "image_uri"}:
        raise UsageError(
            f"{path}: no column of captions ({', '.join(NAMES['caption'])}) and none of pictures "
            f"({', '.join(NAMES['image'])}); it has {', '.join(header)[:300] or 'none'}. Name it: --caption-column, --image-column"
        )
    return names


def _cell(cell: str) -> str | None:
    return None if says_none(cell) else cell.strip() or None


def _table_posts(path: Path, names: dict[str, str]) -> Iterator[Asked]:
    records = _records(path)
    header = next(records, [])
    seen: set[str] = set()
    for number, cells in enumerate(records, 1):
        given = dict(zip(header, [*cells, *[""] * (len(header) - len(cells))], strict=False))
        values = {name: _cell(given[column]) for name, column in names.items()}
        name = values.get("post_id") or f"row {number}"
        post_id = f"{name} (row {number})" if name in seen else name
        seen.add(name)
        if isinstance(cells, Swallowed):
            yield Asked(name, given, None, SWALLOWED)
            continue
        if len(cells) != len(header):
            yield Asked(name, given, None, f"expected {len(header)} cells, found {len(cells)}")
            continue
        image = values.pop("image", None)
        post: Post = {**values, "post_id": post_id, "image_uri": image or values.get("image_uri")}
        try:
            post["created_at"] = read_time("created_at", values.get("created_at"))
        except ValueError:
            post["created_at"] = None  # a date costs the history, not the tags
        tags = (values.get("hashtags") or "").replace("|", " ").replace(";", " ").replace(",", " ").split()
        post["hashtags"] = tags or None
        yield Asked(name, given, post)
