"""Histories while an archive is tagged: found in the archive itself, without moving an image.

    driver: small columns of all parts, kept as arrays -> one sort -> row-aligned sidecar under `_state/`
    actors: pooled vectors of the chunks in which posts of a history are, a file a chunk, under `_state/` (only for a model
    that reads vectors) -> a memory-mapped copy of them on each node's own disk -> scores

Rows are counted through all parts of the archive, in the order of their paths. How it scales, on one core of the driver:
300,000 posts took 3.5 s to read and sort where tags have a column, 7.7 s where they are found in captions, and it grows with
the posts; in memory are 40 bytes a post, some 150 while they are sorted, and the sidecar: 4 H + 8 bytes a post and 4 a tag.
Vectors: each post with a user is encoded once more than without a history, once for all runs, since its file is named by the
content of its part; 2 bytes a number (3.3 KB a post with the default encoders) in `_state/`, and on each node.

Each row has a hash of the posts that stand in its history. A row of a part that is done is tagged again only if that changed.
"""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hashtag_core import storage
from hashtag_core.data.archive_history import TagFinder
from hashtag_core.data.history import NO_HASH, UNDATED, HistoryColumns, HistoryRule, find_history
from hashtag_core.data.tagged_archive import Source
from hashtag_core.data.vocabulary import Vocabulary
from hashtag_core.errors import NotFoundError
from hashtag_core.output.forget_users.forget_list import ForgetList
from hashtag_core.storage import FileInfo
from hashtag_core.storage.node_local import node_folder
from hashtag_core.tagging.archive_columns import columns_of_parts

logger = logging.getLogger(__name__)

ARRAYS = ("rows", "digests", "tag_offsets", "tag_indices", "may_stand")


@dataclass(frozen=True)
class Sidecar:
    """Histories of all rows of an archive (N), and the tags of its posts."""

    rows: np.ndarray
    """int32 [N, H]; -1 fills."""
    digests: np.ndarray
    """int64 [N]: hash of the posts in each history, never 0."""
    tag_offsets: np.ndarray
    tag_indices: np.ndarray
    may_stand: np.ndarray
    """bool [N]: posts that may stand in a history."""

    def write(self, folder: str) -> None:
        """As .npy files below `folder`; `rows` last."""
        for name in reversed(ARRAYS):
            with storage.open_output(_array(folder, name)) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(getattr(self, name)), allow_pickle=False)

    @classmethod
    def open(cls, folder: str) -> Self:
        """Memory-mapped, from a copy on this node's disk where the folder is remote."""
        where = storage.local_path(folder) if not storage.is_remote(folder) else ""
        if not where:
            name = hashlib.sha256(folder.encode()).hexdigest()[:24]
            where = str(node_folder("histories", name, lambda made: storage.download_folder(folder, made), folder))
        return cls(*(_mapped(_array(where, name)) for name in ARRAYS))


class HistoryFinder:
    """Finds the histories in an archive for one model. `extra_tags` tells which tags stand behind those of the model."""

    def __init__(self, rule: HistoryRule, vocabulary: Vocabulary, extra_tags: str = "") -> None:
        self.rule, self._extra_tags = rule, extra_tags
        self._tags = TagFinder(vocabulary)

    def find(
        self, source: Source, folder: str, parts: Sequence[tuple[FileInfo, int]], forgotten: ForgetList | None = None
    ) -> Sidecar:
        """The histories of all rows of the parts (file, rows by the footer), whose columns are kept in `folder`."""
        found = columns_of_parts(source, folder, parts, self._tags, forgotten, self._extra_tags)
        columns = HistoryColumns.concatenate([part.columns for part in found])
        _only_latest(columns)
        rows_NH = find_history(columns, self.rule)
        may_stand = columns.user != NO_HASH
        if self.rule.order == "earlier":
            may_stand &= columns.created_us != UNDATED
        identity = np.concatenate([np.zeros(0, np.uint64), *(part.identity for part in found)])
        lengths = np.concatenate([np.zeros(1, np.int64), *(part.tag_lengths for part in found)])
        indices = np.concatenate([np.zeros(0, np.int32), *(part.tag_indices for part in found)])
        logger.info(
            "history, %s: %d of %d posts have one", self.rule.describe(), int((rows_NH[:, :1] >= 0).sum()), len(rows_NH)
        )
        return Sidecar(rows_NH, _digests(rows_NH, identity), lengths.cumsum(), indices, may_stand)


@dataclass(frozen=True)
class HistoryWork:
    """What an actor needs to know of histories."""

    sidecar: str
    vectors: str
    """Folder of the vector files, `<content of the part>/<chunk>.parquet`."""
    begins: dict[str, int]
    """Row of the first post of each part, by its content."""


def rows_read(rows_NH: np.ndarray, asked: Iterable[tuple[int, int]]) -> np.ndarray:
    """bool [N]: posts that stand in the histories of the rows from begin to end, for each such pair."""
    read = np.zeros(len(rows_NH), dtype=bool)
    for begin, end in asked:
        rows = np.asarray(rows_NH[begin:end]).ravel()
        read[rows[rows >= 0]] = True
    return read


