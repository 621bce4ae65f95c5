"""`jsonl`: files of JSON lines (`*.jsonl`, `*.ndjson`, also `.gz`), one post a line, at any depth.

A line is an object with the fields of POST: `post_id` and `user_id` text or integers, `created_at` ISO 8601 (no zone: UTC),
`caption` text, `hashtags` a list of text, `image` base64, `image_uri` text, `latitude` and `longitude` numbers. Other
fields are ignored, blank lines too: a row's number counts the others, from 0.
"""

import base64
import binascii
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pyarrow as pa

from hashtag_core import storage
from hashtag_core.data.formats.base import (
    ArchiveFormat,
    Fault,
    Post,
    batches,
    plain,
    problem_in,
    read_time,
    unexpected,
)
from hashtag_core.data.posts import PartBatch
from hashtag_core.errors import ArchiveError, StorageError
from hashtag_core.faults import is_machine
from hashtag_core.storage import FileInfo

SUFFIXES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")


def list_parts(archive_uri: str) -> list[FileInfo]:
    """The files of JSON lines, sorted by path; ArchiveError where there is none."""
    parts = [info for info in storage.list_files(archive_uri) if info.path.endswith(SUFFIXES)]
    if not parts:
        raise ArchiveError(f"{archive_uri}: an archive without a part: no file ends in {', '.join(SUFFIXES)}")
    return parts


def problem(part: FileInfo) -> str | None:
    """Why no post can come from this file, told by its first lines; None if one can."""
    return problem_in(_read(part, 64))


def _read(part: FileInfo, batch_rows: int) -> Iterator[PartBatch]:
    with storage.open_input(part.uri) as source:
        yield from batches(part.path, _rows(source, part), 0, batch_rows)


def _rows(source: pa.NativeFile, part: FileInfo) -> Iterator[Post | Fault]:
    for line in _lines(source, part):
        if isinstance(line, Fault):
            yield line
            continue
        try:
            yield _post(line)
        except ValueError as error:
            yield Fault(str(error), _id_in(line))


def _lines(source: pa.NativeFile, part: FileInfo) -> Iterator[bytes | Fault]:
    """The lines; where the rest cannot be read, a rejected part ends them."""
    raw = io.BufferedReader(source, 1 << 20)
    row = 0
    try:
        for line in gzip.GzipFile(fileobj=raw) if part.path.endswith(".gz") else raw:
            if line.strip():
                yield line
                row += 1
    except (EOFError, zlib.error, OSError) as error:
        if (isinstance(error, OSError) and error.errno is not None) or is_machine(error):
            raise StorageError(f"{part.uri}: read failed: {error}") from error
        yield Fault(f"unreadable from row {row} on: {error}", ends=True)


def _post(line: bytes) -> dict[str, Any]:
    """The POST row of one line; ValueError that names field, expected and found."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected a JSON object, found: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    post: dict[str, Any] = {name: read(name, value.get(name)) for name, read in _FIELDS.items()}
    if not (post["post_id"] or "").strip():
        raise unexpected("post_id", "a non-empty string", value.get("post_id"))
    return post


def _text(name: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return None if value is None else plain(value)
    raise unexpected(name, "string", value)


def _id(name: str, value: Any) -> str | None:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(name, value)


def _tags(name: str, value: Any) -> list[str] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise unexpected(name, "a list of strings", value)
    return [text for item in value if (text := _text(name, item)) is not None]


def _image(name: str, value: Any) -> bytes | None:
    try:
        return None if value is None else base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise unexpected(name, "base64", value) from None


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    with suppress(OverflowError):
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    raise unexpected(name, "a number", value)


_FIELDS = {
    "post_id": _id,
    "user_id": _id,
    "created_at": read_time,
    "caption": _text,
    "hashtags": _tags,
    "image": _image,
    "image_uri": _text,
    "latitude": _number,
    "longitude": _number,
}


def _id_in(line: bytes) -> str | None:
    try:
        return _id("post_id", json.loads(line)["post_id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


JSONL = ArchiveFormat("jsonl", f"{', '.join(SUFFIXES)} at any depth, one post a line", list_parts, problem, _read)
