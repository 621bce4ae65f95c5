"""Which parts hold a post id: an index on disk, so that no archive is read again to find ids that occur twice.

An entry is 24 bytes: the id as 12 bytes of SipHash, `created_at` (without one `data.history.UNDATED`, earlier than all others) and
the number of the part. Entries are kept in sorted runs; a tagging run adds one, and now and then all are merged. A lookup is a
binary search in each run, which is memory-mapped. A part has one entry an id: that of its latest row. Entries of a part that has
another number by now are dead and are skipped; the index is derived, and whoever lacks it makes it anew from the table.
"""

import hashlib
import logging
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import pandas as pd
import pyarrow as pa

from hashtag_core import storage
from hashtag_core.errors import HashtagError, NotFoundError, StorageError
from hashtag_core.storage.node_local import node_folder

logger = logging.getLogger(__name__)

MERGE_RUNS = 8
_SECOND_KEY = "hashtag-ids-2-16"
_FILE = "index.json"
_DTYPES = ("<u8", "<i8", "<u4", "<u4")
ENTRY_BYTES = 24


class Keys(NamedTuple):
    """Ids as 96 bits: `high` uint64 [n], `low` uint32 [n]."""

    high: np.ndarray
    low: np.ndarray

    def __len__(self) -> int:
        return len(self.high)

    def take(self, at: np.ndarray) -> "Keys":
        """Those keys alone."""
        return Keys(self.high[at], self.low[at])

    def to_hex(self) -> list[str]:
        """In hexadecimal."""
        return [f"{high:016x}{low:08x}" for high, low in zip(self.high.tolist(), self.low.tolist(), strict=True)]

    @classmethod
    def from_hex(cls, hexadecimal: Iterable[str]) -> "Keys":
        """From hexadecimal."""
        texts = list(hexadecimal)
        high = np.array([int(item[:16], 16) for item in texts], np.uint64)
        return cls(high, np.array([int(item[16:], 16) for item in texts], np.uint32))

    @classmethod
    def concatenate(cls, pieces: Sequence["Keys"]) -> "Keys":
        """One after the other."""
        high = [np.zeros(0, np.uint64), *(piece.high for piece in pieces)]
        return cls(np.concatenate(high), np.concatenate([np.zeros(0, np.uint32), *(piece.low for piece in pieces)]))


def keys_of(ids: pa.Array | pa.ChunkedArray) -> Keys:
    """Of ids, none of them null. Two of 10^9 ids share a key with a chance of 1e-11."""
    values = ids.to_numpy(zero_copy_only=False) if isinstance(ids, pa.Array) else ids.to_numpy()
    values = values.astype(object)
    high = pd.util.hash_array(values, categorize=False)
    low = pd.util.hash_array(values, hash_key=_SECOND_KEY, categorize=False)
    return Keys(high, (low >> np.uint64(32)).astype(np.uint32))


@dataclass(frozen=True)
class Entries:
    """Entries of the index: keys, `created_us` int64 [n] and the number of the part uint32 [n]."""

    keys: Keys
    created_us: np.ndarray
    number: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def none(cls) -> Self:
        """No entry."""
        return cls(Keys.concatenate([]), np.zeros(0, np.int64), np.zeros(0, np.uint32))

    @classmethod
    def concatenate(cls, pieces: Sequence["Entries"]) -> Self:
        """One after the other."""
        created = np.concatenate([np.zeros(0, np.int64), *(piece.created_us for piece in pieces)])
        number = np.concatenate([np.zeros(0, np.uint32), *(piece.number for piece in pieces)])
        return cls(Keys.concatenate([piece.keys for piece in pieces]), created, number)

    def take(self, at: np.ndarray) -> "Entries":
        """Those entries alone."""
        return Entries(self.keys.take(at), self.created_us[at], self.number[at])

    def sorted(self) -> "Entries":
        """By key."""
        return self.take(np.lexsort((self.keys.low, self.keys.high)))


