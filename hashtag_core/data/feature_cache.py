"""The cache of encoder outputs: Parquet files under <root>/<encoder>/<revision>/<kind>/, found by content key.

A file is named by its own content and never changed, so that any number of writers may work at once; a key that two of
them computed stands in two files, and either is read. What is held in memory is 40 bytes a cached value, not the value.
"""

import hashlib
import io
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from hashtag_core import schema, storage
from hashtag_core.config import EncodersSection
from hashtag_core.errors import IntegrityError, NotFoundError

ROW_GROUP_BYTES = 4 << 20
"""What one look-up reads at least; small, since evaluation reads posts in another order than they were encoded in."""

UNREADABLE = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("reason", pa.string(), nullable=False)])
"""Content that could not be encoded: it is not tried again, and its posts count as having none."""

Digests = npt.NDArray[np.bytes_]
"""SHA-256 digests, dtype S32: 32 bytes each, sorted and compared as bytes."""


def cache_root(dataset_uri: str, section: EncodersSection) -> str:
    """Where features are kept: `encoders.cache`, else `_features` beside the dataset."""
    if section.cache:
        return section.cache
    parent = posixpath.dirname(dataset_uri.rstrip("/"))
    return posixpath.join(parent, "_features") if parent else "_features"


@dataclass(frozen=True)
class FeatureKind:
    """One encoder output: what it is of, its folder below the cache's root, its shape (see `schema.features`)."""

    of: Literal["image", "caption"]
    folder: str
    dim: int
    rows: int | None = None

    @property
    def ragged(self) -> bool:
        """Whether values differ in length (token states)."""
        return self.rows == 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one value; of one token for a ragged kind."""
        return (self.rows, self.dim) if self.rows else (self.dim,)

    @property
    def unreadable_folder(self) -> str:
        return posixpath.join(posixpath.dirname(self.folder), "unreadable")


@dataclass(frozen=True)
class FeatureRows:
    """Some cached values. `positions` [m] in the keys that were asked for; `values` [m, ...], or for a ragged kind
    [sum(lengths), D] with `lengths` [m]."""

    positions: np.ndarray
    values: np.ndarray
    lengths: np.ndarray | None


@dataclass(frozen=True)
class _Index:
    files: list[str]
    digests: Digests
    file_of: np.ndarray
    row_of: np.ndarray

    def find(self, wanted: Digests) -> np.ndarray:
        """Position of each digest in the index, -1 where it is not there."""
        if not len(self.digests):
            return np.full(len(wanted), -1)
        at = np.minimum(np.searchsorted(self.digests, wanted), len(self.digests) - 1)
        return np.where(self.digests[at] == wanted, at, -1)


DIED = "the process that encoded it died"
"""Why a content counts as unreadable that ended its process each time it was encoded alone: for one run."""


class FeatureCache:
    """The cache below `root` of the given kinds (name -> kind). `boxes`: float32 [R, 4] where all images share them.

    A process sees the files that were there when it first asked, and those it wrote itself after `refresh`.
    """

    def __init__(self, root: str, kinds: Mapping[str, FeatureKind], boxes: np.ndarray | None = None) -> None:
        self.root = root
        self.kinds = dict(kinds)
        self.boxes = boxes
        self._indexes: dict[str, _Index] = {}
        self._unreadable: dict[str, dict[str, str]] = {}

    def __getstate__(self) -> Mapping[str, object]:
        return vars(self) | {"_indexes": {}, "_unreadable": {}}

    def refresh(self) -> None:
        """See what others have written since."""
        self._indexes.clear()
        self._unreadable.clear()

    def missing(self, kind: str, keys: Iterable[str | None]) -> list[str]:
        """The keys that are neither cached nor known as unreadable; each once, in order. None is skipped."""
        unreadable = self.unreadable(kind)
        wanted = [key for key in dict.fromkeys(keys) if key is not None and key not in unreadable]
        found = self._index(kind).find(digests_of(wanted))
        return [key for key, at in zip(wanted, found, strict=True) if at < 0]

    def unreadable(self, kind: str) -> dict[str, str]:
        """Key -> why the content could not be encoded."""
        folder = self.kinds[kind].unreadable_folder
        if folder not in self._unreadable:
            tables = [pq.read_table(storage.open_input(file), schema=UNREADABLE) for file in self._files(folder)]
            self._unreadable[folder] = {
                key: reason for table in tables for key, reason in zip(*table.to_pydict().values(), strict=True)
            }
        return self._unreadable[folder]

    def forget_deaths(self) -> None:
        """Take back what is known of contents as DIED alone: whether they or the machine's want of memory ended the process,
        the next run finds out. What a decoder said of a content stays."""
        for folder in sorted({kind.unreadable_folder for kind in self.kinds.values()}):
            for uri in self._files(folder):
                with storage.open_input(uri) as file:
                    reasons = pq.read_table(file, columns=["reason"])["reason"]
                if set(reasons.to_pylist()) == {DIED}:
                    storage.remove(uri)
        self.refresh()

    def write(self, kind: str, keys: Sequence[str], values: np.ndarray, lengths: np.ndarray | None = None) -> None:
        """Add values: float16 [n, ...], or for a ragged kind [n, S, D], of which each row's first `lengths` are kept."""
        if not keys:
            return
        of = self.kinds[kind]
        wanted = (len(keys), of.dim) if of.rows is None else (len(keys), of.rows or values.shape[1], of.dim)
        if values.shape != wanted or values.dtype != np.float16 or of.ragged != (lengths is not None):
            raise ValueError(f"{kind}: got {values.dtype} {values.shape}, expected float16 {wanted}")
        column_type = schema.features(of.dim, of.rows).field("value").type
        if lengths is None:
            flat = np.ascontiguousarray(values, dtype="<f2")
            column = pa.Array.from_buffers(column_type, len(keys), [None, pa.py_buffer(flat)])
        else:
            flat = values[np.arange(values.shape[1]) < lengths[:, None]].astype("<f2")
            offsets = np.concatenate([[0], np.cumsum(lengths * of.dim * flat.itemsize)]).astype(np.int32)
            column = pa.Array.from_buffers(column_type, len(keys), [None, pa.py_buffer(offsets), pa.py_buffer(flat)])
        table = pa.Table.from_arrays([pa.array(keys, pa.string()), column], schema=schema.features(of.dim, of.rows))
        self._publish(of.folder, table, max(1, ROW_GROUP_BYTES * len(keys) // max(flat.nbytes, 1)))

    def write_unreadable(self, kind: str, reasons: Mapping[str, str], *, alone: bool = False) -> None:
        """Remember contents (key -> reason) that cannot be encoded, for every kind of the same modality, or for those of
        `kind`'s own encoder `alone`."""
        if not reasons:
            return
        table = pa.table({"key": list(reasons), "reason": list(reasons.values())}, schema=UNREADABLE)
        modality = self.kinds[kind].of
        folders = {other.unreadable_folder for other in self.kinds.values() if other.of == modality}
        for folder in sorted({self.kinds[kind].unreadable_folder} if alone else folders):
            self._publish(folder, table, len(reasons))

    def lookup(self, kind: str, keys: Sequence[str | None]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Values in the order of `keys`, under the names that the encoders give them, and which were found.

        found [n] bool; `kind` [n, ...] float16, zeros where not found, and for token states `<kind>_mask` [n, S] bool,
        where S is the longest that was found.
        """
        of = self.kinds[kind]
        given = np.flatnonzero([key is not None for key in keys])
        unique, inverse = np.unique(digests_of([key for key in keys if key is not None]), return_inverse=True)
        parts = list(self.scan(kind, unique))
        longest = max((int(part.lengths.max(initial=0)) for part in parts if part.lengths is not None), default=0)
        shape = (longest, of.dim) if of.ragged else of.shape
        values = np.zeros((len(unique), *shape), np.float16)
        mask = np.zeros((len(unique), longest), bool)
        here = np.zeros(len(unique), bool)
        for part in parts:
            here[part.positions] = True
            if part.lengths is None:
                values[part.positions] = part.values
            else:
                mask[part.positions] = np.arange(longest) < part.lengths[:, None]
                at, token = np.nonzero(mask[part.positions])
                values[part.positions[at], token] = part.values
        found = np.zeros(len(keys), bool)
        found[given] = here[inverse]
        arrays = {kind: _spread(values, given, inverse, len(keys))}
        if of.ragged:
            arrays[f"{kind}_mask"] = _spread(mask, given, inverse, len(keys))
        return found, arrays

    def scan(self, kind: str, wanted: Digests) -> Iterator[FeatureRows]:
        """The values of `wanted` (unique) that are cached, in the order they are stored in, one row group at a time."""
        index = self._index(kind)
        of = self.kinds[kind]
        at = index.find(wanted)
        positions = np.flatnonzero(at >= 0)
        files, rows = index.file_of[at[positions]], index.row_of[at[positions]]
        order = np.lexsort((rows, files))
        positions, files, rows = positions[order], files[order], rows[order]
        for number in np.unique(files):
            mine = files == number
            with storage.open_input(index.files[number]) as file:
                yield from _read_rows(
                    pq.ParquetFile(file), index.files[number], of, wanted, positions[mine], rows[mine]
                )

    def _index(self, kind: str) -> _Index:
        folder = self.kinds[kind].folder
        if folder not in self._indexes:
            files = self._files(folder)
            digests, counts = [], []
            for uri in files:
                with storage.open_input(uri) as file:
                    digests.append(_digests_of_column(pq.read_table(file, columns=["key"])["key"]))
                counts.append(len(digests[-1]))
            every = np.concatenate([np.zeros(0, "S32"), *digests])
            file_of = np.repeat(np.arange(len(files), dtype=np.int32), counts)
            row_of = np.concatenate([np.zeros(0, np.int32), *(np.arange(n, dtype=np.int32) for n in counts)])
            unique, first = np.unique(every, return_index=True)
            self._indexes[folder] = _Index(files, unique, file_of[first], row_of[first])
        return self._indexes[folder]

    def _files(self, folder: str) -> list[str]:
        try:
            return [info.uri for info in storage.list_files(storage.join(self.root, folder), ".parquet")]
        except NotFoundError:
            return []

    def _publish(self, folder: str, table: pa.Table, row_group_size: int) -> None:
        buffer = io.BytesIO()
        pq.write_table(
            table,
            buffer,
            compression="zstd",
            compression_level=1,
            use_dictionary=False,
            write_statistics=False,
            row_group_size=row_group_size,
        )
        content = buffer.getvalue()
        name = f"part-{hashlib.sha256(content).hexdigest()[:16]}.parquet"
        storage.write_bytes(storage.join(self.root, folder, name), content)


def digests_of(keys: Sequence[str]) -> Digests:
    """SHA-256 keys in hex -> digests; ValueError for a key that is none."""
    if any(len(key) != 64 for key in keys):
        raise ValueError(f"{next(key for key in keys if len(key) != 64)!r} is no SHA-256 in hex")
    return np.frombuffer(bytes.fromhex("".join(keys)), dtype="S32")


def _digests_of_column(column: pa.ChunkedArray) -> Digests:
    return digests_of(column.to_pylist())


def _spread(values: np.ndarray, given: np.ndarray, inverse: np.ndarray, n: int) -> np.ndarray:
    if len(given) == n and np.array_equal(inverse, np.arange(n)):
        return values
    spread = np.zeros((n, *values.shape[1:]), values.dtype)
    spread[given] = values[inverse]
    return spread


def _read_rows(
    file: pq.ParquetFile, uri: str, of: FeatureKind, wanted: Digests, positions: np.ndarray, rows: np.ndarray
) -> Iterator[FeatureRows]:
    """`rows` of one file (sorted), which must hold the keys at `positions` of `wanted`."""
    borders = np.cumsum([0, *(file.metadata.row_group(g).num_rows for g in range(file.num_row_groups))])
    groups = np.searchsorted(borders, rows, side="right") - 1
    for group in np.unique(groups):
        mine = groups == group
        table = file.read_row_group(group).take(pa.array(rows[mine] - borders[group]))
        if not np.array_equal(_digests_of_column(table["key"]), wanted[positions[mine]]):
            raise IntegrityError(f"{uri}: its keys are not those that were indexed")
        raw, lengths = _bytes_of(table["value"].combine_chunks())
        values = raw.view("<f2").reshape(-1, *of.shape)
        yield FeatureRows(positions[mine], values, lengths // (2 * of.dim) if of.ragged else None)


def _bytes_of(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of all rows together, and how many each has."""
    if isinstance(column, pa.FixedSizeBinaryArray):
        width = column.type.byte_width
        content = np.frombuffer(column.buffers()[1], np.uint8)[column.offset * width :][: len(column) * width]
        return content, np.full(len(column), width)
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset :][: len(column) + 1]
    content = np.frombuffer(column.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    return content, np.diff(offsets)
