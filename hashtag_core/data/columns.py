"""Arrow columns as people's exporters write them, made into the types of POST by what they mean.

Text, whole numbers, timestamps, binary and lists of text are cast as whole columns. Whatever else can mean the field
(decimals of Snowflake and BigQuery, UUIDs, floats of pandas, dates as text, JSON text, nested lists) is read value by value
with the functions of `hashtag_core.data.values`, so that a table, a line of JSON and a dict are read alike.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from hashtag_core.data.reading_options import AS_IT_IS, Reading
from hashtag_core.data.values import DATE_FLAG, NO_VALUES, UNIX_UNITS, read_degrees, read_id, read_tags, read_time
from hashtag_core.schema import POST, TIMESTAMP

FIRST_YEAR_US, LAST_YEAR_US = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The years 1 to 9999, which is what a Python datetime can hold."""

TAGS = pa.list_(pa.string())


class Cast(NamedTuple):
    """The values as POST has them, True where a value could not be made into one, and why (for all, or row by row)."""

    values: pa.Array
    bad: np.ndarray
    reason: str | Mapping[int, str] = ""

    def why(self, row: int) -> str:
        """Why that row's value is none."""
        return self.reason if isinstance(self.reason, str) else self.reason[row]


def cast_column(name: str, array: pa.Array, reading: Reading = AS_IT_IS) -> Cast:
    """A column as the field `name` of POST. A user that is blank or says none (`nan`) is none: else all who have none would be one."""
    cast = _CASTS[name](name, plain(array), reading)
    if name != "user_id":
        return cast
    blank = pc.is_in(pc.utf8_trim_whitespace(cast.values), pa.array(["", *NO_VALUES]))
    return cast._replace(values=pc.if_else(blank, pa.scalar(None, pa.string()), cast.values))


def refused_type(name: str, kind: pa.DataType, reading: Reading = AS_IT_IS) -> str | None:
    """What is wrong with a column of this type whatever its values; None if some value could be read."""
    kind = kind.value_type if pt.is_dictionary(kind) else kind
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) and not _is_uuid(kind) else kind
    readable: dict[str, Callable[[], bool]] = {
        "post_id": lambda: _is_text(kind) or _is_binary(kind) or _is_number(kind) or _is_uuid(kind),
        "created_at": lambda: _is_text(kind) or pt.is_date(kind) or pt.is_timestamp(kind),
        "caption": lambda: _is_text(kind) or _is_binary(kind),
        "image": lambda: _is_binary(kind) or _are_bytes(kind) or pt.is_struct(kind),
    }
    readable["user_id"], readable["image_uri"] = readable["post_id"], readable["caption"]
    test = readable.get(name)
    if (
        test is None
        or pt.is_null(kind)
        or test()
        or (name == "created_at" and reading.date_format and _is_number(kind))
    ):
        return None
    return f"{name}: expected {_EXPECTED[name]}, found {kind}"


def plain(array: pa.Array) -> pa.Array:
    """The column without dictionary and without an extension type, but that of UUIDs."""
    if pt.is_dictionary(array.type):
        array = array.dictionary_decode()
    if isinstance(array.type, pa.BaseExtensionType) and not _is_uuid(array.type):
        return plain(array.storage)
    return array


_EXPECTED = {
    "post_id": "string",
    "user_id": "string",
    "created_at": "timestamp",
    "caption": "string",
    "image_uri": "string",
    "hashtags": "list<string>",
    "image": "binary",
    "latitude": "a number",
    "longitude": "a number",
}


def _none_bad(array: pa.Array) -> Cast:
    return Cast(array, np.zeros(len(array), dtype=bool))


def _refused(name: str, array: pa.Array, hint: str = "") -> Cast:
    """No value of this type is the field: every one that is there is refused."""
    bad = array.is_valid().to_numpy(zero_copy_only=False)
    message = f"expected {_EXPECTED[name]}, found {array.type}"
    return Cast(pa.nulls(len(array), POST.field(name).type), bad, f"{message} {hint}".rstrip())


