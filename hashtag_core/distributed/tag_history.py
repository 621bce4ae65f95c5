"""Histories while an archive is tagged: found in the archive itself, without moving an image.

    driver, once a plan: small columns, part by part -> one sort -> row-aligned sidecar under `_state/`
    actors: pooled vectors of the chunks in which posts of a history are, a file a chunk, under `_state/` (only for a model
    that reads vectors) -> a memory-mapped copy of them on each node's own disk -> scores

Rows are counted through all parts of the plan, in its order. How it scales, on one core of the driver: 300,000 posts
took 3.5 s to read and sort where tags have a column, 7.7 s where they are found in captions, and it grows with the posts;
in memory are 40 bytes a post, some 150 while they are sorted, and the sidecar: 4 H bytes a post and 4 a tag. Vectors: each post with a user is encoded once more than without a history,
once for all plans, since its file is named by the content of its part; 2 bytes a number (3.3 KB a post with the default
encoders) in `_state/`, and on each node. A part whose histories changed, because of posts that came late, is tagged anew:
its id tells which posts stand in them.
"""

import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hashtag_core import storage
from hashtag_core.data.archive_history import READ, ArchivePosts, TagFinder
from hashtag_core.data.history import NONE, UNDATED, HistoryRule, find_history
from hashtag_core.data.posts import iter_post_batches
from hashtag_core.data.vocabulary import Vocabulary
from hashtag_core.errors import IntegrityError, NotFoundError
from hashtag_core.schema import POST

logger = logging.getLogger(__name__)

SCAN_ROWS = 8_192
DIGEST_ROWS = 65_536
COPY_AGE_S = 24 * 3600
SOURCE = "source.txt"
ARRAYS = ("rows", "tag_offsets", "tag_indices", "may_stand")


@dataclass(frozen=True)
class ScannedPart:
    """What is looked through: rows by the footer, and those that are not tagged."""

    uri: str
    path: str
    etag: str
    rows: int
    left_out: Sequence[int]


@dataclass(frozen=True)
class Sidecar:
    """Histories of all rows of an archive (N), and the tags of its posts."""

    rows: np.ndarray
    """int32 [N, H]; -1 fills."""
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
            named = hashlib.sha256(folder.encode()).hexdigest()[:16]
            where = str(_node_copy(f"sidecar-{named}", folder, lambda made: storage.download_folder(folder, made)))
        return cls(*(_mapped(_array(where, name)) for name in ARRAYS))


class HistoryFinder:
    """Finds the histories in an archive for one model; `sidecar` is what `find` found."""

    def __init__(self, rule: HistoryRule, vocabulary: Vocabulary) -> None:
        self.rule = rule
        self.sidecar: Sidecar | None = None
        self._tags = TagFinder(vocabulary)

    def find(self, parts: Sequence[ScannedPart]) -> list[str]:
        """Look through the parts; for each a digest of whose posts stand in its histories: part, content and row of each."""
        posts = ArchivePosts(self._tags)
        for part in parts:
            _read(posts, part)
        columns = posts.columns()
        rows_NH = find_history(columns, self.rule)
        may_stand = columns.user != NONE
        if self.rule.order == "earlier":
            may_stand &= columns.created_us != UNDATED
        self.sidecar = Sidecar(rows_NH, *posts.tag_arrays(), may_stand)
        logger.info(
            "history, %s: %d of %d posts have one", self.rule.told(), int((rows_NH[:, :1] >= 0).sum()), len(rows_NH)
        )
        return _digests(rows_NH, parts)


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


def write_no_vectors(uri: str) -> None:
    """The file of a chunk whose posts cannot be encoded."""
    with storage.open_output(uri) as file:
        pq.write_table(vector_table([], {}), file)


def vector_files(folder: str) -> set[str]:
    """Vector files that are there, as `<content>/<chunk>.parquet`."""
    return {info.path for info in _listed(folder)}