def vector_table(rows: Sequence[int], values: dict[str, tuple[np.ndarray, np.ndarray]]) -> pa.Table:
    """The content of a vector file: `row` in the part and, for each kind, float16 [n, D] as bytes, null where there is none."""
    columns: dict[str, pa.Array] = {"row": pa.array(rows, pa.int64())}
    for kind, (vectors, present) in values.items():
        flat = np.ascontiguousarray(vectors, dtype="<f2")
        cells = [flat[n].tobytes() if there else None for n, there in enumerate(present.tolist())]
        columns[kind] = pa.array(cells, pa.binary(2 * flat.shape[1]))
    return pa.table(columns)


def vector_files(folder: str) -> set[str]:
    """Vector files that are there, as `<content>/<chunk>.parquet`."""
    return {info.path for info in _listed(folder)}


def open_vectors(work: HistoryWork, n: int, dims: dict[str, int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Kind -> values float16 [n, D] and presence bool [n] of all posts that have been encoded, memory-mapped on this node.

    Built once a node from the vector files; `dims` holds D of each kind.
    """
    files = [info for info in _listed(work.vectors) if info.path.partition("/")[0] in work.begins]
    identity = "\n".join([str(n), *(f"{info.uri} {info.etag}" for info in files)])

    def build(folder: Path) -> None:
        for kind, dim in dims.items():
            for name, row_bytes in ((f"{kind}.f16", 2 * dim), (f"{kind}.present", 1)):
                with open(folder / name, "wb") as file:
                    file.truncate(n * row_bytes)
        for info in files:
            _place(folder, info.uri, work.begins[info.path.partition("/")[0]], dims)

    folder = node_folder("vectors", hashlib.sha256(identity.encode()).hexdigest()[:24], build, work.vectors)
    return {
        kind: (
            np.memmap(folder / f"{kind}.f16", dtype="<f2", mode="r", shape=(n, dim)),
            np.memmap(folder / f"{kind}.present", dtype=bool, mode="r", shape=(n,)),
        )
        for kind, dim in dims.items()
    }


def sweep_history(state_history: str, state_vectors: str, plan_id: str, contents: set[str]) -> None:
    """Remove the sidecars of other plans and vectors of parts that are no longer in the archive."""
    for root, kept in ((state_history, {plan_id}), (state_vectors, contents)):
        try:
            found = storage.list_files(root, hidden=True)
        except NotFoundError:
            continue
        for name in sorted({info.path.partition("/")[0] for info in found} - kept):
            storage.remove_tree(storage.join(root, name))
        for info in found:
            if info.uri.endswith(".tmp"):
                storage.remove(info.uri)


def _only_latest(columns: HistoryColumns) -> None:
    """Of rows with one id the latest by `created_us`, then the last, stands in histories and has one; the others become nobody's."""
    order = np.lexsort((np.arange(len(columns)), columns.created_us, columns.post))
    ordered = columns.post[order]
    earlier = np.zeros(len(columns), dtype=bool)
    earlier[order[:-1]] = ordered[1:] == ordered[:-1]
    columns.user[earlier] = NO_HASH


def _digests(rows_NH: np.ndarray, identity: np.ndarray) -> np.ndarray:
    """int64 [N]: one hash of the identities of the posts in each history, in their order."""
    with np.errstate(over="ignore"):
        digest = np.full(len(rows_NH), 0x9E3779B97F4A7C15, np.uint64)
        for index in range(rows_NH.shape[1]):
            rows = rows_NH[:, index]
            digest = (digest * np.uint64(0x100000001B3)) ^ np.where(rows >= 0, identity[rows], np.uint64(0))
            digest ^= digest >> np.uint64(29)
    found = digest.view(np.int64)
    return np.where(found == 0, 1, found)


def _array(folder: str, name: str) -> str:
    return storage.join(folder, f"{name}.npy")


def _mapped(path: str) -> np.ndarray:
    """An empty array cannot be mapped."""
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except ValueError:
        return np.asarray(np.load(path, allow_pickle=False))


def _place(folder: Path, uri: str, begin: int, dims: dict[str, int]) -> None:
    """Write one file's vectors to their rows of the node's copy: sparse files, of which a hole takes no disk.

    By write and not through a memory map, in which a full disk would kill the process.
    """
    with storage.open_input(uri) as source:
        table = pq.read_table(source)
    if not table.num_rows:
        return
    rows = table["row"].to_numpy()
    size = int(rows.max() - rows.min()) + 1
    for kind, dim in dims.items():
        cells = table[kind].to_pylist()
        there = rows[[cell is not None for cell in cells]] - rows.min()
        block, present = np.zeros((size, 2 * dim), np.uint8), np.zeros((size, 1), np.uint8)
        given = b"".join(cell for cell in cells if cell is not None)
        block[there], present[there] = np.frombuffer(given, np.uint8).reshape(-1, 2 * dim), 1
        for name, content in ((f"{kind}.f16", block), (f"{kind}.present", present)):
            with open(folder / name, "r+b") as file:
                file.seek((begin + int(rows.min())) * content.shape[1])
                file.write(content.tobytes())


def _listed(uri: str) -> list[storage.FileInfo]:
    try:
        return storage.list_files(uri, ".parquet")
    except NotFoundError:
        return []
