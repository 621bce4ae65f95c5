"""What is at hand in a notebook, as an Arrow table: data frames, record batches, dicts. Values of dicts are read by the functions
that read archives, so that a missing value, an id or a date means the same everywhere."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import pyarrow as pa

from hashtag_core.data.formats.fields import NAMES
from hashtag_core.data.values import READERS, is_missing
from hashtag_core.errors import ConfigError
from hashtag_core.schema import POST

Posts: TypeAlias = Any
"""`pa.Table`, `pa.RecordBatch`, a reader of them, a pandas or Polars frame (all that has `__arrow_c_stream__`), an iterable of
mappings with the fields of POST, or one such mapping."""

OFTEN_MISNAMED = ("post_id", "user_id", "caption", "hashtags")
"""Fields that are told when they go by another name (`text`, `id`)."""

EXPECTED = "a table, a data frame, dicts with the fields of a post, or one dict"


def as_table(posts: Posts, where: str, schema: pa.Schema) -> pa.Table:
    """The posts as a table, of columns of `schema` alone where they are dicts. ConfigError, headed by `where`, for anything
    else, and for a value that cannot be read, naming row and field."""
    if isinstance(posts, pa.Table):
        return posts
    if isinstance(posts, pa.RecordBatch):
        return pa.Table.from_batches([posts])
    if isinstance(posts, pa.RecordBatchReader):
        return posts.read_all()
    if _is_pandas(posts):
        return _of_pandas(posts, where, schema)
    if hasattr(posts, "__arrow_c_stream__"):
        table = pa.RecordBatchReader.from_stream(posts).read_all()
        _check_names(table.column_names)
        return table
    if isinstance(posts, Mapping):
        return _of_rows(_rows_of_columns(posts) or [posts], where, schema)
    if isinstance(posts, str | bytes) or not isinstance(posts, Iterable):
        raise ConfigError(f"{where or 'posts: '}expected {EXPECTED}, found {type(posts).__name__}")
    return _of_rows(list(posts), where, schema)


def _is_pandas(posts: Posts) -> bool:
    return type(posts).__module__.partition(".")[0] == "pandas" and hasattr(posts, "columns")


def _of_pandas(frame: Any, where: str, schema: pa.Schema) -> pa.Table:
    """By Arrow where every column is of one type; else, as ids that are numbers and text mixed, value by value."""
    _check_names(map(str, frame.columns))
    names = [name for name in frame.columns if name in schema.names]
    if "post_id" not in names:  # told with the columns that are there
        return pa.table({str(name): pa.nulls(0) for name in frame.columns})
    try:
        table = pa.Table.from_pandas(frame[names], preserve_index=False)
    except (pa.ArrowException, UnicodeEncodeError, TypeError):
        return _of_rows(frame[names].to_dict("records"), where, schema)
    return table.replace_schema_metadata(None)


def _check_names(found: Iterable[str]) -> None:
    """ConfigError where a field goes by another name: what is not known would be ignored, and the tags be of nothing."""
    names = set(found)
    for field_name in OFTEN_MISNAMED:
        other = sorted(names & set(NAMES[field_name]) - {field_name})
        if other and field_name not in names:
            raise ConfigError(f"posts: the field {other[0]!r} is called {field_name!r} here: rename it")


def _rows_of_columns(posts: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """The rows of a dict of columns; None for one post."""
    ids = posts.get("post_id")
    if not isinstance(ids, list | tuple):
        return None
    lengths = {name: len(values) for name, values in posts.items() if isinstance(values, list | tuple)}
    if len(set(lengths.values())) != 1 or len(lengths) != len(posts):
        raise ConfigError(f"posts: expected one value a column or as many in each, found {lengths}")
    return [dict(zip(posts, row, strict=True)) for row in zip(*posts.values(), strict=True)]


def _of_rows(rows: list[Any], where: str, schema: pa.Schema) -> pa.Table:
    rows = [row.to_dict() if hasattr(row, "to_dict") and not isinstance(row, Mapping) else row for row in rows]
    wrong = next((row for row in rows if not isinstance(row, Mapping)), None)
    if wrong is not None:
        raise ConfigError(f"{where or 'posts: '}expected {EXPECTED}, found a list of {type(wrong).__name__}")
    if not rows:
        return schema.empty_table()
    _check_names(dict.fromkeys(str(name) for row in rows for name in row))
    rows = [_with_plain_image(row) for row in rows]
    names = [name for name in schema.names if any(name in row for row in rows)]
    if "post_id" not in names:
        found = dict.fromkeys(str(key) for row in rows for key in row)
        return pa.table({name: pa.nulls(0) for name in found})
    columns = {}
    for name in names:
        read = READERS.get(name, _image)
        columns[name] = pa.array(
            [_value(read, name, row, n, where) for n, row in enumerate(rows)], POST.field(name).type
        )
    return pa.table(columns)


def _value(read: Callable[[str, Any], Any], name: str, row: Mapping[str, Any], number: int, where: str) -> Any:
    try:
        return read(name, row.get(name))
    except ValueError as error:
        raise ConfigError(f"{where}row {number} is no post: {error}") from None


def _with_plain_image(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """An image of {bytes, path}, as HuggingFace `datasets` has it, as its bytes, else as a reference."""
    image = row.get("image")
    if not isinstance(image, Mapping):
        return row
    path = image.get("path") if image.get("bytes") is None else None
    return {**row, "image": image.get("bytes"), "image_uri": row.get("image_uri") or path}


def _image(name: str, value: Any) -> bytes | None:
    if is_missing(value):
        return None
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise ValueError(f"{name}: expected bytes (of a JPEG, PNG, WebP or GIF), found {type(value).__name__}")
