"""Archives that are lists side by side: line n of each file is of post n (HARRISON, NUS-WIDE).

The driver reads the lists once, side by side and streamed, and cuts them into runs of PART_ROWS lines that begin at known
bytes, so that a task reads its lines and no others.
"""

import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from hashtag_core import storage
from hashtag_core.data.formats.base import PART_ROWS, ArchivePart, etag_now, etag_of, selection_of, walk_seen
from hashtag_core.data.formats.encodings import decode_text
from hashtag_core.data.formats.fields import PICTURE
from hashtag_core.data.list_parts import Listing, Tally
from hashtag_core.errors import ArchiveError, NotFoundError
from hashtag_core.storage import FileInfo

READ_BUFFER_BYTES = 1 << 20


def find_list(archive: str, candidates: Sequence[str]) -> FileInfo | None:
    """The first of these paths below the archive that is a file, `path` relative to the archive."""
    for path in candidates:
        try:
            return replace(storage.file_info(storage.join(archive, path)), path=path)
        except NotFoundError:
            continue
    return None


def required_list(archive: str, candidates: Sequence[str]) -> FileInfo:
    """As `find_list`; ArchiveError where there is none, NotFoundError where there is no archive."""
    found = find_list(archive, candidates)
    if found is None:
        if not storage.exists(archive):
            raise NotFoundError(f"{archive}: not found")
        raise ArchiveError(f"{archive}: an archive without a part: expected {' or '.join(candidates)} below it")
    return found


def line_parts(lists: Sequence[FileInfo], shared: Mapping[str, Any]) -> list[ArchivePart]:
    """Runs of PART_ROWS lines of all lists, named after the first; `shared` is in the selection of each.

    ArchiveError where there is no line, or not the same number in each: from there on a picture would get another's tags.
    """
    first, etag, uris = lists[0], etag_of(lists), [info.uri for info in lists]
    parts = []
    for (begin, offsets), (end, ends) in itertools.pairwise(_borders(lists)):
        selection = {**shared, "uris": uris, "begin": begin, "rows": end - begin, "offsets": offsets}
        size = sum(ends) - sum(offsets)
        parts.append(ArchivePart(first.uri, first.path, size, etag, first.modified, json.dumps(selection)))
    if not parts:
        raise ArchiveError(f"{first.uri}: an archive without a part: no line in it")
    return parts


def lists_and_pictures(archive: str, lists: Sequence[FileInfo], parts: list[ArchivePart]) -> Listing[ArchivePart]:
    """The parts with a tally of the archive's files: the lists are read, pictures where a line names them, others not."""
    tally, read = Tally(), {info.path for info in lists}
    for _, files in walk_seen(archive):
        for info in files:
            if info.path in read:
                tally.read += 1
            elif PICTURE.fullmatch(info.path):
                tally.beside += 1
            else:
                tally.leave(info.path, "neither a list that is read nor a picture")
    return Listing(archive, parts, tally)


def read_lines(part: FileInfo) -> Iterator[tuple[str, ...]]:
    """The lines of a part, one of each list at a time, without their ends, in the encoding of `formats.encodings.decode_text`."""
    chosen = selection_of(part)
    with ExitStack() as stack:
        files = [_buffered(stack, uri) for uri in chosen["uris"]]
        for file, offset in zip(files, chosen["offsets"], strict=True):
            file.seek(offset)
        for _ in range(chosen["rows"]):
            yield tuple(decode_text(file.readline(), chosen["encoding"]).strip("\r\n\ufeff") for file in files)


def lists_etag(part: FileInfo) -> str:
    """The etag that the lists of a part have now."""
    return etag_now(selection_of(part)["uris"])


def _borders(lists: Sequence[FileInfo]) -> Iterator[tuple[int, list[int]]]:
    """Every PART_ROWS-th line and the end: its number, and where it begins in each list."""
    with ExitStack() as stack:
        files = [_buffered(stack, info.uri) for info in lists]
        for row in itertools.count():
            if row % PART_ROWS == 0:
                yield row, [file.tell() for file in files]
            lines = [file.readline() for file in files]
            if all(lines):
                continue
            if any(line.strip() for line in itertools.chain(lines, *files)):
                short = ", ".join(info.uri for info, line in zip(lists, lines, strict=True) if not line)
                raise ArchiveError(f"{lists[0].uri}: the lists beside it must have as many lines; {short} has {row}")
            if row % PART_ROWS:
                yield row, [file.tell() for file in files]
            return


def _buffered(stack: ExitStack, uri: str) -> io.BufferedReader:
    return io.BufferedReader(stack.enter_context(storage.open_input(uri)), READ_BUFFER_BYTES)