def _by_value(name: str, array: pa.Array, read: Callable[[str, Any], Any], message: str | None = None) -> Cast:
    """Value by value; the reasons are the readers', headed by `message` where the type says more than the value."""
    values: list[Any] = []
    reasons: dict[int, str] = {}
    for row, value in enumerate(array.to_pylist()):
        try:
            values.append(read(name, value))
        except ValueError as error:
            values.append(None)
            reasons[row] = message or str(error).removeprefix(f"{name}: ")
    bad = np.zeros(len(array), dtype=bool)
    bad[list(reasons)] = True
    return Cast(pa.array(values, POST.field(name).type), bad, reasons)


def _is_binary(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pt.is_binary, pt.is_large_binary, pt.is_fixed_size_binary, pt.is_binary_view))


def _is_text(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pt.is_string, pt.is_large_string, pt.is_string_view))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind))


def _is_uuid(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.BaseExtensionType) and getattr(kind, "extension_name", "") == "arrow.uuid"


def _is_list(kind: pa.DataType) -> bool:
    tests = (pt.is_list, pt.is_large_list, pt.is_fixed_size_list, pt.is_list_view, pt.is_large_list_view)
    return any(test(kind) for test in tests)


def _are_bytes(kind: pa.DataType) -> bool:
    """Spark's and pandas' arrays of bytes."""
    return _is_list(kind) and (pt.is_uint8(kind.value_type) or pt.is_int8(kind.value_type))


def _as_text(array: pa.Array) -> pa.Array:
    """Text or bytes as text; each byte that is no UTF-8 becomes U+FFFD."""
    try:
        text = array.cast(pa.string())
        text.validate(full=True)
    except pa.ArrowInvalid:
        values = [value.as_py() for value in array.cast(pa.binary())]
        return pa.array([None if value is None else value.decode("utf-8", "replace") for value in values], pa.string())
    return text


def _to_text(name: str, array: pa.Array, _: Reading) -> Cast:
    if pt.is_null(array.type):
        return _none_bad(pa.nulls(len(array), pa.string()))
    if not (_is_text(array.type) or _is_binary(array.type)):
        return _refused(name, array)
    return _none_bad(_as_text(array))


def _to_id(name: str, array: pa.Array, _: Reading) -> Cast:
    """Never changed to fit: a changed id is another one, or that of another post."""
    kind = array.type
    if pt.is_null(kind):
        return _none_bad(pa.nulls(len(array), pa.string()))
    if pt.is_integer(kind):
        return _none_bad(array.cast(pa.string()))
    if pt.is_floating(kind):
        return _id_of_floats(name, array)
    if pt.is_decimal(kind) or _is_uuid(kind):
        return _by_value(name, array, read_id)
    if not (_is_text(kind) or _is_binary(kind)):
        return _refused(name, array)
    ids = _as_text(array)
    replaced = pc.fill_null(pc.match_substring(ids, "\ufffd"), False).to_numpy(zero_copy_only=False)
    if not replaced.any():
        return _none_bad(ids)
    raw = array.cast(pa.binary())
    changed = pc.fill_null(pc.not_equal(raw, ids.cast(pa.binary())), False).to_numpy(zero_copy_only=False)
    bad = replaced & changed
    if name == "user_id" and bad.any():  # a user's name decides nothing but whose post it is: told apart, kept
        shown = [read_id(name, value) for value in raw.to_pylist()]
        return _none_bad(pc.if_else(pa.array(bad), pa.array(shown, pa.string()), ids))
    ids = pc.if_else(pa.array(bad), pa.scalar(None, pa.string()), ids)
    return Cast(ids, bad, "expected UTF-8, found bytes that are none")


def _id_of_floats(name: str, array: pa.Array) -> Cast:
    """pandas' integers with gaps. A float of fewer bits is exact for fewer whole numbers."""
    exact = {16: 1 << 11, 32: 1 << 24, 64: 1 << 53}[array.type.bit_width]

    def read(field: str, value: float | None) -> str | None:
        if value is not None and abs(value) >= exact:
            raise ValueError(
                f"{field}: expected a string or a whole number, found {value!r}, whose digits a float may have lost"
            )
        return read_id(field, value)

    return _by_value(name, array, read)


