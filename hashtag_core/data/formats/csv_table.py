"""`csv`: tables with a header, `*.csv` and `*.tsv` (also `.gz`), at any depth.

Which columns are what, and where the pictures lie that they name: `formats.fields`. Others are named in the log and ignored;
an empty cell and `\\N` are null. A table's delimiter (comma, semicolon, tab, `|`) is told by its header, or by Excel's first line `sep=;`;
its encoding by its bytes (`formats.encodings`); `--delimiter` and `--encoding` go before. Cells with line ends are quoted as
RFC 4180 has it. `created_at` is ISO 8601 (no zone: UTC) or as `--date-format` says. `hashtags` are a list as JSON or Python
writes it, else separated by `|`, else by `;`, else by `,`, else by spaces; '#' may stand before each.

The driver reads each table once, streamed, to cut it between rows; a task reads its rows and no others (of a `.gz`, which
cannot be entered in the middle, all is one part). A quote that is never closed ends the part at MAX_CELL_CHARACTERS, with one
rejected row that says so. The tables decide what the archive is: a picture that is missing leaves its post without image
(`image_uri` says where it should be).
"""

import csv
import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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
from hashtag_core.data.formats.encodings import LineSurvey, chosen_encoding, is_wide
from hashtag_core.data.formats.fields import (
    Folder,
    below,
    first_values,
    look_through,
    match_columns,
    picture_folder,
    picture_path,
    unread_note,
)
from hashtag_core.data.listing import Listing
from hashtag_core.data.posts import PartBatch
from hashtag_core.data.reading import Reading
from hashtag_core.data.values import read_degrees, read_id, read_text, read_time, tags_in_text, unexpected
from hashtag_core.storage import FileInfo

TABLE = re.compile(r".+\.(?:csv|tsv|tab)(?:\.gz)?", re.IGNORECASE)
DELIMITERS = (",", ";", "\t", "|")
MAX_CELL_CHARACTERS = 8 << 20
READ_BUFFER_BYTES = 1 << 20

_SHORTENED = re.compile(r"\d(?:[.,]\d+)?E\+\d{2,}")
"""What Excel makes of a long id: many become one."""

NO_VALUE = "\\N"
"""What MySQL and PostgreSQL write for null."""

_NAMED_DELIMITER = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)


def survey(archive_uri: str, reading: Reading) -> Listing[ArchivePart]:
    """Runs of PART_ROWS rows of all tables, sorted by path."""
    folder = look_through(archive_uri, TABLE, "table")
    listing = Listing[ArchivePart](archive_uri, [], folder.tally, "tables (.csv, .tsv, also .gz)")
    for info in folder.files:
        parts, notes = _cut(info, folder, reading)
        listing.parts += parts
        listing.notes += notes
    return listing


def problem(part: FileInfo) -> str | None:
    """Why no post can come from these rows, told by the first; None if one can."""
    return problem_in(_read(part, 8))


@dataclass
class Dialect:
    """How a table is written. `encoding` is None where nobody can tell."""

    encoding: str | None
    delimiter: str
    begins: int
    """The byte at which the header begins, after a mark and after `sep=`."""
    ends: str = "\n"
    """How lines end; `\\r` alone is what Excel calls the Macintosh's."""

    @property
    def reads_bytes(self) -> bool:
        """Whether lines end at the byte that is a line feed."""
        return self.ends == "\n" and not is_wide(self.encoding or "utf-8")


