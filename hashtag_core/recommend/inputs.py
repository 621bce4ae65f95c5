"""What a person hands over to be tagged now: pictures, captions, folders of pictures, tables. Needs no torch.

Each becomes `Asked` posts, in the order given, a few at a time, so that a large folder does not stand in memory. What cannot
be read becomes a post that says so, never one that is left out.
"""

import csv
import itertools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from hashtag_core import storage
from hashtag_core.data.formats.base import Post
from hashtag_core.data.formats.csv_lines import ID_FIELDS, Dialect, Lines, TableLook, id_in_cell, look_at, records
from hashtag_core.data.formats.csv_quotes import SWALLOWED, Swallowed
from hashtag_core.data.formats.csv_table import TABLE, tags_in_cell
from hashtag_core.data.formats.fields import LOOKED_AT, NAMES, below, folders_beside, picture_path
from hashtag_core.data.formats.packing import PackingError
from hashtag_core.data.reading_options import AS_IT_IS, Reading, listed
from hashtag_core.data.values import read_time, says_none
from hashtag_core.errors import NotFoundError, UsageError

logger = logging.getLogger(__name__)

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
    table: "Table | None" = None
    """Of a table: how it is written."""

    @property
    def folder(self) -> str | None:
        """Where the pictures that a table names lie."""
        return str(self.path.resolve().parent) if self.kind == "table" and self.path is not None else None

    def posts(self, max_image_bytes: int) -> Iterator[Asked]:
        """The posts, in order. UsageError for a table that cannot be read as one."""
        if self.table is not None:
            yield from self.table.posts()
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
            message = getattr(error, "strerror", None) or str(error)
            if self.kind == "picture":
                raise UsageError(f"{path}: {message}") from None
            return Asked(name, {"file": name}, None, message)


def sources(
    places: Sequence[str],
    caption: str | None,
    user: str | None,
    columns: dict[str, str | None],
    reading: Reading = AS_IT_IS,
) -> list[Source]:
    """What the places are: a folder, a table by its ending, else a picture; a caption alone where there is no place.

    `columns`: the column that the person names for a field, where the table's header does not; `reading`: what else is
    said of a table. NotFoundError for what is
    not there; UsageError where nothing is asked, or a caption is given for more than one picture.
    """
    if not places:
        if not (caption and caption.strip()):
            raise UsageError(
                "nothing to tag: name a picture, a folder of pictures or a CSV file, or give --caption TEXT"
            )
        return [Source("caption", caption=caption, user=user)]
    spoken = {**reading.columns, **{name: column for name, column in columns.items() if column is not None}}
    found = [_source(Path(place), caption, user, replace(reading, columns=spoken)) for place in places]
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
    if source.table is None:
        return []
    found = [asked for asked in source.posts(0) if asked.post is not None and asked.post.get("user_id")]
    column = source.table.columns.get("created_at")
    undated = [
        cell
        for asked in found
        if column is not None and (cell := _cell(asked.given[column])) and not (asked.post or {})["created_at"]
    ]
    if undated:
        logger.warning(
            "%s: %d date(s) could not be read, e.g. %r: these posts stand in no order of time (--date-format says how dates are written)",
            source.path, len(undated), undated[0],
        )  # fmt: skip
    return [asked.post for asked in found if asked.post is not None]


def _source(path: Path, caption: str | None, user: str | None, reading: Reading) -> Source:
    if not path.exists():
        raise NotFoundError(f"{path}: not there (expected a picture, a folder of pictures or a CSV file)")
    if path.is_dir():
        if next(_pictures(path), None) is None:
            raise UsageError(f"{path}: no picture in it: no file ends in {', '.join(sorted(PICTURES))}")
        return Source("folder", path, user=user)
    if TABLE.fullmatch(path.name):
        return Source("table", path, table=Table.of(path, reading))
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


