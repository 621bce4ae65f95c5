"""`csv`: tables with a header, `*.csv` and `*.tsv` (also packed: `formats.packing`), at any depth.

Which columns are what, and where the pictures lie that they name: `formats.fields`. Others are named in the log and ignored;
an empty cell is null, and so is one that holds what databases, pandas, R and spreadsheets write for none (`values.NO_VALUES`;
an id such as `NULL` where several rows have it). A table's delimiter (comma, semicolon, tab, `|`) is told by its header, or by Excel's first line `sep=;`;
its encoding by its bytes (`formats.encodings`); `--delimiter` and `--encoding` go before. Cells with line ends are quoted as
RFC 4180 has it. Quotes within a cell are doubled, or stand behind a backslash, as Spark, MySQL and Python's `csv` may write them: told by
the whole table (`formats.csv_quotes`). `created_at` is ISO 8601 (no zone: UTC) or as `--date-format` says. `hashtags` are a list as JSON or Python
writes it, else separated by `|`, else by `;`, else by `,`, else by spaces; '#' may stand before each.

The driver reads each table once, streamed, to cut it between rows; a task reads its rows and no others (of a packed table, which
cannot be entered in the middle, all is one part). A quote that is never closed ends the part at MAX_CELL_CHARACTERS, with one
rejected row that says so. The tables decide what the archive is: a picture that is missing leaves its post without image
(`image_uri` says where it should be).
"""

import csv
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any, TypedDict

from hashtag_core import storage
from hashtag_core.data.formats.base import (
    LENIENT,
    PART_ROWS,
    ArchiveFormat,
    ArchivePart,
    Columns,
    Fault,
    Post,
    batches,
    problem_in,
    selection_of,
    with_images,
)
from hashtag_core.data.formats.csv_lines import ID_FIELDS, Dialect, DialectRecord, Lines, id_in_cell, look_at, records
from hashtag_core.data.formats.csv_quotes import SWALLOWED, Swallowed
from hashtag_core.data.formats.fields import (
    Folder,
    below,
    first_values,
    look_through,
    match_columns,
    picture_folder,
    picture_path,
)
from hashtag_core.data.formats.packing import NAMED, PackingError
from hashtag_core.data.list_parts import Listing
from hashtag_core.data.parquet_rows import PartBatch
from hashtag_core.data.reading_options import Reading, unread_note
from hashtag_core.data.values import read_degrees, read_id, read_text, read_time, says_none, tags_in_text, unexpected
from hashtag_core.storage import FileInfo

TABLE = re.compile(rf".+\.(?:csv|tsv|tab){NAMED}", re.IGNORECASE)

DATABASE_NULL = "\\N"
"""What MySQL and PostgreSQL write for null, which no id is."""


class TableSelection(TypedDict):
    """How a table is read: the same for all its parts."""

    archive: str
    columns: list[list[str]]
    """The fields of POST in each column: a name of a file may be id and picture."""
    fault: str | None
    dialect: DialectRecord
    date_format: str | None
    pictures: str
    float_ids: list[str]
    none_ids: list[str]


class RowsSelection(TableSelection):
    """A part: from which row and byte on, and how many rows (None: all to the end)."""

    begin: int
    rows: int | None
    offset: int


def survey(archive_uri: str, reading: Reading) -> Listing[ArchivePart]:
    """Runs of PART_ROWS rows of all tables, sorted by path."""
    folder = look_through(archive_uri, TABLE, "table")
    listing = Listing[ArchivePart](
        archive_uri, [], folder.tally, "tables (.csv, .tsv, also .gz, .bz2, .xz, .zst, .zip)"
    )
    for info in folder.files:
        parts, notes = _cut(info, folder, reading)
        listing.parts += parts
        listing.notes += notes
    return listing


def problem(part: FileInfo) -> str | None:
    """Why no post can come from these rows, told by the first; None if one can."""
    return problem_in(_read(part, 8))


def _cut(info: FileInfo, folder: Folder, reading: Reading) -> tuple[list[ArchivePart], list[str]]:
    """The table's parts (where each begins, how many rows it has; None: all to the end), and what to tell of it."""
    with storage.open_input(info.uri) as source:
        dialect, found = look_at(source, info, reading, PART_ROWS)
    header, borders, note = found.header, found.borders, found.note
    columns, fault = dict[str, str](), note if dialect.encoding is None else None
    if found.other is not None or (found.broken is not None and not header):
        fault = f"expected a table, found: {found.other or found.broken}"
    if fault is None:
        columns, fault = match_columns(header, reading)
        if fault and not header:
            fault = "expected a table with a header, found an empty file"
        elif fault and len(header) == 1:
            fault += f"; one column alone is found with {_spoken(dialect.delimiter)} between them (--delimiter names another sign)"
    notes = [] if note is None else [f"{info.path}: {note}"]
    notes += [] if fault else unread_note(info.path, header, columns.values())
    shared: TableSelection = {
        "archive": folder.root,
        "columns": [[name for name, column in columns.items() if column == title] for title in header],
        "fault": fault,
        "dialect": dialect.to_json(),
        "date_format": reading.date_format,
        "pictures": "",
        "float_ids": found.float_ids,
        "none_ids": [word for word, times in found.none_ids.items() if times > 1],
    }
    if {"image", "image_uri"} & set(columns) and fault is None:
        named = first_values(_first_rows(info, shared, borders[0][1]), ["image", "image_uri"])
        shared["pictures"] = picture_folder(folder, info, named) if named else ""
    parts = []
    for (begin, offset), (end, stop) in zip(borders, [*borders[1:], (None, info.size)], strict=True):
        selection: RowsSelection = {
            **shared,
            "begin": begin,
            "rows": None if end is None else end - begin,
            "offset": offset,
        }
        size = max(0, stop - offset) if len(borders) > 1 else info.size
        parts.append(ArchivePart(info.uri, info.path, size, info.etag, info.modified, json.dumps(selection)))
    return parts, notes


