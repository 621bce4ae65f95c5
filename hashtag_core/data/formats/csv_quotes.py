"""How quotes stand within the cells of a table: doubled, as RFC 4180 has it, or behind a backslash, as MySQL, Spark and Python's
`csv` with an `escapechar` write them. Both cannot be told from one cell (`"TV 24\\""` is a whole cell in one way and swallows
the next row in the other), so a table is read in both, and the way counts in which fewer lines are broken."""

import csv
import re
from collections.abc import Iterable, Iterator

MAX_CELL_CHARACTERS = 8 << 20

DOUBLED = ""
ALL = "all"
"""A backslash stands before every quote and every backslash: Python's `csv`, MySQL."""
WITHIN = "within"
"""As `ALL` within quotes; outside of them a backslash is a backslash: Spark."""
QUOTES_ALONE = "quotes"
"""A backslash stands before quotes and is itself elsewhere."""

SWALLOWED = "expected a row, found several lines with a quote among them that is not closed"

_RUN = re.compile(r'(\\+)("?)|"')


class Swallowed(list[str]):
    """Cells of several lines of which one has text behind a closing quote: a quote before was never closed, and lines that are
    rows of their own may be among them."""


class QuoteSurvey:
    """How well the rows of a table are written if quotes within cells are written in one way."""

    def __init__(self, delimiter: str, escape: str) -> None:
        self.broken = 0
        """Lines of rows that nobody writes so: with text behind a closing quote, a bare quote in a cell without quotes, or more or
        fewer cells than the header has."""
        self.single_within = self.single_outside = 0
        """Lines with a backslash that stands before neither a backslash nor what has to be behind one."""
        end = re.escape(delimiter)
        quoted, plain = r'"(?:[^"]|"")*+"', rf'[^"{end}\r\n]*+'
        if escape:
            quoted, plain = r'"(?:[^"\\]|\\.)*+"', rf'(?:[^"{end}\\\r\n]|\\.)*+'
        self._row = re.compile(rf"(?:{quoted}|{plain})(?:{end}(?:{quoted}|{plain}))*+[\r\n]*", re.DOTALL)
        self._width: int | None = None

    def add(self, lines: list[str], cells: list[str]) -> None:
        """Count one row."""
        self._width = self._width if self._width is not None else len(cells)
        quoted = len(lines) > 1 or '"' in lines[0]
        if (
            isinstance(cells, Swallowed)
            or len(cells) != self._width
            or (quoted and self._row.fullmatch("".join(lines)) is None)
        ):
            self.broken += len(lines)

    @property
    def escape(self) -> str:
        """Which backslashes stand behind another, told by those that do not."""
        if self.single_within:
            return QUOTES_ALONE
        return WITHIN if self.single_outside else ALL


class _Escapes:
    """Lines in which a backslash that is itself becomes two, so that a reader that knows backslashes gives every cell as it was."""

    def __init__(self, delimiter: str, escape: str, seen: QuoteSurvey | None) -> None:
        self.within = False
        """Whether the next line begins within quotes."""
        self._doubles_within = escape == QUOTES_ALONE
        self._doubles_outside = escape in (QUOTES_ALONE, WITHIN)
        self._seen = seen
        self._before, self._behind = delimiter, delimiter + "\r\n"

    def read(self, line: str) -> str:
        if "\\" in line:
            return _RUN.sub(self._run, line)
        self.within ^= line.count('"') % 2 == 1
        return line

    def _run(self, found: re.Match[str]) -> str:
        run, quote, line = found[1] or "", found[2], found.string
        single, within = len(run) % 2 == 1, self.within
        if not run or (quote and not single):
            self.within = not within
        doubles = self._doubles_within if within else self._doubles_outside
        if single and not quote:
            behind = line[found.end() : found.end() + 1]
            if run == "\\" and behind == "N" and not within and self._is_cell(line, found.start(), found.end() + 1):
                return "\\\\"  # a database's word for none
            if behind not in ("\r\n" if within else self._behind) and self._seen is not None:
                self._seen.single_within += within
                self._seen.single_outside += not within
        if not doubles or not run:
            return found[0]
        return run[1:] * 2 + '\\"' if quote and single else run * 2 + quote

    def _is_cell(self, line: str, begin: int, end: int) -> bool:
        return (begin == 0 or line[begin - 1] in self._before) and (end == len(line) or line[end] in self._behind)


def rows(lines: Iterable[str], delimiter: str, escape: str, seen: QuoteSurvey | None = None) -> Iterator[list[str]]:
    """The rows of a table, blank ones left out; csv.Error where it cannot be read on, also at its end within a quote that
    has swallowed lines (one line without its closing quote is the row that it looks like)."""
    csv.field_size_limit(MAX_CELL_CHARACTERS)  # the module has one for the process; its default is 131,072
    escapes = _Escapes(delimiter, escape, seen) if escape else None
    waiting: list[str] = []
    read: list[str] = [] if escapes else waiting
    ended = False

    def remembered() -> Iterator[str]:
        nonlocal ended
        for line in lines:
            waiting.append(line)
            if escapes:
                read.append(line := escapes.read(line))
            yield line
        ended = True

    sign = "\\" if escape else None
    for cells in csv.reader(remembered(), delimiter=delimiter, escapechar=sign):
        if ended and len(waiting) > 1:  # a row is given out before the next line is asked for, but within a quote
            raise csv.Error(f"the table ends within a quote that {len(waiting)} line(s) before was opened")
        if cells:
            row = cells if len(waiting) == 1 or _is_well_quoted(read, delimiter, sign) else Swallowed(cells)
            if seen is not None:
                seen.add(waiting, row)
            yield row
        waiting.clear()
        if escapes:
            read.clear()
            escapes.within = False


def survey(lines: Iterable[str], delimiter: str, escape: str) -> QuoteSurvey:
    """Go through a whole table."""
    seen, read = QuoteSurvey(delimiter, escape), 0

    def counted() -> Iterator[str]:
        nonlocal read
        for line in lines:
            read += 1
            yield line

    unread = counted()
    try:
        for _ in rows(unread, delimiter, escape, seen):
            read = 0
    except csv.Error:
        seen.broken += read + sum(1 for _ in unread)
    return seen


def _is_well_quoted(lines: list[str], delimiter: str, escape: str | None) -> bool:
    try:
        return bool(list(csv.reader(lines, delimiter=delimiter, escapechar=escape, strict=True)))
    except csv.Error:
        return False
