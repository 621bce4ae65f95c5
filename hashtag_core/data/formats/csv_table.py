"""`csv`: tables with a header, `*.csv` (commas) and `*.tsv` (tabs), at any depth, UTF-8.

A column is a field of POST or one of the names below (case does not matter); others are ignored, and an empty cell is null.

    post_id       id                            user_id      user, username, author, owner
    created_at    date, time, timestamp         caption      text, title, description
    hashtags      tags                          image_uri    -
    latitude      lat                           longitude    lon, lng
    image         image_path, image_file, file: the path of a picture below the archive (not below the table's folder)

`created_at` is ISO 8601 (no zone: UTC). `hashtags` are separated by `|`, else by `;`, else by `,`, else by spaces; '#' may
stand before each. Cells with line ends are quoted as RFC 4180 has it.

The driver reads each table once, streamed, to cut it between rows; a task reads its rows and no others. A quote that is never
closed ends the part at MAX_CELL_CHARACTERS, with one rejected row that says so. The tables decide what the archive is: a picture that
is missing leaves its post without image (`image_uri` says where it should be).
"""

import csv
import io
import itertools
import json
import math
from collections.abc import Iterator
from typing import Any

from hashtag_core import storage
from hashtag_core.data.formats.base import (
    PART_ROWS,
    ArchiveFormat,
    ArchivePart,
    Fault,
    Post,
    batches,
    problem_in,
    read_time,
    selection_of,
    unexpected,
    with_images,
)
from hashtag_core.data.posts import PartBatch
from hashtag_core.errors import ArchiveError
from hashtag_core.storage import FileInfo

DELIMITERS = {".csv": ",", ".tsv": "\t"}
MAX_CELL_CHARACTERS = 8 << 20
READ_BUFFER_BYTES = 1 << 20

NAMES = {
    "post_id": ("post_id", "id"),
    "user_id": ("user_id", "user", "username", "author", "owner"),
    "created_at": ("created_at", "date", "time", "timestamp"),
    "caption": ("caption", "text", "title", "description"),
    "hashtags": ("hashtags", "tags"),
    "image": ("image", "image_path", "image_file", "file"),
    "image_uri": ("image_uri",),
    "latitude": ("latitude", "lat"),
    "longitude": ("longitude", "lon", "lng"),
}
"""What a column may be called, the name that wins first."""


def list_parts(archive_uri: str) -> list[ArchivePart]:
    """Runs of PART_ROWS rows of all tables, sorted by path; ArchiveError where there is no table."""
    tables = [info for info in storage.list_files(archive_uri) if info.path.endswith(tuple(DELIMITERS))]
    if not tables:
        raise ArchiveError(f"{archive_uri}: an archive without a part: no file ends in {', '.join(DELIMITERS)}")
    return [part for info in tables for part in _cut(info, archive_uri)]


def problem(part: FileInfo) -> str | None:
    """Why no post can come from these rows, told by the first; None if one can."""
    return problem_in(_read(part, 8))


def _cut(info: FileInfo, archive: str) -> Iterator[ArchivePart]:
    """The table's parts: where each begins, how many rows it has (None: all to the end)."""
    with storage.open_input(info.uri) as source:
        lines = _Lines(source, 0)
        records, borders = _records(lines, info.path), list[tuple[int, int]]()
        columns: list[str | None] = []
        fault = None
        try:
            header = next(records, [])
            columns, fault = _columns(header)
            borders.append((0, lines.offset))
            for row, _ in enumerate(records, 1):
                if row % PART_ROWS == 0 and lines.offset < info.size:
                    borders.append((row, lines.offset))
        except csv.Error:
            borders = borders or [(0, 0)]
    shared = {"archive": archive, "columns": columns, "fault": fault}
    ends = [*borders[1:], (None, info.size)]
    for (begin, offset), (end, stop) in zip(borders, ends, strict=True):
        selection = {**shared, "begin": begin, "rows": None if end is None else end - begin, "offset": offset}
        yield ArchivePart(info.uri, info.path, stop - offset, info.etag, info.modified, json.dumps(selection))


