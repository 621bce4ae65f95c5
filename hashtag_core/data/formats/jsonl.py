"""`jsonl`: files of JSON lines (`*.jsonl`, `*.ndjson`, also packed: `formats.packing`; `*.json` where its first line is an object), one post a line,
at any depth.

A line is an object with the fields of POST, under the names of `formats.fields` or those of `--map` (`caption=node.text` goes
into objects, `image=media.0.path` and `image=media.path` into lists of them): `post_id` and `user_id` text or whole numbers, `created_at` ISO 8601 (no zone: UTC) or as `--date-format` says,
`caption` text, `hashtags` a list of text, `image` base64 or the path of a picture, `image_uri` text, `latitude` and `longitude`
numbers; MongoDB's `{"$oid": ...}`, `{"$date": ...}` and `{"$numberLong": ...}` are what they stand for. Other keys are named in the log and ignored, blank lines too: a row's number counts the others, from 0.
"""

import base64
import binascii
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypedDict

import pyarrow as pa

from hashtag_core import storage
from hashtag_core.data.file_signatures import other_content
from hashtag_core.data.formats.base import (
    LENIENT,
    ArchiveFormat,
    ArchivePart,
    Columns,
    Fault,
    Post,
    batches,
    in_threads,
    problem_in,
    selection_of,
    with_images,
)
from hashtag_core.data.formats.encodings import chosen_encoding, is_wide
from hashtag_core.data.formats.fields import (
    NAMES,
    PICTURE,
    Folder,
    below,
    first_values,
    look_through,
    picture_folder,
    picture_path,
)
from hashtag_core.data.formats.packing import NAMED, PackingError, first_bytes, unpacked
from hashtag_core.data.list_parts import Listing
from hashtag_core.data.parquet_rows import PartBatch
from hashtag_core.data.reading_options import Reading, ReadingRecord, listed, unread_note
from hashtag_core.data.values import READERS, plain_extended, read_id, read_time, unexpected
from hashtag_core.errors import StorageError
from hashtag_core.json_values import JsonObject
from hashtag_core.storage import FileInfo

SUFFIXES = (".jsonl", ".ndjson")
LINES = re.compile(rf".+\.(?:jsonl|ndjson|jsonlines|json){NAMED}", re.IGNORECASE)
LOOKED_AT_LINES = 50
FIRST_BYTES = 512

_DOCUMENT = re.compile(rf".+\.json{NAMED}", re.IGNORECASE)
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")


class Selection(TypedDict):
    """How a file of JSON lines is read: where its lines begin, how they are packed, where its pictures lie."""

    archive: str
    reading: ReadingRecord
    pictures: str
    encoding: str | None
    begins: int
    packing: str | None
    fault: str | None


def survey(archive_uri: str, reading: Reading) -> Listing[ArchivePart]:
    """The files of JSON lines, sorted by path."""
    folder = look_through(archive_uri, LINES, "file of JSON lines")
    expected = f"files that end in {', '.join(SUFFIXES)} (also packed), or in .json with an object a line"
    listing = Listing[ArchivePart](archive_uri, [], folder.tally, expected)
    sampled = in_threads(partial(_sampled, folder.root, reading), folder.files)
    for info, (selection, first) in zip(folder.files, sampled, strict=True):
        if _DOCUMENT.fullmatch(info.path) and not selection["fault"] and (why := _no_lines(first)):
            folder.tally.read -= 1
            folder.tally.leave(info.path, why)
            continue
        listing.notes += _look_at(info, folder, reading, [item for item in first if isinstance(item, dict)], selection)
        part = ArchivePart(info.uri, info.path, info.size, info.etag, info.modified, json.dumps(selection))
        listing.parts.append(part)
    return listing


def problem(part: FileInfo) -> str | None:
    """Why no post can come from this file, told by its first lines; None if one can."""
    return problem_in(_read(part, 64))


def _no_lines(first: list[Any]) -> str | None:
    if first and isinstance(first[0], dict):
        return None
    if first and isinstance(first[0], list):
        return "one JSON array: write an object a line (pandas: to_json(lines=True))"
    return "a JSON document, no JSON lines"


def _look_at(
    info: FileInfo, folder: Folder, reading: Reading, first: list[JsonObject], selection: Selection
) -> list[str]:
    """What the first objects tell: the folder of the pictures (into the selection), keys that are not read."""
    if not first:
        return []
    for name, path in reading.columns.items():
        if not any(_at(item, path, name) is not None for item in first) and not _is_named(info, selection, path):
            leaves = [leaf for key in _keys(first) for leaf in _leaves(first, key)]
            selection["fault"] = f"--map {name}={path}: no such key, found {listed(leaves)}"
            return []
    rows = [_fields(item, reading) for item in first]
    images = [{"image": _path_in(item)} for item in rows]
    named = first_values(iter([{k: v for k, v in row.items() if v} for row in images]), ["image"])
    selection["pictures"] = picture_folder(folder, info, named) if named else ""
    aliases = {alias for names in NAMES.values() for alias in names}
    unread = [key for key in _keys(first) if key.lower() not in aliases or _holds_objects(first, key)]
    leaves = [leaf for key in unread for leaf in _leaves(first, key)]
    return unread_note(info.path, leaves, [leaf for leaf in leaves if _is_read(leaf, reading.columns.values())])