def _to_tags(name: str, array: pa.Array, _: Reading) -> Cast:
    kind = array.type
    if pt.is_null(kind):
        return _none_bad(pa.nulls(len(array), TAGS))
    if _is_text(kind):
        message = (
            f"expected list<string>, found {kind} (text is taken where it is a JSON list, or words that begin with '#')"
        )
        return _by_value(name, _as_text(array), read_tags, message)
    if pt.is_struct(kind) and kind.num_fields == 1:
        array = plain(array.flatten()[0])
        kind = array.type
    if not _is_list(kind):
        return _refused(name, array)
    value = kind.value_type
    value = value.value_type if pt.is_dictionary(value) else value
    if pt.is_struct(value):
        return _by_value(name, array, read_tags, f"expected list<string>, found {kind}")
    if not (_is_text(value) or _is_binary(value) or pt.is_null(value)):
        return _refused(name, array)
    return _none_bad(_text_lists(array, _is_binary(value)))


def _text_lists(array: pa.Array, of_bytes: bool) -> pa.Array:
    try:
        tags = array.cast(TAGS)
        tags.validate(full=True)
        if tags.flatten().null_count == 0:
            return tags
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        # Bytes that are no UTF-8, or a layout that Arrow does not cast: tag by tag, each such byte becomes U+FFFD as in captions.
        tags = array if of_bytes else array.cast(pa.list_(pa.binary()))
    lists = [None if not row.is_valid else [_scalar_text(item) for item in row if item.is_valid] for row in tags]
    return pa.array(lists, TAGS)


def _scalar_text(value: pa.Scalar) -> str:
    found = value.as_py()
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)


def _to_time(name: str, array: pa.Array, reading: Reading) -> Cast:
    kind = array.type
    if pt.is_null(kind):
        return _none_bad(pa.nulls(len(array), TIMESTAMP))
    if _is_text(kind) or (_is_number(kind) and reading.date_format in UNIX_UNITS):
        text = _as_text(array) if _is_text(kind) else array
        return _by_value(name, text, lambda field, value: read_time(field, value or None, reading.date_format))
    if pt.is_date(kind):
        array = array.cast(pa.timestamp("s" if pt.is_date32(kind) else "ms"))
    if not pt.is_timestamp(array.type):
        return _refused(name, array, DATE_FLAG if _is_number(kind) else "")
    unit = array.type.unit
    ticks = array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    per_us = {"s": 1e-6, "ms": 1e-3, "us": 1.0, "ns": 1e3}[unit]
    bad = (ticks < FIRST_YEAR_US * per_us) | (ticks > LAST_YEAR_US * per_us)
    if bad.any():
        array = pc.if_else(pa.array(bad), pa.scalar(None, array.type), array)
    times = array.cast(pa.timestamp(unit, "UTC")).cast(TIMESTAMP, safe=False)
    return Cast(times, bad, "expected a time in the years 1 to 9999")


def _to_bytes(name: str, array: pa.Array, _: Reading) -> Cast:
    kind = array.type
    if pt.is_null(kind):
        return _none_bad(pa.nulls(len(array), pa.binary()))
    if _are_bytes(kind):
        lists = array.cast(pa.list_(pa.int16())).to_pylist()
        rows = [None if row is None else bytes((item or 0) & 255 for item in row) for row in lists]
        return _none_bad(pa.array(rows, pa.binary()))
    if not _is_binary(kind):
        return _refused(name, array, "(of paths: --map image_uri=COLUMN)" if _is_text(kind) else "")
    return _none_bad(array.cast(pa.binary()))


def _to_degrees(name: str, array: pa.Array, _: Reading) -> Cast:
    kind = array.type
    if pt.is_null(kind) or _is_number(kind):
        degrees = array.cast(pa.float64(), safe=False)
        degrees = pc.if_else(pc.fill_null(pc.is_nan(degrees), False), pa.scalar(None, pa.float64()), degrees)
        bad = pc.fill_null(pc.is_inf(degrees), False).to_numpy(zero_copy_only=False)
        if bad.any():
            degrees = pc.if_else(pa.array(bad), pa.scalar(None, pa.float64()), degrees)
        return Cast(degrees, bad, "expected a number, found one without end")
    if _is_text(kind):
        return _by_value(name, _as_text(array), read_degrees, f"expected a number, found {kind}")
    return _refused(name, array)


_CASTS: dict[str, Callable[[str, pa.Array, Reading], Cast]] = {
    "post_id": _to_id,
    "user_id": _to_id,
    "created_at": _to_time,
    "caption": _to_text,
    "hashtags": _to_tags,
    "image": _to_bytes,
    "image_uri": _to_text,
    "latitude": _to_degrees,
    "longitude": _to_degrees,
}
