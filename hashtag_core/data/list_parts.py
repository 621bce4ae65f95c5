"""What lies in an archive: which files are its parts, and why each other one is left out. Nothing goes without a word.

A Parquet part is told by its name (`.parquet`, `.parq`, `.pq` in any case) or, where the name does not say (Athena, Trino and
Hive write none), by the four bytes it begins with. A name that begins with `_` or `.` is a part where it is whole Parquet and
not what an engine keeps beside its data (`_delta_log`, `_temporary`, `_metadata`, ...); a folder whose name begins with `.` is hidden.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypedDict, TypeVar

import pyarrow as pa

from hashtag_core import storage
from hashtag_core.data.file_signatures import other_content
from hashtag_core.errors import ArchiveError, StorageError
from hashtag_core.faults import is_machine
from hashtag_core.schema import POST
from hashtag_core.storage import FileInfo

logger = logging.getLogger(__name__)

P = TypeVar("P", bound=FileInfo)

MAGIC = b"PAR1"
SHOWN_NAMES = 5
PEEK_THREADS = 16
SMALLEST_PART_BYTES = 12
"""Two magic words and the length of a footer."""

_PARQUET_NAME = re.compile(
    r".+\.(?:parquet|parq|pq)(?:\.(?:gz|gzip|snappy|zstd|lz4|br|brotli))?", re.IGNORECASE | re.DOTALL
)
_OTHER_NAME = re.compile(
    r".+\.(?:jpe?g|png|gif|webp|heic|avif|bmp|tiff?|svg|mp4|mov|webm|txt|md|json|jsonl|ndjson|csv|tsv|xml|html?|ya?ml|toml|log|"
    r"crc|tmp|lock|py|sh|sql|pdf|xlsx?|docx?|avro|orc|arrow|feather|npy|npz|pt|safetensors|zip|tar|tgz|xz|bz2|7z|sqlite|db|ini|bak"
    r"|jsonl\.gz|ndjson\.gz|csv\.gz|json\.gz|tar\.gz)",
    re.IGNORECASE,
)
"""Names that say they are something else; files of any other name are looked at."""

_BOOKKEEPING_FOLDERS = re.compile(
    r"_temporary|_delta_log|_spark_metadata|_hoodie.*|_change_data|_symlink_format_manifest|_impala_insert_staging|__MACOSX"
    r"|_state|_rejected|_work|_left_out|_features|_tmp.*|_staging.*|\..+",
)
_BOOKKEEPING_FILES = re.compile(
    r"_SUCCESS.*|_metadata|_common_metadata|_committed_.*|_started_.*|_manifest.*|\._.*|.*\.crc|.*\.tmp"
)


_LOGS = {"_delta_log": "a Delta table", "_spark_metadata": "what Spark streamed", "_hoodie": "a Hudi table"}


class TallyRecord(TypedDict):
    """A `Tally` in a summary: all files, those that were read, those that belong to others, and the rest by reason."""

    there: int
    read: int
    beside: int
    left_out: dict[str, int]


@dataclass
class Tally:
    """Every file that a listing saw is in it once: among `read`, or `beside` them (pictures, which are read where a post names
    them), or left out for a reason (`left_out`: reason -> how many)."""

    read: int = 0
    beside: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)
    """The first files of each reason."""

    def leave(self, path: str, reason: str) -> None:
        """Count a file that is not read."""
        self.left_out[reason] += 1
        shown = self.names.setdefault(reason, [])
        if len(shown) < SHOWN_NAMES:
            shown.append(path)

    @property
    def there(self) -> int:
        """All files."""
        return self.read + self.beside + sum(self.left_out.values())

    def add(self, other: "Tally") -> None:
        """Count the files of another listing too; their names are not kept."""
        self.read += other.read
        self.beside += other.beside
        self.left_out.update(other.left_out)

    def to_json(self) -> TallyRecord:
        """For a job's summary."""
        left_out = dict(sorted(self.left_out.items()))
        return {"there": self.there, "read": self.read, "beside": self.beside, "left_out": left_out}

    def tell(self, archive: str) -> None:
        """Log what was left out, one line a reason."""
        for reason, count in sorted(self.left_out.items()):
            more = ", ..." if count > SHOWN_NAMES else ""
            logger.info(
                "%s: %d file(s) left out, %s: %s%s", archive, count, reason, ", ".join(self.names[reason]), more
            )


@dataclass
class Listing(Generic[P]):
    """The parts of an archive, sorted by path, the tally of its files, and what a person should be told (`notes`)."""

    archive: str
    parts: list[P]
    tally: Tally
    expected: str = "Parquet files (.parquet, .parq, .pq, or content that begins with PAR1)"
    """What a part would have been, for who finds none."""
    notes: list[str] = field(default_factory=list)

    def required_parts(self) -> list[P]:
        """The parts; ArchiveError that says what was there instead where there is none."""
        if self.parts:
            return self.parts
        reasons = [f"{', '.join(names[:SHOWN_NAMES])} ({reason})" for reason, names in self.tally.names.items()]
        reasons += [f"{self.tally.beside} picture(s)"] if self.tally.beside else []
        found = "; ".join(reasons) or "no file at all"
        raise ArchiveError(
            f"{self.archive}: an archive without a part: expected {self.expected}; found {found[:400]}{_hint(found)}"
        )


