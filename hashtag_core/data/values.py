"""Single values of whatever an exporter wrote, read as the fields of POST by what they mean: the one definition for every
layout, for columns that are no plain Arrow type and for the dicts of a notebook.

An unambiguous value is taken (an integer, a whole decimal or a UUID as an id; JSON text as a list of tags); an id is never
changed to fit. What cannot be read raises ValueError `<field>: expected <what>, found <what>`.
"""

import ast
import contextlib
import json
import math
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import regex

from hashtag_core.json_values import JsonObject

EXACT_IN_FLOAT = 1 << 53
"""Whole numbers from here on may have lost digits in a float of 64 bits."""

UNIX_UNITS = {"unix": "seconds", "unix_ms": "milliseconds", "unix_us": "microseconds"}
DATE_FLAG = "(--date-format says how dates are written: %d.%m.%Y, or unix for seconds since 1970)"
FORMAT_SIGNS = (
    "(in --date-format %d is a day, %m a month, %Y a year, %H:%M a time: 31.12.2026 23:59 is '%d.%m.%Y %H:%M')"
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ZONE_WORD = regex.compile(r"\s*(?:UTC|GMT|Z)$")
_SPACED_OFFSET = regex.compile(r"\s+([+-]\d\d:?\d\d)$")
_DIGITS_LEFT = regex.compile(r"(\.\d{6})\d+")
_QUOTED = r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*\""""
_PYTHON_LIST = regex.compile(
    rf"(?:array\()?[\[({{]\s*(?:(?P<item>{_QUOTED}|None|nan|NaN|NaT|<NA>|null)(?:\s*,\s*|\s+|(?=[\])}}])))*+[\])}}](?:, dtype=\S+)?\)?"
)
"""What Python prints for a list, a tuple, a set or a numpy array of text: the last has no commas, and two strings side by side are
one to a Python parser."""

_OF_A_MAP = regex.compile(r"""['"]\s*:""")
_DIGITS = regex.compile(r"\d{9,20}(?:\.\d{1,9})?")
_TWITTER = regex.compile(r"[A-Z][a-z]{2} ([A-Z][a-z]{2}) (\d\d?) (\d\d:\d\d:\d\d) ([+-]\d{4}) (\d{4})")
_MAIL = regex.compile(r"(?:[A-Z][a-z]{2}, )?(\d\d?) ([A-Z][a-z]{2}) (\d{4}) (\d\d:\d\d:\d\d) (?:GMT|UTC?|([+-]\d{4}))")
_ZERO_DATE = regex.compile(r"0000-00-00(?:[ T]00:00:00(?:\.0+)?)?")
"""What MySQL stores for no date."""

_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_WRAPPERS = ("text", "tag", "name", "hashtag", "element", "item", "array_element", "array", "list", "bag")
"""Names under which a list or its items are nested: Twitter's entities, BigQuery's and Hive's three-level lists."""


NO_VALUES = frozenset(
    ("\\N", "NULL", "null", "(null)", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NaT", "None")
)
"""What is written for "none here" where there is no null: by databases, R, spreadsheets, and pandas' `astype(str)`."""


def says_none(text: str) -> bool:
    """Whether text is one of NO_VALUES, as it is in a table's cell and as a user's id."""
    return text.strip() in NO_VALUES


def is_missing(value: Any) -> bool:
    """Whether a value says "none here": None, and what pandas and numpy have for it (NaN, NaT, NA)."""
    value = _plain_number(value)
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, Decimal):
        return value.is_nan()
    return isinstance(value, float) and math.isnan(value)


def read_id(name: str, value: Any) -> str | None:
    """An id as text, exactly: text as it is (leading zeros, blanks and all), whole numbers by their digits, a UUID as it is
    written. A float counts while every whole number of its size is exact.

    What cannot be told exactly is refused for a post. A user's decides nothing but whose post it is: bytes that are no text are
    written out (`a\\xff`), so that users stay apart, and one that is blank or says none (`nan`) is none: else all who have
    none would be one."""
    value = _plain_number(value)
    if is_missing(value):
        return None
    expected = "a string or a whole number"
    if isinstance(value, bytes | bytearray | memoryview):
        try:
            value = bytes(value).decode("utf-8", "backslashreplace" if name == "user_id" else "strict")
        except UnicodeDecodeError:
            raise ValueError(f"{name}: expected UTF-8, found bytes that are none") from None
    if isinstance(value, str):
        if not _is_unicode(value) and name == "user_id":
            value = value.encode("utf-8", "backslashreplace").decode()
        if not _is_unicode(value):
            raise ValueError(f"{name}: expected Unicode, found half a surrogate pair in {ascii(value)[:80]}")
        return value if name != "user_id" or (value.strip() and not says_none(value)) else None
    if isinstance(value, bool):
        raise unexpected(name, "string", value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Decimal) and value.is_finite() and value == value.to_integral_value():
        return str(int(value))
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT_IN_FLOAT:
        return str(int(value))
    if isinstance(value, uuid.UUID):
        return str(value)
    raise unexpected(name, expected, value)


def read_text(name: str, value: Any) -> str | None:
    """Text; half a surrogate pair becomes '?', bytes that are no UTF-8 U+FFFD."""
    if is_missing(value):
        return None
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "replace")
    raise unexpected(name, "string", value)


def read_tags(name: str, value: Any) -> list[str] | None:
    """A list of text, or text that is certainly one (`tags_in_text`), or a list of things that hold the text."""
    if isinstance(value, Mapping) and len(value) == 1 and next(iter(value)) in _WRAPPERS:
        value = next(iter(value.values()))
    if is_missing(value):
        return None
    if isinstance(value, bytes | str):
        text = read_text(name, value) or ""
        found = tags_in_text(text)
        if text.strip() and found is None:
            raise unexpected(name, "a list of strings", value)
        return found
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, list | tuple | set | frozenset):
        raise unexpected(name, "a list of strings", value)
    texts = (read_text(name, _unwrapped(item)) for item in value)
    return [tag for tag in texts if tag is not None]


