"""How tables of text are written, and their lines: delimiter, encoding, line ends, packing, and how quotes stand in a cell."""

import contextlib
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from hashtag_core.data.file_signatures import other_content
from hashtag_core.data.formats.csv_quotes import ALL, DOUBLED, QuoteSurvey, rows, survey
from hashtag_core.data.formats.encodings import LineSurvey, chosen_encoding, is_wide
from hashtag_core.data.formats.fields import match_columns
from hashtag_core.data.formats.packing import NAMED, PackingError, first_bytes, lent, unpacked
from hashtag_core.data.reading_options import Reading
from hashtag_core.data.values import says_none, unexpected
from hashtag_core.storage import FileInfo

DELIMITERS = (",", ";", "\t", "|")
READ_BUFFER_BYTES = 1 << 20
FIRST_BYTES = 1 << 16
"""Of a table, that are looked at for its header."""

_NAMED_DELIMITER = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)


class DialectRecord(TypedDict):
    """A `Dialect`, as parts carry it."""

    encoding: str | None
    delimiter: str
    begins: int
    ends: str
    packing: str | None
    escape: str


@dataclass
class Dialect:
    """How a table is written. `encoding` is None where nobody can tell."""

    encoding: str | None
    delimiter: str
    begins: int
    """The byte at which the header begins, after a mark and after `sep=`."""
    ends: str = "\n"
    """How lines end; `\\r` alone is what Excel calls the Macintosh's."""
    packing: str | None = None
    escape: str = DOUBLED
    """How quotes stand within a cell: `csv_quotes`."""

    def to_json(self) -> DialectRecord:
        """What `Dialect(**value)` takes."""
        return {
            "encoding": self.encoding,
            "delimiter": self.delimiter,
            "begins": self.begins,
            "ends": self.ends,
            "packing": self.packing,
            "escape": self.escape,
        }

    @property
    def reads_bytes(self) -> bool:
        """Whether lines end at the byte that is a line feed."""
        return self.ends == "\n" and not is_wide(self.encoding or "utf-8")


def dialect_of(source: Any, info: FileInfo, reading: Reading) -> tuple[Dialect, str | None]:
    """By the mark and the first lines, and what the file is if it is no table; the encoding stays open where there is no mark and
    nobody named one."""
    begin, packing, _ = first_bytes(source, FIRST_BYTES)  # of what is cut off before, what there is
    encoding, begins = chosen_encoding(begin, reading.encoding)
    text = begin[begins:].decode(encoding or "latin-1", "replace")
    ends = "\r" if "\r" in text and "\n" not in text else "\n"
    first, end, _ = text.partition(ends)
    if named := _NAMED_DELIMITER.fullmatch(first.rstrip("\r")):
        begins += len((first + end).encode(encoding or "latin-1"))
        return Dialect(encoding, reading.delimiter or named[1], begins, ends, packing), None
    delimiter = reading.delimiter or _sniffed(first, info.path)
    other = other_content(begin)
    if begin and reading.encoding and is_wide(encoding or "") and 0 not in begin:  # a header holds letters of ASCII
        other = f"text that is no {reading.encoding.upper()}, which --encoding names"
    return Dialect(encoding, delimiter, begins, ends, packing), other


def _sniffed(header: str, path: str) -> str:
    """The delimiter by which the header has the most fields of a post, then the most cells."""
    usual = "\t" if re.search(rf"\.(?:tsv|tab){NAMED}$", path, re.IGNORECASE) else ","

    def found(delimiter: str) -> tuple[int, int, bool]:
        cells = next(csv.reader([header.rstrip("\r")], delimiter=delimiter), [])
        return len(match_columns(cells, Reading())[0]), len(cells), delimiter == usual

    try:
        return max(DELIMITERS, key=found)
    except csv.Error:
        return usual


class Lines:
    """The lines of a table from a byte on (of a packed one: of what is packed in it), and the byte at which the next begins. Bytes
    that are not of the encoding become lone surrogates (`surrogateescape`). While the encoding is not known, Latin-1: it
    tells where cells and lines end as well, since all encodings that come in question hold ASCII."""

    def __init__(self, source: Any, dialect: Dialect, offset: int, survey: LineSurvey | None = None) -> None:
        if dialect.packing is not None:
            self.file = unpacked(source, dialect.packing, offset)
        else:
            self.file = io.BufferedReader(lent(source, offset), READ_BUFFER_BYTES)
        self.escapes = False
        """Whether a survey met a quote behind a backslash."""
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

    def __iter__(self) -> "Lines":
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
        if self._survey is not None and '\\"' in text:
            self.escapes = True
        return text


def records(lines: Lines) -> Iterator[list[str]]:
    """The rows of a table from where `lines` begins, which is not within one; see `csv_quotes.rows`."""
    return rows(lines, lines.dialect.delimiter, lines.dialect.escape)