def _keys(items: Sequence[JsonObject]) -> list[str]:
    return list(dict.fromkeys(key for item in items for key in item))


def _leaves(items: Sequence[JsonObject], key: str) -> list[str]:
    """The keys below a key, as `--map` names them; the key itself where it holds no objects."""
    values = [item.get(key) for item in items]
    objects = [value for value in (*values, *(value[0] for value in values if isinstance(value, list) and value))
               if isinstance(value, dict)]  # fmt: skip
    if not objects or key.startswith("$"):
        return [key]
    return [f"{key}.{leaf}" for inner in _keys(objects) for leaf in _leaves(objects, inner)]


def _is_read(leaf: str, paths: Iterable[str]) -> bool:
    """Whether one of the paths leads to a leaf, places in lists aside."""
    plain = (".".join(step for step in path.split(".") if not step.isdecimal()) for path in paths)
    return any(path in (leaf, leaf.partition(".")[0]) or leaf.startswith(f"{path}.") for path in plain)


def _is_named(info: FileInfo, selection: Selection, path: str) -> bool:
    """Whether a key of this name stands anywhere in a file: what is seldom said may be absent from the first lines."""
    steps = [step for step in (path, path.rsplit(".", maxsplit=1)[-1]) if not step.isdecimal()]
    names = {json.dumps(step, ensure_ascii=ascii_alone) for step in steps for ascii_alone in (True, False)}
    with storage.open_input(info.uri) as source:
        for line in _lines(source, info, selection):
            text = line.decode(selection["encoding"] or "utf-8", "replace") if isinstance(line, bytes) else line
            if isinstance(text, str) and any(name in text for name in names):
                return True
    return False


def _holds_objects(first: list[JsonObject], key: str) -> bool:
    """Whether a key of another name than its field's holds objects, which are not what is meant (`user: {"name": ...}`)."""
    values = [item[key] for item in first if item.get(key) is not None]
    return key.lower() not in NAMES and bool(values) and all(isinstance(value, dict) for value in values)


def _sampled(root: str, reading: Reading, info: FileInfo) -> tuple[Selection, list[Any]]:
    """How a file is to be read, and what its first lines hold."""
    with storage.open_input(info.uri) as source:
        begin, packing, broken = first_bytes(source, FIRST_BYTES)
    encoding, begins = chosen_encoding(begin, reading.encoding)
    other = str(broken) if broken and not begin else other_content(begin)
    selection: Selection = {
        "archive": root,
        "reading": reading.to_json(),
        "pictures": "",
        "encoding": encoding,
        "begins": begins,
        "packing": packing,
        "fault": f"expected JSON lines, found: {other}" if other else None,
    }
    first = [] if other else _first_objects(info, selection)
    if (
        not _DOCUMENT.fullmatch(info.path)
        and first[:1] == [None]
        and begin.lstrip(b"\xef\xbb\xbf \r\n\t").split(b"\n")[0].strip() in (b"{", b"[")
    ):
        selection["fault"] = (
            "expected JSON lines, found: one JSON document over several lines (jq -c '.[]' writes an object a line)"
        )
    return selection, first


def _first_objects(info: FileInfo, selection: Selection) -> list[Any]:
    """What the first lines hold; None for one that is no JSON."""
    found = []
    with storage.open_input(info.uri) as source:
        for line in itertools.islice(_lines(source, info, selection), LOOKED_AT_LINES):
            try:
                found.append(None if isinstance(line, Fault) else _read_json(line))
            except (ValueError, RecursionError):
                found.append(None)
    return found


def _read(part: FileInfo, batch_rows: int, columns: Columns = None) -> Iterator[PartBatch]:
    chosen: Selection = selection_of(part)
    if chosen["fault"]:
        yield from batches(part.path, [Fault(chosen["fault"], ends=True)], 0, batch_rows, columns)
        return
    with storage.open_input(part.uri) as source:
        rows = with_images(_rows(source, part, chosen), chosen["archive"], columns)
        yield from batches(part.path, rows, 0, batch_rows, columns)


def _rows(source: pa.NativeFile, part: FileInfo, chosen: Selection) -> Iterator[Post | Fault]:
    reading = Reading(**chosen["reading"])
    for line in _lines(source, part, chosen):
        if isinstance(line, Fault):
            yield line
            continue
        try:
            yield _post(line, reading, chosen["pictures"])
        except ValueError as error:
            yield Fault(str(error), _id_in(line, reading))


