"""How tables of text are written, and their lines: delimiter, encoding, line ends, packing, and how quotes stand in a cell."""

import contextlib
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hashtag_core.data.contents import other_content
from hashtag_core.data.formats.encodings import LineSurvey, chosen_encoding, is_wide
from hashtag_core.data.formats.fields import match_columns
from hashtag_core.data.formats.packing import NAMED, PackingError, lent, packing_of, unpacked
from hashtag_core.data.reading import Reading
from hashtag_core.data.values import says_none
from hashtag_core.storage import FileInfo

DELIMITERS = (",", ";", "\t", "|")
MAX_CELL_CHARACTERS = 8 << 20
READ_BUFFER_BYTES = 1 << 20

_ESCAPED_QUOTE = re.compile(r'(?<!\\)((?:\\\\)*)\\"')
"""A quote behind a backslash that is not itself behind one."""

_NAMED_DELIMITER = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)


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
    escaped: bool = False
    """Whether quotes within a cell stand behind a backslash."""

    @property
    def reads_bytes(self) -> bool:
        """Whether lines end at the byte that is a line feed."""
        return self.ends == "\n" and not is_wide(self.encoding or "utf-8")


def dialect_of(source: Any, info: FileInfo, reading: Reading) -> tuple[Dialect, str | None]:
    """By the mark and the first lines, and what the file is if it is no table; the encoding stays open where there is no mark and
    nobody named one."""
    begin, packing = _first_bytes(source)
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


def _first_bytes(source: Any) -> tuple[bytes, str | None]:
    """The first 64 KiB, and how they were packed; of what is cut off before, what there is."""
    source.seek(0)
    begin = bytes(source.read(1 << 16))
    packing, held = packing_of(begin), b""
    if packing is None:
        return begin, None
    with contextlib.suppress(PackingError):
        stream = unpacked(source, packing)
        while len(held) < 1 << 16 and (more := stream.read1()):
            held += more
    return held, packing


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
        """Whether a quote behind a backslash was met where a doubled one would have to be."""
        self._escape = None
        if survey is not None and not dialect.escaped:
            end = re.escape(dialect.delimiter)
            self._escape = re.compile(rf'(?:^|{end})"[^"]*\\"(?=[^"\r\n{end}])')
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
        if self.dialect.escaped and '\\"' in text:
            return _ESCAPED_QUOTE.sub(r'\1""', text)
        if self._escape is not None and '\\"' in text and self._escape.search(text):
            self.escapes = True
        return text


class Swallowed(list[str]):
    """Cells of several lines of which one has text behind a closing quote: a quote before was never closed, and lines that are
    rows of their own may be among them."""


SWALLOWED = "expected a row, found several lines with a quote among them that is not closed"


def records(lines: Lines) -> Iterator[list[str]]:
    """The rows of a table, blank ones left out; csv.Error where it cannot be read on, also at its end within a quote that
    has swallowed lines (one line without its closing quote is the row that it looks like)."""
    csv.field_size_limit(MAX_CELL_CHARACTERS)  # the module has one for the process; its default is 131,072
    held: list[str] = []
    ended = False

    def remembered() -> Iterator[str]:
        nonlocal ended
        for line in lines:
            held.append(line)
            yield line
        ended = True

    delimiter = lines.dialect.delimiter
    for cells in csv.reader(remembered(), delimiter=delimiter):
        if ended and len(held) > 1:  # a row is given out before the next line is asked for, but within a quote
            raise csv.Error(f"the table ends within a quote that {len(held)} line(s) before was opened")
        if cells:
            yield cells if len(held) == 1 or _is_well_quoted(held, delimiter) else Swallowed(cells)
        held.clear()


def _is_well_quoted(lines: list[str], delimiter: str) -> bool:
    try:
        return bool(list(csv.reader(lines, delimiter=delimiter, strict=True)))
    except csv.Error:
        return False


ID_FIELDS = ("post_id", "user_id")
_FLOAT_ID = re.compile(r"-?\d{1,15}\.0")


@dataclass
class TableLook:
    """What going through a whole table tells: its header, where parts begin (row, byte), its encoding, whether there are quotes
    behind backslashes, and why it cannot be read on."""

    seen: LineSurvey
    header: list[str]
    borders: list[tuple[int, int]]
    escapes: bool = False
    broken: str | None = None
    other: str | None = None
    """What the file is if it is no table."""
    told: str | None = None
    """What a person should know of the encoding, or why there is none."""
    float_ids: list[str] = field(default_factory=list)
    """Fields of ids of which some are missing and every other one is a whole number with `.0`: pandas' integers with gaps."""
    none_ids: Counter[str] = field(default_factory=Counter)
    """Words that say none among the ids, and how often: one that stands there again is no id."""


def _gone_through(source: Any, info: FileInfo, dialect: Dialect, reading: Reading, part_rows: int) -> TableLook:
    found = TableLook(LineSurvey(dialect.encoding), [], [])
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
            for name, place in ids.items():
                cell = cells[place].strip() if place < len(cells) else ""
                if not cell or says_none(cell):
                    gaps.add(name)
                    found.none_ids[cell] += name == "post_id" and bool(cell)
                else:
                    floats[name] = floats.get(name, True) and _FLOAT_ID.fullmatch(cell) is not None
            if row % part_rows == 0 and lines.offset < info.size and dialect.packing is None:
                found.borders.append((row, lines.offset))
            if lines.escapes:
                break
        found.escapes = lines.escapes
        found.float_ids = [name for name, whole in floats.items() if whole and name in gaps]
    except (csv.Error, PackingError) as error:
        found.broken = str(error)
        found.borders = found.borders or [(0, dialect.begins)]
    return found


def look_at(source: Any, info: FileInfo, reading: Reading, part_rows: int = 1 << 62) -> tuple[Dialect, TableLook]:
    """How a table is written (its encoding None where a person has to say), and what going through it tells; `part_rows`: after how
    many rows a border is noted. The table is read once, and once more where quotes stand behind backslashes."""
    dialect, other = dialect_of(source, info, reading)
    was_known = dialect.encoding is not None
    found = _gone_through(source, info, dialect, reading, part_rows)
    if found.escapes:
        dialect.escaped = True
        found = _gone_through(source, info, dialect, reading, part_rows)
    found.other = other
    dialect.encoding, found.told = found.seen.verdict()
    if not was_known:
        found.header = [_decoded(cell, dialect) for cell in found.header]
    return dialect, found


def _decoded(cell: str, dialect: Dialect) -> str:
    """A cell that was read before the encoding was known."""
    try:
        return cell.encode("latin-1").decode(dialect.encoding or "utf-8", "replace")
    except UnicodeEncodeError:
        return cell