ID_FIELDS = ("post_id", "user_id")
_SHORTENED = re.compile(r"\d(?:[.,]\d+)?[Ee]\+\d{2,}")
"""What Excel and floats make of a long id: many become one."""
_FLOAT_ID = re.compile(r"-?\d{1,15}\.0")


@dataclass
class TableLook:
    """What going through a whole table tells: its header, where parts begin (row, byte), its encoding, and why it cannot be
    read on."""

    seen: LineSurvey
    header: list[str]
    borders: list[tuple[int, int]]
    escapes: bool = False
    """Whether quotes stand behind backslashes anywhere."""
    broken: str | None = None
    other: str | None = None
    """What the file is if it is no table."""
    note: str | None = None
    """What a person should know of the encoding, or why there is none."""
    float_ids: list[str] = field(default_factory=list)
    """Fields of ids of which some are missing and every other one is a whole number with `.0`: pandas' integers with gaps."""
    none_ids: Counter[str] = field(default_factory=Counter)
    """Words that say none among the ids, and how often: one that stands there again is no id."""


def _gone_through(source: Any, info: FileInfo, dialect: Dialect, reading: Reading, part_rows: int) -> TableLook:
    found = TableLook(LineSurvey(dialect.encoding), [], [])
    lines: Lines | None = None
    try:
        lines = Lines(source, dialect, dialect.begins, found.seen)
        found_rows = records(lines)
        found.header = next(found_rows, [])
        found.borders.append((0, lines.offset))
        columns = match_columns(found.header, reading)[0]
        ids = {name: found.header.index(column) for name in ID_FIELDS if (column := columns.get(name)) in found.header}
        floats: dict[str, bool] = {}
        gaps: set[str] = set()
        for row, cells in enumerate(found_rows, 1):
            for name, position in ids.items():
                cell = cells[position].strip() if position < len(cells) else ""
                if not cell or says_none(cell):
                    gaps.add(name)
                    found.none_ids[cell] += name == "post_id" and bool(cell)
                else:
                    floats[name] = floats.get(name, True) and _FLOAT_ID.fullmatch(cell) is not None
            if row % part_rows == 0 and lines.offset < info.size and dialect.packing is None:
                found.borders.append((row, lines.offset))
        found.float_ids = [name for name, whole in floats.items() if whole and name in gaps]
    except (csv.Error, PackingError) as error:
        found.broken = str(error)
        found.borders = found.borders or [(0, dialect.begins)]
    found.escapes = lines is not None and lines.escapes
    return found


def id_in_cell(name: str, cell: str, float_ids: Sequence[str]) -> str:
    """An id as the table means it: an integer that pandas wrote as a float is one again in the fields of `float_ids`. ValueError
    for a number that was shortened."""
    if _SHORTENED.fullmatch(cell.strip()):
        raise unexpected(name, "an id, not a number that a spreadsheet shortened (format the column as text)", cell)
    return cell.strip().removesuffix(".0") if name in float_ids else cell


def look_at(source: Any, info: FileInfo, reading: Reading, part_rows: int = 1 << 62) -> tuple[Dialect, TableLook]:
    """How a table is written (its encoding None where a person has to say), and what going through it tells; `part_rows`: after how
    many rows a border is noted. The table is read once, and twice more where quotes may stand behind backslashes."""
    dialect, other = dialect_of(source, info, reading)
    was_known = dialect.encoding is not None
    found = _gone_through(source, info, dialect, reading, part_rows)
    if found.escapes and (escape := _escape(source, dialect)) != dialect.escape:
        dialect.escape = escape
        found = _gone_through(source, info, dialect, reading, part_rows)
    found.other = other
    dialect.encoding, found.note = found.seen.verdict()
    if not was_known:
        found.header = [_decoded(cell, dialect) for cell in found.header]
    return dialect, found


def _escape(source: Any, dialect: Dialect) -> str:
    """How quotes stand within the cells of a table: as fewer of its lines are broken; doubled where both ways are good."""

    def lines() -> Iterator[str]:
        with contextlib.suppress(PackingError):
            yield from Lines(source, dialect, dialect.begins)

    def seen(escape: str) -> QuoteSurvey:
        return survey(lines(), dialect.delimiter, escape)

    doubled = seen(DOUBLED)
    if not doubled.broken:
        return DOUBLED
    escaped = seen(ALL)
    if (escape := escaped.escape) != ALL:
        escaped = seen(escape)
    return escape if escaped.broken < doubled.broken else DOUBLED


def _decoded(cell: str, dialect: Dialect) -> str:
    """A cell that was read before the encoding was known."""
    try:
        return cell.encode("latin-1").decode(dialect.encoding or "utf-8", "replace")
    except UnicodeEncodeError:
        return cell