def _lines(source: pa.NativeFile, part: FileInfo, chosen: Selection) -> Iterator[bytes | str | Fault]:
    """The lines; where the rest cannot be read, a rejected part ends them."""
    raw = io.BufferedReader(source, 1 << 20)
    encoding, row = chosen["encoding"], 0
    try:
        file: Any = raw
        if chosen["packing"] is None:
            file.seek(chosen["begins"])
        else:
            file = unpacked(source, chosen["packing"], chosen["begins"])
        if encoding and is_wide(encoding):
            file = io.TextIOWrapper(file, encoding, newline="\n")
        for line in file:
            if line.strip():
                yield line.decode(encoding) if encoding and isinstance(line, bytes) else line
                row += 1
    except UnicodeDecodeError as error:
        yield Fault(f"unreadable from row {row} on: expected {encoding}: {error.reason}", ends=True)
    except OSError as error:
        raise StorageError(f"{part.uri}: read failed: {error}") from error
    except PackingError as error:
        yield Fault(f"unreadable from row {row} on: {error}", ends=True)


def _post(line: bytes | str, reading: Reading, pictures: str) -> Post:
    """The POST row of one line; ValueError that names field, expected and found."""
    fields = _fields(_object(line), reading)
    post: Post = {name: read(name, fields.get(name)) for name, read in READERS.items() if name != "created_at"}
    post["created_at"] = read_time("created_at", fields.get("created_at"), reading.date_format)
    if not (post["post_id"] or "").strip():
        raise unexpected("post_id", "a non-empty string", fields.get("post_id"))
    path = _path_in(fields)
    post |= {"image": None if path else _image(fields.get("image")), LENIENT: True}
    written = path or post["image_uri"]
    if written:
        post["image_uri"] = below(pictures, picture_path(written))
    return post


def _read_json(line: bytes | str) -> Any:
    return json.loads(line, object_hook=plain_extended)


def _object(line: bytes | str) -> JsonObject:
    try:
        value = _read_json(line)
    except UnicodeDecodeError:
        raise ValueError(
            "expected a JSON object, found bytes that are no UTF-8 (--encoding names their encoding)"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected a JSON object, found: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    return value


def _fields(value: JsonObject, reading: Reading) -> JsonObject:
    """The values by field of POST. Under another name than the field's own, an object is not what is meant."""
    lower = {key.lower(): item for key, item in value.items()}
    fields: JsonObject = {}
    for name, aliases in NAMES.items():
        if name in reading.columns:
            fields[name] = _at(value, reading.columns[name], name)
            continue
        for alias in aliases:
            item = value.get(alias, lower.get(alias))
            if item is not None and (alias == name or not isinstance(item, dict)):
                fields[name if alias == name or name != "image" else "image_path"] = item
                break
    return fields


def _at(value: JsonObject, path: str, name: str) -> Any:
    """What lies under a key, or under keys that dots part. A number is a place in a list (`media.0.path`); a key of a list's
    objects is that of the first that has it, of all for hashtags."""
    if path in value:
        return value[path]
    found: list[Any] = [value]
    several = False
    for key in path.split("."):
        several |= not key.isdecimal() and any(isinstance(value_there, list) for value_there in found)
        found = [inner for value_there in found for inner in _below(value_there, key) if inner is not None]
    return found if several and name == "hashtags" else next(iter(found), None)


def _below(outer: Any, key: str) -> list[Any]:
    """What a step leads to, of each object of a list."""
    if isinstance(outer, dict):
        return [outer.get(key)]
    if isinstance(outer, list) and key.isdecimal():
        return outer[int(key) :][:1]
    return [item.get(key) for item in outer if isinstance(item, dict)] if isinstance(outer, list) else []


def _path_in(fields: JsonObject) -> str | None:
    """The path of a picture that a line names."""
    image = fields.get("image")
    if isinstance(image, dict) and not image.get("bytes"):
        image = image.get("path")
    for written in (fields.get("image_path"), image if isinstance(image, str) and PICTURE.fullmatch(image) else None):
        if isinstance(written, str) and written.strip():
            return written
    uri = fields.get("image_uri")
    return uri if isinstance(uri, str) and uri.strip() else None


def _image(value: Any) -> bytes | None:
    if isinstance(value, dict):
        value = value.get("bytes")
    try:
        text = _DATA_URL.sub("", value, count=1) if isinstance(value, str) else value
        return None if text is None else base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise unexpected("image", "base64", value) from None


def _id_in(line: bytes | str, reading: Reading) -> str | None:
    try:
        return read_id("post_id", _fields(_read_json(line), reading)["post_id"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


JSONL = ArchiveFormat("jsonl", f"{', '.join(SUFFIXES)} at any depth, one post a line", survey, problem, _read)