def tags_in_text(text: str) -> list[str] | None:
    """The tags of text that is a JSON list, a list, tuple, set or numpy array as Python writes it (missing ones left out), a list of
    PostgreSQL, or words that each begin with '#';
    None for any other text."""
    text = text.strip()
    if text[:1] == "[" and text[-1:] == "]":
        with contextlib.suppress(ValueError, RecursionError):
            entries = [_unwrapped(item) for item in json.loads(text)]
            if all(item is None or isinstance(item, str) for item in entries):
                return [plain(str(item)) for item in entries if item is not None]
    if text == "set()":
        return []
    if found := _PYTHON_LIST.fullmatch(text):
        with contextlib.suppress(ValueError, SyntaxError):
            return [plain(ast.literal_eval(item)) for item in found.captures("item") if item[-1] in "'\""]
    if text[:1] == "[" and text[-1:] == "]":
        return None
    if text[:1] == "{" and text[-1:] == "}" and not _OF_A_MAP.search(text):
        items = (item.strip() for item in text[1:-1].split(","))
        return [tag for item in items if item != "NULL" and (tag := item.strip('"'))]
    words = text.split()
    return words if words and all(word[0] in "#＃" and len(word) > 1 for word in words) else None


def read_time(name: str, value: Any, date_format: str | None = None) -> datetime | None:
    """A time as UTC: ISO 8601 (no zone: UTC; also with ` UTC`, ` -0800`, nine digits), Twitter's `created_at`, that of mail and feeds
    (`Tue, 02 Jan 2024 03:04:05 GMT`), or what `date_format` says."""
    if is_missing(value) or (isinstance(value, str) and (_ZERO_DATE.fullmatch(value.strip()) or says_none(value))):
        return None
    if hasattr(value, "to_pydatetime"):
        value = value.to_pydatetime(warn=False)
    elif type(value).__name__ == "datetime64":
        value = value.astype("datetime64[us]").item()
    try:
        if isinstance(value, datetime):
            return _as_utc(value)
        if isinstance(value, date):
            return datetime(value.year, value.month, value.day, tzinfo=UTC)
        if date_format is not None:
            return _by_format(value, date_format)
        return _as_utc(_iso(value))
    except (TypeError, ValueError, OverflowError, AttributeError):
        expected = "an ISO 8601 time" if date_format is None else f"a time as {date_format!r} has it"
        fault = unexpected(name, expected, value)
        raise ValueError(f"{fault} {_date_flag(value) if date_format is None else FORMAT_SIGNS}") from None