def _columns(header: list[str]) -> tuple[list[str | None], str | None]:
    """The field of each column (None: no field), and why the table holds no posts."""
    names = [name.strip().lower() for name in header]
    columns: list[str | None] = [None] * len(names)
    for field, aliases in NAMES.items():
        name = next((alias for alias in aliases if alias in names), None)
        if name is None:
            continue
        if names.count(name) > 1:
            return columns, f"{name}: column occurs twice"
        columns[names.index(name)] = field
    if "post_id" not in columns:
        return columns, f"post_id: column missing, found {', '.join(header)[:200] or 'no column'}"
    return columns, None


def _read(part: FileInfo, batch_rows: int) -> Iterator[PartBatch]:
    chosen = selection_of(part)
    with storage.open_input(part.uri) as source:
        rows = _rows(_Lines(source, chosen["offset"]), part.path, chosen)
        if "image" in chosen["columns"]:
            rows = with_images(rows, chosen["archive"])
        yield from batches(part.path, rows, chosen["begin"], batch_rows)


def _rows(lines: "_Lines", path: str, chosen: dict[str, Any]) -> Iterator[Post | Fault]:
    if chosen["fault"]:
        yield Fault(chosen["fault"], ends=True)
        return
    columns, row = chosen["columns"], chosen["begin"]
    try:
        for cells in itertools.islice(_records(lines, path), chosen["rows"]):
            held = {name: cell for name, cell in zip(columns, cells, strict=False) if name and cell}
            try:
                if len(cells) != len(columns):
                    raise ValueError(f"expected {len(columns)} cells, found {len(cells)}")
                yield _post(held)
            except ValueError as error:
                yield Fault(str(error), held.get("post_id"))
            row += 1
    except csv.Error as error:
        yield Fault(f"unreadable from row {row} on: {error} (a quote that is not closed?)", ends=True)


def _post(cells: dict[str, str]) -> Post:
    """The POST row of one row; ValueError that names field, expected and found."""
    if not cells.get("post_id", "").strip():
        raise unexpected("post_id", "a non-empty string", cells.get("post_id"))
    post: Post = {**cells, "created_at": read_time("created_at", cells.get("created_at", "").strip() or None)}
    if "hashtags" in cells:
        post["hashtags"] = _tags(cells["hashtags"])
    for name in ("latitude", "longitude"):
        post[name] = _degrees(name, cells.get(name))
    if path := post.pop("image", None):
        post["image_uri"] = path.strip()
    return post


def _tags(text: str) -> list[str]:
    sign = next((sign for sign in "|;," if sign in text), None)
    return [tag.strip() for tag in text.split(sign) if tag.strip()]


def _degrees(name: str, text: str | None) -> float | None:
    try:
        value = None if text is None else float(text)
    except ValueError:
        raise unexpected(name, "a number", text) from None
    if value is not None and not math.isfinite(value):
        raise unexpected(name, "a number", text)
    return value


class _Lines:
    """The lines of a table from a byte on, and the byte at which the next begins."""

    def __init__(self, source: Any, offset: int) -> None:
        self.file = io.BufferedReader(source, READ_BUFFER_BYTES)
        self.file.seek(offset)
        self.offset = offset

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self.file.readline()
        if not line:
            raise StopIteration
        text = line.decode("utf-8", "replace")
        text = text.removeprefix("\ufeff") if self.offset == 0 else text
        self.offset += len(line)
        return text


def _records(lines: _Lines, path: str) -> Iterator[list[str]]:
    """The rows of a table, blank ones left out; csv.Error where it cannot be read on."""
    csv.field_size_limit(MAX_CELL_CHARACTERS)  # the module has one for the process; its default is 131,072
    delimiter = DELIMITERS[path[path.rindex(".") :]]
    return (cells for cells in csv.reader(lines, delimiter=delimiter) if cells)


CSV = ArchiveFormat("csv", "*.csv and *.tsv with a header, at any depth, one post a row", list_parts, problem, _read)