def is_utf8(name: str) -> bool:
    """Whether a name is UTF-8. On a local disk it may be any bytes, and Arrow opens no file of such a name."""
    try:
        name.encode()
        return True
    except UnicodeEncodeError:
        return False


def no_file(uri: str) -> str | None:
    """Why a name on a local disk is no file to be read: a link to nothing, a pipe or a device (to open a pipe is to wait for its
    writer), or no permission; None for one that is, and for what is gone by now."""
    if storage.is_remote(uri) or not os.path.lexists(path := storage.local_path(uri)):
        return None
    if not os.path.exists(path):
        return "a link to nothing"
    if not os.path.isfile(path):
        return "no regular file"
    return None if os.access(path, os.R_OK) else "one that may not be read"


def list_parquet(archive_uri: str) -> Listing[FileInfo]:
    """The Parquet parts of an archive at any depth. NotFoundError where nothing is."""
    tally, parts = Tally(), list[FileInfo]()
    asked: list[tuple[FileInfo, bool]] = []
    for info in storage.list_files(archive_uri, hidden=True):
        *folders, name = info.path.split("/")
        hidden = name[:1] in ("_", ".")
        if kept := next((step for step in folders if _BOOKKEEPING_FOLDERS.fullmatch(step)), None):
            tally.leave(info.path, "in a hidden folder" if kept[0] == "." else f"in the bookkeeping folder {kept}")
        elif _BOOKKEEPING_FILES.fullmatch(name):
            tally.leave(info.path, "bookkeeping of an engine, no data")
        elif _PARQUET_NAME.fullmatch(name) and not hidden and not any(step[:1] == "_" for step in folders):
            parts.append(info)
        elif _OTHER_NAME.fullmatch(name) and not _PARQUET_NAME.fullmatch(name):
            tally.leave(info.path, f"named .{name.rpartition('.')[2].lower()}, no Parquet")
        else:
            asked.append((info, hidden or any(step[:1] == "_" for step in folders)))
    for (info, hidden), reason in zip(asked, peeked(asked), strict=True):
        if reason is None:
            parts.append(info)
        else:
            tally.leave(info.path, f"{reason}, and its name is hidden" if hidden else reason)
    tally.read = len(parts)
    listing = Listing(archive_uri, sorted(parts, key=lambda info: info.path), tally, notes=_hive_notes(parts))
    for folder, kind in _LOGS.items():
        if any(f"bookkeeping folder {folder}" in reason for reason in tally.left_out):
            listing.notes.append(
                f"{archive_uri} has a {folder}: it is {kind}, whose log is not read: every Parquet file in it is a part, also those "
                "that a later version took out; where posts were changed or deleted, export a snapshot of it"
            )
    return listing


def _hive_notes(parts: Iterable[FileInfo]) -> list[str]:
    """What is told of folders such as `user_id=anna`, which Spark writes in place of a column."""
    found = {
        key: step
        for info in parts
        for step in info.path.split("/")[:-1]
        if (key := step.partition("=")[0]) in POST.names and "=" in step
    }
    return [
        f"folders such as {step}: what stands in a folder's name is no column here; {key} is read from the files alone (write it into them)"
        for key, step in found.items()
    ]


def peeked(files: Iterable[tuple[FileInfo, bool]]) -> Iterator[str | None]:
    """Why each file is no Parquet, None if it is, told by its first bytes (and, with True, its last), many asked at once."""
    stream = iter(files)
    with ThreadPoolExecutor(PEEK_THREADS) as pool:
        while some := list(islice(stream, PEEK_THREADS * 4)):
            yield from pool.map(lambda item: _no_parquet(*item), some)


def _no_parquet(info: FileInfo, whole: bool) -> str | None:
    if info.size < SMALLEST_PART_BYTES:
        return "too small to be Parquet" if info.size else "empty"
    try:
        with storage.open_input(info.uri) as source:
            begin = bytes(source.read(512))
            source.seek(info.size - len(MAGIC) if whole else 0)
            end = source.read(len(MAGIC))
    except (StorageError, pa.ArrowException, OSError) as error:
        if is_machine(error):
            raise
        return "unreadable, and its name does not say what it is"
    if begin[:4] == MAGIC:
        return None if not whole or end == MAGIC else "not Parquet by its content"
    return other_content(begin) or "not Parquet by its content"


def _hint(found: str) -> str:
    """The format that the files there are of."""
    if re.search(r"\.xlsx?\b", found, re.IGNORECASE):
        return " (an Excel workbook is not read: save it as CSV)"
    for name, pattern in (
        ("csv", r"\.(?:csv|tsv)\b"),
        ("jsonl", r"\.(?:jsonl|ndjson)\b"),
        ("instaloader", r"_UTC\.|\.json\.xz"),
        ("posts", r"\.(?:parquet|parq|pq)\b"),
    ):
        if re.search(pattern, found, re.IGNORECASE):
            return f" (--format {name} reads them)"
    return ""