def _cut(info: FileInfo, folder: Folder, reading: Reading) -> tuple[list[ArchivePart], list[str]]:
    """The table's parts (where each begins, how many rows it has; None: all to the end), and what to tell of it."""
    with storage.open_input(info.uri) as source:
        dialect = _dialect_of(source, info, reading)
        seen, was_known = LineSurvey(dialect.encoding), dialect.encoding is not None
        lines = _Lines(source, info.path, dialect, dialect.begins, seen)
        records, borders, header = _records(lines, dialect.delimiter), list[tuple[int, int]](), list[str]()
        try:
            header = next(records, [])
            borders.append((0, lines.offset))
            for row, _ in enumerate(records, 1):
                if row % PART_ROWS == 0 and lines.offset < info.size and not _is_packed(info.path):
                    borders.append((row, lines.offset))
        except (csv.Error, EOFError, zlib.error, gzip.BadGzipFile):
            borders = borders or [(0, dialect.begins)]
    dialect.encoding, told = seen.verdict()
    columns, fault = dict[str, str](), told if dialect.encoding is None else None
    if fault is None:
        header = header if was_known else [_decoded(cell, dialect) for cell in header]
        columns, fault = match_columns(header, reading)
    notes = [] if told is None else [f"{info.path}: {told}"]
    notes += [] if fault else unread_note(info.path, header, columns.values())
    by_column = {column: name for name, column in columns.items()}
    shared = {
        "archive": folder.root,
        "columns": [by_column.get(name) for name in header],
        "fault": fault,
        "dialect": vars(dialect),
        "date_format": reading.date_format,
        "pictures": "",
    }
    if {"image", "image_uri"} & set(columns) and fault is None:
        named = first_values(_first_rows(info, shared, borders[0][1]), ["image", "image_uri"])
        shared["pictures"] = picture_folder(folder, info, named) if named else ""
    parts = []
    for (begin, offset), (end, stop) in zip(borders, [*borders[1:], (None, info.size)], strict=True):
        selection = {**shared, "begin": begin, "rows": None if end is None else end - begin, "offset": offset}
        size = max(0, stop - offset) if len(borders) > 1 else info.size
        parts.append(ArchivePart(info.uri, info.path, size, info.etag, info.modified, json.dumps(selection)))
    return parts, notes


def _dialect_of(source: Any, info: FileInfo, reading: Reading) -> Dialect:
    """By the mark and the first lines; the encoding stays open where there is no mark and nobody named one."""
    begin = _first_bytes(source, info.path)
    encoding, begins = chosen_encoding(begin, reading.encoding)
    text = begin[begins:].decode(encoding or "latin-1", "replace")
    ends = "\r" if "\r" in text and "\n" not in text else "\n"
    first, end, _ = text.partition(ends)
    if named := _NAMED_DELIMITER.fullmatch(first.rstrip("\r")):
        begins += len((first + end).encode(encoding or "latin-1"))
        return Dialect(encoding, reading.delimiter or named[1], begins, ends)
    return Dialect(encoding, reading.delimiter or _sniffed(first, info.path), begins, ends)


def _sniffed(header: str, path: str) -> str:
    """The delimiter by which the header has the most fields of a post, then the most cells."""
    usual = "\t" if re.search(r"\.(?:tsv|tab)(?:\.gz)?$", path, re.IGNORECASE) else ","

    def found(delimiter: str) -> tuple[int, int, bool]:
        cells = next(csv.reader([header.rstrip("\r")], delimiter=delimiter), [])
        return len(match_columns(cells, Reading())[0]), len(cells), delimiter == usual

    try:
        return max(DELIMITERS, key=found)
    except csv.Error:
        return usual


def _first_bytes(source: Any, path: str) -> bytes:
    """The first 64 KiB; of a .gz that is cut off before, what there is."""
    source.seek(0)
    if not _is_packed(path):
        return bytes(source.read(1 << 16))
    unpacked, begin = gzip.GzipFile(fileobj=source), b""
    try:
        while len(begin) < 1 << 16 and (more := unpacked.read1()):
            begin += more
    except (EOFError, zlib.error, gzip.BadGzipFile):
        pass
    return begin


def _is_packed(path: str) -> bool:
    return path.lower().endswith(".gz")


def _first_rows(info: FileInfo, shared: dict[str, Any], offset: int) -> Iterator[dict[str, str]]:
    """Cells by field of the first rows, to see which pictures they name."""
    with storage.open_input(info.uri) as source:
        lines = _Lines(source, info.path, Dialect(**shared["dialect"]), offset)
        try:
            for cells in itertools.islice(_records(lines, lines.dialect.delimiter), 200):
                yield {name: cell for name, cell in zip(shared["columns"], cells, strict=False) if name and cell}
        except (csv.Error, EOFError, zlib.error, gzip.BadGzipFile):
            return


def _read(part: FileInfo, batch_rows: int, columns: Columns = None) -> Iterator[PartBatch]:
    chosen = selection_of(part)
    with storage.open_input(part.uri) as source:
        lines = _Lines(source, part.path, Dialect(**chosen["dialect"]), chosen["offset"])
        rows = _rows(lines, chosen)
        if {"image", "image_uri"} & set(chosen["columns"]):
            rows = with_images(rows, chosen["archive"], columns)
        yield from batches(part.path, rows, chosen["begin"], batch_rows, columns)