def _spoken(delimiter: str) -> str:
    return "tabs" if delimiter == "\t" else repr(delimiter)


def _first_rows(info: FileInfo, shared: TableSelection, offset: int) -> Iterator[dict[str, str]]:
    """Cells by field of the first rows, to see which pictures they name."""
    with storage.open_input(info.uri) as source:
        try:
            lines = Lines(source, Dialect(**shared["dialect"]), offset)
            for cells in itertools.islice(records(lines), 200):
                yield _by_field(shared["columns"], cells)
        except (csv.Error, PackingError):
            return


def _by_field(columns: list[list[str]], cells: list[str]) -> dict[str, str]:
    """The cells that hold something, by field; `columns` has the fields of each column."""
    return {name: cell for names, cell in zip(columns, cells, strict=False) if cell for name in names}


def _read(part: FileInfo, batch_rows: int, columns: Columns = None) -> Iterator[PartBatch]:
    chosen: RowsSelection = selection_of(part)
    with storage.open_input(part.uri) as source:
        rows = _rows(source, chosen)
        if {"image", "image_uri"} & set(itertools.chain(*chosen["columns"])):
            rows = with_images(rows, chosen["archive"], columns)
        yield from batches(part.path, rows, chosen["begin"], batch_rows, columns)


def _rows(source: Any, chosen: RowsSelection) -> Iterator[Post | Fault]:
    if chosen["fault"]:
        yield Fault(chosen["fault"], ends=True)
        return
    columns, row = chosen["columns"], chosen["begin"]
    try:
        lines = Lines(source, Dialect(**chosen["dialect"]), chosen["offset"])
        for cells in itertools.islice(records(lines), chosen["rows"]):
            values = {
                name: cell
                for name, cell in _by_field(columns, cells).items()
                if (not says_none(cell) if name != "post_id" else cell.strip() != DATABASE_NULL)
            }
            try:
                if isinstance(cells, Swallowed):
                    raise ValueError(SWALLOWED)
                if len(cells) != len(columns):
                    raise ValueError(f"expected {len(columns)} cells, found {len(cells)}")
                yield _post(values, chosen)
            except ValueError as error:
                yield Fault(str(error), _shown_id(values.get("post_id")))
            row += 1
    except (csv.Error, PackingError) as error:
        hint = " (a quote that is not closed?)" if isinstance(error, csv.Error) and "quote" not in str(error) else ""
        yield Fault(f"unreadable from row {row} on: {error}{hint}", ends=True)


def _post(cells: dict[str, str], chosen: RowsSelection) -> Post:
    """The POST row of one row; ValueError that names field, expected and found."""
    if isinstance(_bytes_or_text(cells.get("post_id", "")), bytes):
        encoding = (chosen["dialect"]["encoding"] or "utf-8").upper()
        raise ValueError(f"post_id: expected {encoding}, found bytes that are none")
    for name in ID_FIELDS:
        if name in cells:
            cells = {**cells, name: id_in_cell(name, cells[name], chosen["float_ids"])}
    if not cells.get("post_id", "").strip():
        raise unexpected("post_id", "a non-empty string", cells.get("post_id"))
    if cells["post_id"].strip() in chosen["none_ids"]:
        raise unexpected("post_id", "an id, and several rows say that they have none", cells["post_id"])
    post: Post = {
        **cells,
        "created_at": read_time("created_at", cells.get("created_at", "").strip() or None, chosen["date_format"]),
    }
    if "user_id" in cells:
        post["user_id"] = read_id("user_id", _bytes_or_text(cells["user_id"]))
    for name in ("caption", "hashtags", "image", "image_uri"):
        if name in cells:
            post[name] = read_text(name, _bytes_or_text(cells[name]))
    if "hashtags" in cells:
        post["hashtags"] = tags_in_cell(post["hashtags"])
    for name in ("latitude", "longitude"):
        cell = cells.get(name)
        comma = cell is not None and chosen["dialect"]["delimiter"] != "," and "." not in cell
        post[name] = read_degrees(name, cell.replace(",", ".") if cell is not None and comma else cell)
    path = post.pop("image", None)
    written = path or post.get("image_uri")
    post[LENIENT] = not path
    if written and written.strip():
        post["image_uri"] = below(chosen["pictures"], picture_path(written))
    return post


def _bytes_or_text(cell: str) -> str | bytes:
    """The cell, or its bytes where some of them are not of the table's encoding."""
    try:
        cell.encode("utf-8")
        return cell
    except UnicodeEncodeError:
        return cell.encode("utf-8", "surrogateescape")


def _shown_id(cell: str | None) -> str | None:
    return None if cell is None else cell.encode("utf-8", "surrogateescape").decode("utf-8", "replace") or None


def tags_in_cell(text: str) -> list[str]:
    """The hashtags of a cell, however they are parted."""
    found = tags_in_text(text) if text.strip().startswith(("[", "{", "(", "array(", "set()")) else None
    if found is not None:
        return found
    if re.fullmatch(
        r"\s*\[.*\]\s*", text, re.DOTALL
    ):  # as Athena and DuckDB write a list: without quotes, parted by commas
        return [tag for item in text.strip()[1:-1].split(",") if (tag := item.strip().strip("'\""))]
    sign = next((sign for sign in "|;," if sign in text), None)
    return [tag.strip() for tag in text.split(sign) if tag.strip()]


CSV = ArchiveFormat("csv", "*.csv and *.tsv with a header, at any depth, one post a row", survey, problem, _read)
