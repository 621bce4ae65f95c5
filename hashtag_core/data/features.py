"""The features of one split, row by row, as a folder of memory-mapped arrays; `FeatureCache` is where they come from.

Any number of training workers open the folder at once and read any rows in any order; the operating system's page
cache is the only memory that it takes. The folder is named by what went into it, so that a second run finds it.
"""

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NotRequired, Protocol, TypedDict, overload

import numpy as np
import pyarrow as pa

from hashtag_core import storage
from hashtag_core.data.batches import FeaturizedPosts, HistoryBatch
from hashtag_core.data.dataset import Dataset, Split, rebatch
from hashtag_core.data.feature_cache import Digests, FeatureCache, FeatureKind, digests_of
from hashtag_core.data.vocabulary import Vocabulary
from hashtag_core.errors import ConfigError, IntegrityError, NotFoundError
from hashtag_core.storage.node_local import hold

__all__ = ["FeatureCache", "FeatureKind", "FeatureTable", "build_feature_table"]

FORMAT = 1
POSTS_BATCH = 4096
"""Rows of one record batch of posts.arrow: row i is in batch i // POSTS_BATCH."""

BUILDING = ".building-"
STALE_S = 24 * 3600

POSTS = pa.schema([("post_id", pa.string()), ("user_id", pa.string()), ("caption", pa.string())])


def pad_tags(offsets: np.ndarray, indices: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """int64 [n, L]: for each row its part of `indices`, from `offsets[row]` to `offsets[row + 1]`, filled with -1."""
    starts, lengths = offsets[rows], offsets[rows + 1] - offsets[rows]
    mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
    at, column = np.nonzero(mask)
    padded = np.full(mask.shape, -1, dtype=np.int64)
    padded[at, column] = indices[starts[at] + column]
    return padded


class _Histories(Protocol):
    def batch(self, indices: np.ndarray) -> HistoryBatch: ...


class TagRows(Sequence[list[int]]):
    """Each post's vocabulary indices, in the author's order; memory-mapped."""

    def __init__(self, offsets: np.ndarray, indices: np.ndarray) -> None:
        self._offsets = offsets
        self._indices = indices

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, row: int) -> list[int]: ...
    @overload
    def __getitem__(self, row: slice) -> list[list[int]]: ...
    def __getitem__(self, row: int | slice) -> list[int] | list[list[int]]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        start, end = self._offsets[row % len(self)], self._offsets[row % len(self) + 1]
        return [int(index) for index in self._indices[start:end]]


class TableKind(TypedDict):
    """A feature: the folder of the cache that it came from, and whether its rows differ in length."""

    folder: str
    ragged: bool


class TableFile(TypedDict):
    """A file of a table; of a raw array its type and shape too."""

    name: str
    dtype: NotRequired[str]
    shape: NotRequired[list[int]]
    bytes: int


class TableKey(TypedDict):
    """What a table depends on; its hash names the folder."""

    format: int
    dataset: str
    split: Split
    kinds: dict[str, TableKind]
    vocabulary: list[str]


class TableInfo(TypedDict):
    """`table.json`: what the table is of, the number of tags and posts, and its files by what is in them."""

    format: int
    dataset: str
    split: Split
    kinds: dict[str, TableKind]
    vocabulary: int
    posts: int
    files: dict[str, TableFile]