def _rows(lines: "_Lines", chosen: dict[str, Any]) -> Iterator[Post | Fault]:
    if chosen["fault"]:
        yield Fault(chosen["fault"], ends=True)
        return
    columns, row, dialect = chosen["columns"], chosen["begin"], lines.dialect
    try:
        for cells in itertools.islice(_records(lines, dialect.delimiter), chosen["rows"]):
            held = {
                name: cell for name, cell in zip(columns, cells, strict=False) if name and cell and cell != NO_VALUE
            }
            try:
                if len(cells) != len(columns):
                    raise ValueError(f"expected {len(columns)} cells, found {len(cells)}")
                yield _post(held, chosen)
            except ValueError as error:
                yield Fault(str(error), _shown_id(held.get("post_id")))
            row += 1
    except (csv.Error, EOFError, zlib.error, gzip.BadGzipFile) as error:
        hint = " (a quote that is not closed?)" if isinstance(error, csv.Error) else ""
        yield Fault(f"unreadable from row {row} on: {error}{hint}", ends=True)


def _post(cells: dict[str, str], chosen: dict[str, Any]) -> Post:
    """The POST row of one row; ValueError that names field, expected and found."""
    if isinstance(_bytes_or_text(cells.get("post_id", "")), bytes):
        encoding = (chosen["dialect"]["encoding"] or "utf-8").upper()
        raise ValueError(f"post_id: expected {encoding}, found bytes that are none")
    if _SHORTENED.fullmatch(cells.get("post_id", "").strip()):
        raise unexpected(
            "post_id", "an id, not a number that a spreadsheet shortened (format the column as text)", cells["post_id"]
        )
    if not cells.get("post_id", "").strip():
        raise unexpected("post_id", "a non-empty string", cells.get("post_id"))
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
        post["hashtags"] = _tags(post["hashtags"])
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


def _tags(text: str) -> list[str]:
    found = tags_in_text(text) if text.strip()[:1] in ("[", "{") else None
    if found is not None:
        return found
    sign = next((sign for sign in "|;," if sign in text), None)
    return [tag.strip() for tag in text.split(sign) if tag.strip()]


def _decoded(cell: str, dialect: Dialect) -> str:
    """A cell that was read before the encoding was known."""
    try:
        return cell.encode("latin-1").decode(dialect.encoding or "utf-8", "replace")
    except UnicodeEncodeError:
        return cell


class _Lines:
    """The lines of a table from a byte on (of a `.gz`: of what is packed in it), and the byte at which the next begins. Bytes
    that are not of the encoding become lone surrogates (`surrogateescape`). While the encoding is not known, Latin-1: it
    tells where cells and lines end as well, since all encodings that come in question hold ASCII."""

    def __init__(self, source: Any, path: str, dialect: Dialect, offset: int, survey: LineSurvey | None = None) -> None:
        source.seek(0)
        # Not a buffer over a .gz: where that is cut off, what lies in the buffer would be lost with the rest.
        self.file = gzip.GzipFile(fileobj=source) if _is_packed(path) else io.BufferedReader(source, READ_BUFFER_BYTES)
        self.file.seek(offset)
        self.offset = offset
        self.dialect = dialect
        self._survey, self._number = survey, 0
        self._encoding = dialect.encoding or "latin-1"
        self._text = None if dialect.reads_bytes else self._wrapped()

    def _wrapped(self) -> io.TextIOWrapper:
        wide = is_wide(self._encoding)
        return io.TextIOWrapper(
            self.file,
            self._encoding,
            "replace" if wide else "surrogateescape",
            newline="" if wide else self.dialect.ends,
        )

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if self._text is not None:
            text = self._text.readline()
            line = text.encode(self._encoding, "surrogatepass" if is_wide(self._encoding) else "surrogateescape")
            self.offset += len(line)
            if self._survey is not None and not is_wide(self._encoding):
                self._survey.add(line, self._number)
                self._number += 1
        else:
            line = self.file.readline()
            self.offset += len(line)
            if self._survey is not None:
                self._survey.add(line, self._number)
                self._number += 1
            text = line.decode(self._encoding, "surrogateescape")
        if not text:
            raise StopIteration
        return text


def _records(lines: _Lines, delimiter: str) -> Iterator[list[str]]:
    """The rows of a table, blank ones left out; csv.Error where it cannot be read on."""
    csv.field_size_limit(MAX_CELL_CHARACTERS)  # the module has one for the process; its default is 131,072
    return (cells for cells in csv.reader(lines, delimiter=delimiter) if cells)


CSV = ArchiveFormat("csv", "*.csv and *.tsv with a header, at any depth, one post a row", survey, problem, _read)