def _date_flag(value: Any) -> str:
    """The flag that helps; of a number with the unit that it must be in."""
    number = float(value) if isinstance(value, str) and _DIGITS.fullmatch(value.strip()) else value
    size = abs(number) if isinstance(number, int | float) else 0
    unit = next((name for least, name in ((1e14, "unix_us"), (1e11, "unix_ms"), (1e8, "unix")) if size >= least), None)
    return f"(--date-format {unit} reads {UNIX_UNITS[unit]} since 1970)" if unit else DATE_FLAG


def read_degrees(name: str, value: Any) -> float | None:
    """A finite number, or text that is one."""
    value = _plain_number(value)
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        return None
    try:
        degrees = math.inf if isinstance(value, bool | bytes) else float(value)
    except (TypeError, ValueError, OverflowError):
        degrees = math.inf
    if not math.isfinite(degrees):
        raise unexpected(name, "a number", value)
    return degrees


def plain(text: str) -> str:
    """Text that can be written: half a surrogate pair becomes '?'."""
    return text.encode("utf-8", "replace").decode()


def unexpected(name: str, expected: str, found: Any) -> ValueError:
    """The error of a field that is not what it should be."""
    shown = json.dumps(found, ensure_ascii=False, default=repr)[:80]
    return ValueError(f"{name}: expected {expected}, found {plain(shown)}")


def plain_extended(json_object: JsonObject) -> Any:
    """What an object of MongoDB's extended JSON stands for (`{"$oid": "5f..."}`, `{"$date": {"$numberLong": "1700000000000"}}`);
    any other object as it is."""
    if len(json_object) != 1 or next(iter(json_object))[:1] != "$":
        return json_object
    ((kind, value),) = json_object.items()
    try:
        if kind == "$date":
            return _EPOCH + timedelta(milliseconds=value) if isinstance(value, int | float) else value
        if kind in ("$numberLong", "$numberInt"):
            return int(value)
        if kind in ("$numberDouble", "$numberDecimal"):
            return Decimal(value) if kind == "$numberDecimal" else float(value)
        if kind in ("$oid", "$uuid", "$symbol"):
            return str(value)
        if kind == "$binary":
            return value["base64"]
    except (ValueError, TypeError, KeyError, OverflowError, ArithmeticError):
        return str(value)
    return None if kind == "$undefined" else json_object


READERS: dict[str, Callable[[str, Any], Any]] = {
    "post_id": read_id,
    "user_id": read_id,
    "created_at": read_time,
    "caption": read_text,
    "hashtags": read_tags,
    "image_uri": read_text,
    "latitude": read_degrees,
    "longitude": read_degrees,
}
"""How each field but the image is read."""


def _plain_number(value: Any) -> Any:
    """numpy's scalars as Python's."""
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0 else value


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _unwrapped(item: Any) -> Any:
    if not isinstance(item, Mapping):
        return item
    return next((item[name] for name in _WRAPPERS if name in item), item)


def _as_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _iso(value: str) -> datetime:
    text = _ZONE_WORD.sub("+00:00", value.strip())
    if found := _TWITTER.fullmatch(text):
        month, day, clock, zone, year = found.groups()
        return datetime.fromisoformat(f"{year}-{_MONTHS.index(month) + 1:02d}-{int(day):02d}T{clock}{zone}")
    if found := _MAIL.fullmatch(value.strip()):
        day, month, year, clock, zone = found.groups()
        return datetime.fromisoformat(f"{year}-{_MONTHS.index(month) + 1:02d}-{int(day):02d}T{clock}{zone or '+0000'}")
    return datetime.fromisoformat(_DIGITS_LEFT.sub(r"\1", _SPACED_OFFSET.sub(r"\1", text)))


def _by_format(value: Any, date_format: str) -> datetime:
    if date_format in UNIX_UNITS:
        number = float(value) if isinstance(value, str) and "." in value else value
        return _EPOCH + timedelta(**{UNIX_UNITS[date_format]: int(number) if isinstance(number, str) else number})
    return _as_utc(datetime.strptime(str(value).strip(), date_format))  # noqa: DTZ007  (no zone: UTC)