@dataclass(frozen=True)
class Table:
    """A table that was looked through once: what it says of itself, as the tables of an archive do."""

    path: Path
    dialect: Dialect
    look: TableLook
    date_format: str | None
    columns: dict[str, str]
    """The field of POST -> its column."""
    pictures: str = ""
    """The folder beside the table in which the pictures lie that it names; empty: the table's own."""

    @classmethod
    def of(cls, path: Path, reading: Reading) -> "Table":
        """A table of which a person may have said something. UsageError for one that is none, or in which there is nothing to
        tag."""
        with _readable(path), storage.open_input(str(path)) as source:
            dialect, look = look_at(source, storage.file_info(str(path)), reading)
        if look.other:
            raise UsageError(f"{path}: expected a table, found: {look.other}")
        if dialect.encoding is None:
            raise UsageError(f"{path}: {look.note}, or save it as `CSV UTF-8`")
        if look.broken and not look.header:
            raise UsageError(f"{path}: not a readable table: {look.broken}")
        table = cls(path, dialect, look, reading.date_format, _columns(path, look.header, reading))
        return replace(table, pictures=table._picture_folder())

    @property
    def told(self) -> str:
        """Which columns are read, and in which folder the pictures are."""
        fields = {"captions": ("caption",), "pictures": ("image", "image_uri")}
        found = {
            what: next((self.columns[name] for name in names if name in self.columns), None)
            for what, names in fields.items()
        }
        said = [
            f"{what} from column {column!r}" if column else f"{what} from no column (--map {fields[what][0]}=COLUMN)"
            for what, column in found.items()
        ]
        return ", ".join(said) + (f" in {self.pictures}/" if self.pictures else "")

    def posts(self) -> Iterator[Asked]:
        """The posts, one for each row. UsageError where the table cannot be read on."""
        with _readable(self.path), storage.open_input(str(self.path)) as source:
            found = records(Lines(source, self.dialect, self.dialect.begins))
            header = self._decoded(next(found, []))
            seen: set[str] = set()
            for number, cells in enumerate(found, 1):
                yield self._asked(header, number, cells, seen)

    def _picture_folder(self) -> str:
        """Where most of the first pictures lie that the table names: in its own folder, or in one beside it. Others are not looked
        through: a table may lie in a home."""
        if not self.columns.keys() & {"image", "image_uri"}:
            return ""
        first = (asked.post or {} for asked in itertools.islice(self.posts(), LOOKED_AT))
        named = [path for post in first if (path := post.get("image_uri"))]
        folders = ["", *folders_beside(str(self.path.parent))] if named else [""]
        return max(folders, key=lambda folder: sum(_is_there(self.path.parent / folder, path) for path in named))

    def _asked(self, header: list[str], number: int, cells: list[str], seen: set[str]) -> Asked:
        decoded = self._decoded(cells)
        given = dict(zip(header, [*decoded, *[""] * (len(header) - len(decoded))], strict=False))
        values = {name: _cell(given[column]) for name, column in self.columns.items()}
        for name in ID_FIELDS:
            values[name] = self._id(name, values.get(name))
        name = values["post_id"] or f"row {number}"
        post_id = f"{name} (row {number})" if name in seen else name
        seen.add(name)
        if isinstance(cells, Swallowed):
            return Asked(name, given, None, SWALLOWED)
        if len(cells) != len(header):
            return Asked(name, given, None, f"expected {len(header)} cells, found {len(cells)}")
        written = values.pop("image", None) or values.get("image_uri")
        image = below(self.pictures, picture_path(written)) if written else None
        post: Post = {**values, "post_id": post_id, "image_uri": image}
        try:
            post["created_at"] = read_time("created_at", values.get("created_at"), self.date_format)
        except ValueError:
            post["created_at"] = None  # a date costs the history, not the tags
        post["hashtags"] = tags_in_cell(values.get("hashtags") or "") or None
        return Asked(name, given, post)

    def _id(self, name: str, cell: str | None) -> str | None:
        """The id that a cell means; an id that was shortened is many posts' name and nobody's own."""
        try:
            return id_in_cell(name, cell, self.look.float_ids) if cell is not None else None
        except ValueError:
            return cell if name == "post_id" else None

    @staticmethod
    def _decoded(cells: list[str]) -> list[str]:
        return [cell.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for cell in cells]


def _is_there(folder: Path, name: str) -> bool:
    try:
        return (folder / name).is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (csv.Error, PackingError) as error:
        raise UsageError(f"{path}: not a readable table: {error}") from None


def _columns(path: Path, header: list[str], reading: Reading) -> dict[str, str]:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UsageError(f"{path}: column {twice[0]!r} occurs twice")
    lower = {name.strip().lower(): name for name in reversed(header)}
    columns = {}
    for name in USED:
        asked = reading.columns.get(name)
        if asked is not None and asked not in header:
            raise UsageError(f"{path}: no column {asked!r}; it has {listed(header)}")
        found = asked or next((lower[alias] for alias in NAMES[name] if alias in lower), None)
        if found is not None:
            columns[name] = found
    if not columns.keys() & {"caption", "image", "image_uri"}:
        raise UsageError(
            f"{path}: no column of captions ({', '.join(NAMES['caption'])}) and none of pictures "
            f"({', '.join(NAMES['image'])}); it has {listed(header)}. Name it: --map caption=COLUMN, --map image=COLUMN"
        )
    return columns


def _cell(cell: str) -> str | None:
    return None if says_none(cell) else cell.strip() or None