def open_vectors(work: HistoryWork, n: int, dims: dict[str, int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Kind -> values float16 [n, D] and presence bool [n] of all posts that have been encoded, memory-mapped on this node.

    Built once a node from the vector files; `dims` holds D of each kind.
    """
    files = [info for info in _listed(work.vectors) if info.path.partition("/")[0] in work.begins]
    named = hashlib.sha256("\n".join([str(n), *(f"{info.uri} {info.etag}" for info in files)]).encode()).hexdigest()[
        :16
    ]

    def build(folder: Path) -> None:
        for kind, dim in dims.items():
            for name, row_bytes in ((f"{kind}.f16", 2 * dim), (f"{kind}.present", 1)):
                with open(folder / name, "wb") as file:
                    file.truncate(n * row_bytes)
        for info in files:
            _place(folder, info.uri, work.begins[info.path.partition("/")[0]], dims)

    folder = _node_copy(f"vectors-{named}", work.vectors, build)
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


def _read(posts: ArchivePosts, part: ScannedPart) -> None:
    """Exactly `part.rows` rows: those that are no posts, are not tagged or cannot be read stand for nothing."""
    seen = 0
    for batch in iter_post_batches(part.uri, SCAN_ROWS, READ) if part.rows else ():
        size = batch.posts.num_rows + sum(item.row is not None for item in batch.rejected)
        kept = np.flatnonzero(~np.isin(batch.rows, part.left_out))
        places = batch.rows[kept] - batch.first_row
        posts.add(batch.posts.take(pa.array(kept)), places, size)
        seen += size
    if seen > part.rows:
        raise IntegrityError(f"{part.uri}: {seen} rows, {part.rows} when it was planned: run again")
    nothing = pa.schema([POST.field(name) for name in READ]).empty_table()
    posts.add(nothing, np.zeros(0, np.int64), part.rows - seen)


def _digests(rows_NH: np.ndarray, parts: Sequence[ScannedPart]) -> list[str]:
    ends = np.cumsum([part.rows for part in parts])
    begins = ends - [part.rows for part in parts]
    keys = [hashlib.sha256(f"{part.path}\n{part.etag}".encode()).digest()[:8] for part in parts]
    of_part = np.frombuffer(b"".join(keys), np.uint64)
    found = []
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        digest = hashlib.sha256()
        for start in range(begin, end, DIGEST_ROWS):
            rows = rows_NH[start : min(start + DIGEST_ROWS, end)].astype(np.int64)
            part = np.minimum(np.searchsorted(ends, rows, side="right"), len(parts) - 1)
            named = np.stack([of_part[part], (rows - begins[part]).view(np.uint64)])
            digest.update(np.where(rows >= 0, named, np.uint64(0)).tobytes())
        found.append(digest.hexdigest())
    return found


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


def _node_copy(name: str, source: str, build: Callable[[Path], None]) -> Path:
    """A folder on this node's own disk, built by the first process that asks; copies that none opened for a day go.

    `source`: what it is a copy of."""
    root = _copies()
    folder = root / name
    with open(root / ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            for left in root.glob("*-*"):
                if time.time() - left.stat().st_mtime > COPY_AGE_S:
                    shutil.rmtree(left, ignore_errors=True)
            building = root / f"building-{uuid.uuid4().hex[:8]}"
            building.mkdir()
            build(building)
            (building / SOURCE).write_text(source, encoding="utf-8")
            building.rename(folder)
        os.utime(folder)
    return folder


def drop_node_copies(state: str) -> None:
    """Remove this node's copies of histories and vectors below `state`: who needs one builds it anew. Those of other nodes
    go a day after they were last opened."""
    root = _copies()
    with open(root / ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for copy in root.glob("*-*"):
            source = copy / SOURCE
            if source.is_file() and source.read_text(encoding="utf-8").startswith(state.rstrip("/") + "/"):
                shutil.rmtree(copy, ignore_errors=True)


def _copies() -> Path:
    root = Path(tempfile.gettempdir(), f"hashtag-recommender-{os.getuid()}", "history")
    root.mkdir(parents=True, exist_ok=True)
    return root


def _listed(uri: str) -> list[storage.FileInfo]:
    try:
        return storage.list_files(uri, ".parquet")
    except NotFoundError:
        return []