class FeatureTable:
    """One split's posts with their features. Open with `FeatureTable.open`."""

    def __init__(self, folder: Path, info: TableInfo) -> None:
        self.folder = folder
        self.info = info
        self.kinds: list[str] = sorted(info["kinds"])
        self.image_present = self._array("image_present")
        self.text_present = self._array("text_present")
        self.tags = TagRows(self._array("tag_offsets"), self._array("tag_indices"))
        shared = "boxes" in info["files"] and "boxes" not in self.kinds
        self.boxes = self._array("boxes") if shared else None
        """Of the regions of every image; None where each has its own."""
        self.history: _Histories | None = None
        """Where the rows come with the history of each post: what gives it."""
        self._rows = {kind: self._array(f"{kind}_rows") for kind in self.kinds}
        self._lengths = {kind: self._array(f"{kind}_lengths") for kind in self.kinds if info["kinds"][kind]["ragged"]}
        self._values = {kind: self._array(kind) for kind in self.kinds}
        self._posts = pa.ipc.open_file(pa.memory_map(str(folder / "posts.arrow")))

    @classmethod
    def open(cls, folder: str | Path) -> "FeatureTable":
        """NotFoundError where there is no finished table, IntegrityError where a file is not as long as it was."""
        folder = Path(folder)
        try:
            info: TableInfo = json.loads((folder / "table.json").read_bytes())
        except FileNotFoundError:
            raise NotFoundError(f"no feature table in {folder}") from None
        for name, file in info["files"].items():
            size = (folder / file["name"]).stat().st_size if (folder / file["name"]).exists() else None
            if size != file["bytes"]:
                raise IntegrityError(f"{folder}: {name} has {size} bytes, {file['bytes']} were written")
        return cls(folder, info)

    def __len__(self) -> int:
        return self.info["posts"]

    def rows(self, indices: Sequence[int] | np.ndarray) -> FeaturizedPosts:
        """The posts of those rows, in that order; a row may be asked for twice."""
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} of a table of {len(self)}")
        arrays: dict[str, np.ndarray] = {}
        for kind in self.kinds:
            at = self._rows[kind][wanted]
            if kind in self._lengths:
                arrays[kind], arrays[f"{kind}_mask"] = self._ragged(kind, at, self._lengths[kind][wanted])
                continue
            values = self._values[kind]
            arrays[kind] = np.zeros((len(wanted), *values.shape[1:]), np.float16)
            arrays[kind][at >= 0] = values[at[at >= 0]]
        if self.boxes is not None:
            arrays["boxes"] = self.boxes
        post_ids, user_ids, captions = self._columns(wanted)
        return FeaturizedPosts(
            post_ids=post_ids,
            user_ids=user_ids,
            captions=captions,
            image_present=np.array(self.image_present[wanted]),
            text_present=np.array(self.text_present[wanted]),
            arrays=arrays,
            history=None if self.history is None else self.history.batch(wanted),
        )

    def tags_of(self, rows: np.ndarray) -> np.ndarray:
        """int64 [n, L]: vocabulary indices of those posts' tags, filled with -1."""
        return pad_tags(self._array("tag_offsets"), self._array("tag_indices"), rows)

    def vectors_of(self, kind: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float16 [n, D] of one kind that is no sequence, zeros where there is none, and bool [n]: whether there is one."""
        at = self._rows[kind][rows]
        values = np.zeros((len(rows), *self._values[kind].shape[1:]), np.float16)
        values[at >= 0] = self._values[kind][at[at >= 0]]
        return values, at >= 0

    def column(self, name: str) -> list[Any]:
        """`post_id`, `user_id` or `caption` of every post."""
        return [
            value for b in range(self._posts.num_record_batches) for value in self._posts.get_batch(b)[name].to_pylist()
        ]

    def _ragged(self, kind: str, at: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
        row, token = np.nonzero(mask)
        states = np.zeros((*mask.shape, self._values[kind].shape[1]), np.float16)
        states[row, token] = self._values[kind][at[row] + token]
        return states, mask

    def _columns(self, wanted: np.ndarray) -> tuple[list[str], list[str | None], list[str | None]]:
        batches = {int(b): self._posts.get_batch(int(b)) for b in np.unique(wanted // POSTS_BATCH)}
        found = [batches[row // POSTS_BATCH].slice(row % POSTS_BATCH, 1).to_pylist()[0] for row in wanted.tolist()]
        return [row["post_id"] for row in found], [row["user_id"] for row in found], [row["caption"] for row in found]

    def _array(self, name: str) -> np.ndarray:
        file = self.info["files"][name]
        shape = tuple(file["shape"])
        if 0 in shape:
            return np.zeros(shape, file["dtype"])
        return np.memmap(self.folder / file["name"], dtype=file["dtype"], mode="r", shape=shape)


def build_feature_table(
    dataset: Dataset,
    split: Split,
    cache: FeatureCache,
    needs: frozenset[str],
    vocabulary: Vocabulary,
    folder: str | Path,
) -> FeatureTable:
    """The table of a split, in a folder below `folder` named by its content; built once, in bounded memory.

    An image or a caption that the cache knows as unreadable counts as absent. Several processes may build the same
    table: one of them is kept. IntegrityError where the cache lacks a feature (`ensure_features` comes first),
    ConfigError where `folder` is not on a local disk.
    """
    if storage.is_remote(str(folder)):
        raise ConfigError(f"{folder}: a feature table is memory-mapped and needs a local folder")
    has_regions = bool({"image_grid", "image_trunk"} & needs)
    wanted = needs | ({"boxes"} if has_regions else frozenset())
    kinds = {name: cache.kinds[name] for name in sorted(wanted & cache.kinds.keys())}
    described: TableKey = {
        "format": FORMAT,
        "dataset": dataset.info.content_hash,
        "split": split,
        "kinds": {name: {"folder": kind.folder, "ragged": kind.ragged} for name, kind in kinds.items()},
        "vocabulary": vocabulary.tags,
    }
    name = f"{split}-{hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]}"
    final = Path(folder, name)
    with suppress(NotFoundError):
        return _in_use(FeatureTable.open(final))
    final.parent.mkdir(parents=True, exist_ok=True)
    _sweep(final.parent)
    building = final.with_name(f"{BUILDING}{name}-{uuid.uuid4().hex[:8]}")
    building.mkdir()
    try:
        _build(building, described, dataset, split, cache, kinds, vocabulary)
        with suppress(OSError):  # another process was first: its table is the same
            building.rename(final)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return _in_use(FeatureTable.open(final))


def _in_use(table: FeatureTable) -> FeatureTable:
    """The table, which nobody removes while this process lives; NotFoundError where somebody just has."""
    try:
        hold(table.folder)
    except FileNotFoundError:
        raise NotFoundError(f"no feature table in {table.folder}") from None
    return table


class _Writer:
    """Arrays that grow at their end, as raw files; `files` describes them for table.json."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, TableFile] = {}

    def append(self, name: str, values: np.ndarray) -> None:
        values = np.ascontiguousarray(values)
        entry = self.files.setdefault(
            name, {"name": f"{name}.bin", "dtype": values.dtype.name, "shape": [0, *values.shape[1:]], "bytes": 0}
        )
        with (self.folder / entry["name"]).open("ab") as file:
            file.write(values.data if values.size else b"")
        entry["shape"][0] += len(values)
        entry["bytes"] += values.nbytes


def _build(
    building: Path,
    described: TableKey,
    dataset: Dataset,
    split: Split,
    cache: FeatureCache,
    kinds: dict[str, FeatureKind],
    vocabulary: Vocabulary,
) -> None:
    writer = _Writer(building)
    keys = _write_posts(writer, dataset, split, vocabulary)
    present = {of: given.copy() for of, (given, _) in keys.items()}
    for name, kind in kinds.items():
        given, digests = keys[kind.of]
        here = _write_features(writer, name, kind, cache, given, digests)
        present[kind.of] &= here
    writer.append("image_present", present["image"])
    writer.append("text_present", present["caption"])
    if cache.boxes is not None and {"image_grid", "image_trunk"} & kinds.keys():
        writer.append("boxes", cache.boxes)
    info: TableInfo = {
        "format": described["format"],
        "dataset": described["dataset"],
        "split": split,
        "kinds": described["kinds"],
        "vocabulary": len(vocabulary.tags),
        "posts": len(keys["image"][0]),
        "files": writer.files,
    }
    (building / "table.json").write_text(json.dumps(info, indent=1))


def _write_posts(
    writer: _Writer, dataset: Dataset, split: Split, vocabulary: Vocabulary
) -> dict[str, tuple[np.ndarray, Digests]]:
    """posts.arrow and the tags; returns, for image and caption, which rows have one [n] and its digest [those rows]."""
    columns = [*POSTS.names, "hashtags", "image_key", "caption_key"]
    given: dict[str, list[np.ndarray]] = {"image": [], "caption": []}
    digests: dict[str, list[Digests]] = {"image": [], "caption": []}
    writer.append("tag_offsets", np.zeros(1, np.int64))
    writer.append("tag_indices", np.zeros(0, np.int32))
    tags = 0
    with pa.OSFile(str(writer.folder / "posts.arrow"), "wb") as sink, pa.ipc.new_file(sink, POSTS) as posts:
        for batch in rebatch(dataset.read(split, columns=columns), POSTS_BATCH):
            posts.write_batch(batch.select(POSTS.names).cast(POSTS).combine_chunks().to_batches()[0])
            encoded = [vocabulary.encode(row or []) for row in batch["hashtags"].to_pylist()]
            ends = tags + np.cumsum([len(row) for row in encoded])
            tags = int(ends[-1])
            writer.append("tag_offsets", ends.astype(np.int64))
            writer.append("tag_indices", np.array([index for row in encoded for index in row], dtype=np.int32))
            for of, rows in given.items():
                keys = batch[f"{of}_key"].to_pylist()
                rows.append(np.array([key is not None for key in keys], dtype=bool))
                digests[of].append(digests_of([key for key in keys if key is not None]))
    writer.files["posts"] = {"name": "posts.arrow", "bytes": (writer.folder / "posts.arrow").stat().st_size}
    none = {"given": np.zeros(0, bool), "digests": np.zeros(0, "S32")}
    return {
        of: (np.concatenate([none["given"], *given[of]]), np.concatenate([none["digests"], *digests[of]]))
        for of in given
    }


def _write_features(
    writer: _Writer, name: str, kind: FeatureKind, cache: FeatureCache, given: np.ndarray, digests: Digests
) -> np.ndarray:
    """Values in the cache's order, each once, and for every row where its value is; returns which rows have one [n]."""
    unique, inverse = np.unique(digests, return_inverse=True)
    at = np.full(len(unique), -1, np.int64)
    lengths = np.zeros(len(unique), np.int32)
    written = 0
    writer.append(name, np.zeros((0, *kind.shape), np.float16))
    for part in cache.scan(name, unique):
        writer.append(name, part.values)
        if part.lengths is None:
            at[part.positions] = written + np.arange(len(part.positions))
        else:
            at[part.positions] = written + np.cumsum(part.lengths) - part.lengths
            lengths[part.positions] = part.lengths
        written += len(part.values)
    known = np.isin(unique, digests_of(list(cache.unreadable(name))))
    if lacking := int(((at < 0) & ~known).sum()):
        raise IntegrityError(f"{cache.root}: {lacking} of {len(unique)} {name} are not in the cache")
    rows = np.full(len(given), -1, np.int64)
    rows[given] = at[inverse]
    writer.append(f"{name}_rows", rows)
    if kind.ragged:
        of_row = np.zeros(len(given), np.int32)
        of_row[given] = lengths[inverse]
        writer.append(f"{name}_lengths", of_row)
    return rows >= 0


def _sweep(folder: Path) -> None:
    """Remove what killed builders left a day ago or earlier."""
    for left in folder.glob(f"{BUILDING}*"):
        with suppress(OSError):
            if time.time() - os.stat(left).st_mtime > STALE_S:
                shutil.rmtree(left, ignore_errors=True)
