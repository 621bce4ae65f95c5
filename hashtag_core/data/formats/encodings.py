"""Which encoding a file of text is in: told by a byte order mark, by the person, or by all of its lines; never guessed in
silence. UTF-8 where the lines are; Windows-1252 where they are not and look like western text in it; else the person is asked.
"""

import codecs
import re

from hashtag_core.errors import ConfigError

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
KEPT_LINES = 500
MOST_HIGH_LETTERS = 0.3
"""Share of letters beyond ASCII that western text stays below; Cyrillic, Greek or Hebrew read as Windows-1252 is nearly all of them."""

_WORDY = re.compile(r"[^\W\d_]")
_INSIDE = re.compile(r"(?<=([^\W\d_]))([\x80-\uffff])(?=[^\W\d_])")
_ALLOWED_INSIDE = set("’‘´`·\u00ad–—\u00a0…ªº°")
"""Signs that do stand between letters in western text; others there are letters of another encoding."""


def known_encoding(name: str, flag: str = "archive.encoding") -> str:
    """The codec's own name. ConfigError where Python has none of that name."""
    try:
        b"x".decode(name, "replace")  # not only looked up: there are codecs that make no text
        return codecs.lookup(name).name
    except LookupError:
        raise ConfigError(
            f"{flag}: Python knows no encoding {name!r} (utf-8, cp1252, cp1251, shift_jis, gb18030, ...)"
        ) from None


def marked(begin: bytes) -> tuple[str, int] | None:
    """The encoding that a byte order mark (or, for UTF-16 without one, the zeros in it) tells, and the mark's length."""
    found = next(((name, len(mark)) for mark, name in MARKS if begin.startswith(mark)), None)
    if (
        found is None and len(begin) >= 8
    ):  # UTF-16 without a mark: text that begins in ASCII has a zero in every other byte
        for name, zeros, others in (
            ("utf-16-le", begin[1:64:2], begin[:64:2]),
            ("utf-16-be", begin[:64:2], begin[1:64:2]),
        ):
            if not any(zeros) and all(others):
                return name, 0
    return found


def is_wide(encoding: str) -> bool:
    """Whether a line end is more than one byte."""
    return encoding.replace("_", "-").startswith(("utf-16", "utf-32"))


def chosen_encoding(begin: bytes, named: str | None) -> tuple[str | None, int]:
    """The encoding that the mark at a file's beginning tells, else the one that a person named, and the mark's length."""
    if mark := marked(begin):
        return mark
    encoding = known_encoding(named) if named else None
    if encoding and is_wide(encoding) and not encoding.endswith(("-le", "-be")):
        encoding += "-le"
    return encoding, 0


class LineSurvey:
    """What the bytes of a file's lines tell of its encoding, collected while they are read for something else."""

    def __init__(self, encoding: str | None = None) -> None:
        self.known = encoding
        self.sound = self.broken = 0
        """Lines beyond ASCII that are UTF-8, and that are not."""
        self.first_broken: tuple[int, int] | None = None
        """Number of the first line that is not, and the byte in it."""
        self._kept: list[bytes] = []

    def add(self, line: bytes, number: int) -> None:
        """Count one line."""
        if line.isascii():
            return
        try:
            line.decode(self.known or "utf-8")
            self.sound += 1
        except UnicodeDecodeError as error:
            self.broken += 1
            self.first_broken = self.first_broken or (number, line[error.start])
            if len(self._kept) < KEPT_LINES:
                self._kept.append(line)

    def verdict(self) -> tuple[str | None, str | None]:
        """The encoding (None: the person has to say) and what to tell."""
        encoding = self.known or "utf-8"
        if self.first_broken is None:
            return encoding, None
        number, byte = self.first_broken
        where = f"byte 0x{byte:02x} in line {number + 1}"
        if self.known or self.sound > self.broken:
            return encoding, (
                f"{self.broken} line(s) hold bytes that are no {encoding.upper()} ({where}): shown as U+FFFD in text, refused in "
                "ids (--encoding names another encoding)"
            )
        if looks_western(b"".join(self._kept)):
            return "cp1252", f"no UTF-8 ({where}), read as Windows-1252 (--encoding names another encoding)"
        return (
            None,
            f"expected UTF-8, found {where}, and not certainly Windows-1252: name it with --encoding (cp1251, shift_jis, ...)",
        )


def decode_text(data: bytes, encoding: str | None = None, *, strict: bool = False) -> str:
    """A whole text: in the encoding that was named, else UTF-8, else Windows-1252 where it is certain. Bytes that are neither
    become U+FFFD; `strict`, a text of which nobody can tell is a ValueError that names the flag."""
    known, begins = chosen_encoding(data, encoding)
    if known is None:
        seen = LineSurvey()
        for number, line in enumerate(data.splitlines(keepends=True)):
            seen.add(line, number)
        known, note = seen.verdict()
        if known is None and strict:
            raise ValueError(f"caption: {note}")
        known = known or "utf-8"
    return data[begins:].decode(known, "replace")


def looks_western(data: bytes) -> bool:
    """Whether bytes, read as Windows-1252, are words of ASCII letters with an accent here and there."""
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        return False
    letters = _WORDY.findall(text)
    high = sum(letter > "\x7f" for letter in letters)
    if high > MOST_HIGH_LETTERS * len(letters):
        return False
    inside = _INSIDE.findall(text)
    odd = sum(
        (not sign.isalpha() and sign not in _ALLOWED_INSIDE) or (sign.isupper() and before.islower())
        for before, sign in inside
    )
    return bool(odd <= 0.02 * max(len(inside), high))