@dataclass
class IdIndex:
    """Sorted runs of entries, and the numbers of the parts that they are of."""

    runs: list[Entries] = field(default_factory=list)
    covered: set[int] = field(default_factory=set)
    files: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(len(run) for run in self.runs)

    def next_number(self, taken: Iterable[int]) -> int:
        """A number that no part has: greater than those that are taken, and than those of dead parts whose entries are still there."""
        return 1 + max([0, *taken, *(int(run.number.max(initial=0)) for run in self.runs)])

    def find(self, keys: Keys) -> Entries:
        """All entries of those ids, of live and of dead parts; an id that is asked for twice is found twice."""
        return Entries.concatenate([_found(run, keys) for run in self.runs])

    def of_parts(self, numbers: Iterable[int]) -> Entries:
        """All entries of those parts."""
        wanted = np.array(sorted(numbers), np.uint32)
        if not len(wanted):
            return Entries.none()
        return Entries.concatenate([run.take(np.flatnonzero(np.isin(run.number, wanted))) for run in self.runs])

    def add(self, entries: Entries, numbers: Iterable[int]) -> None:
        """Add entries as a run; `numbers` are covered from now on."""
        self.covered |= set(numbers)
        if len(entries):
            self.runs.append(entries.sorted())
            self.files.append("")

    def save(self, folder: str, live: Iterable[int]) -> None:
        """Write what is new. Entries of parts that are not `live` are dropped when runs are merged."""
        alive = set(live)
        dead = self.covered - alive
        if len(self.runs) > MERGE_RUNS or len(dead) > len(alive):
            self._merge(alive)
        self.covered &= alive
        before = set(self.files)
        for at, run in enumerate(self.runs):
            if not self.files[at]:
                self.files[at] = uuid.uuid4().hex[:12]
                _write_run(storage.join(folder, f"{self.files[at]}.run"), run)
        storage.write_json(storage.join(folder, _FILE), {"runs": self.files, "covered": sorted(self.covered)})
        self._remove_others(folder, before)

    def _merge(self, alive: set[int]) -> None:
        live = np.array(sorted(alive), np.uint32)
        kept = Entries.concatenate([run.take(np.flatnonzero(np.isin(run.number, live))) for run in self.runs])
        self.runs, self.files = [kept.sorted()], [""]

    def _remove_others(self, folder: str, before: set[str]) -> None:
        for info in storage.list_files(folder, ".run"):
            name = info.path.removesuffix(".run")
            if name not in self.files and name not in before:
                storage.remove(info.uri)


def load_index(folder: str) -> IdIndex:
    """The index as it was saved, memory-mapped; an empty one where there is none or something of it is missing."""
    try:
        description = storage.read_json(storage.join(folder, _FILE))
        files = [str(name) for name in description["runs"]]
        runs = [_open_run(storage.join(folder, f"{name}.run")) for name in files]
        return IdIndex(runs, {int(number) for number in description["covered"]}, files)
    except NotFoundError:
        return IdIndex()
    except (HashtagError, ValueError, KeyError, TypeError, OSError) as error:
        logger.warning("%s: the index of ids cannot be read, and is made anew: %s", folder, error)
        return IdIndex()


def _found(run: Entries, keys: Keys) -> Entries:
    """Binary search by the high bits, then the few candidates of each key by the low ones."""
    begin = np.searchsorted(run.keys.high, keys.high, side="left")
    counts = np.searchsorted(run.keys.high, keys.high, side="right") - begin
    asked = np.repeat(np.arange(len(keys)), counts)
    at = np.repeat(begin, counts) + _ranges(counts)
    return run.take(at[run.keys.low[at] == keys.low[asked]])


def _ranges(counts: np.ndarray) -> np.ndarray:
    """0 .. count - 1 for each count, one after the other."""
    ends = np.cumsum(counts)
    found: np.ndarray = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - counts, counts)
    return found


def _write_run(uri: str, run: Entries) -> None:
    """The number of entries, then one array after the other, so that each can be mapped by itself."""
    with storage.open_output(uri) as file:
        file.write(np.array([len(run)], "<u8").tobytes())
        for values, dtype in zip((run.keys.high, run.created_us, run.keys.low, run.number), _DTYPES, strict=True):
            file.write(np.ascontiguousarray(values, dtype).data)


def _open_run(uri: str) -> Entries:
    """StorageError for a file of another length than its entries take."""
    path = Path(storage.local_path(uri)) if not storage.is_remote(uri) else _local_copy(uri)
    size = path.stat().st_size
    n = int(np.fromfile(path, "<u8", 1)[0]) if size >= 8 else -1
    if size != 8 + ENTRY_BYTES * n:
        raise StorageError(f"{uri}: {size} bytes, expected {ENTRY_BYTES} an entry")
    if n == 0:
        return Entries.none()
    arrays, offset = [], 8
    for dtype in _DTYPES:
        arrays.append(np.memmap(path, dtype, "r", offset, (n,)))
        offset += n * np.dtype(dtype).itemsize
    high, created, low, number = arrays
    return Entries(Keys(high, low), created, number)


def _local_copy(uri: str) -> Path:
    """Of a run on S3, which never changes once it is written."""
    name = hashlib.sha256(uri.encode()).hexdigest()[:24]
    return node_folder("ids", name, lambda folder: storage.download_file(uri, folder / "run"), uri) / "run"
