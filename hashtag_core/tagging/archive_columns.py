"""The small columns of an archive's parts, from which histories are found: each part is read once and kept as arrays.

A part's arrays are named by its path and version, so that only parts that are new or changed are opened.
"""

import io
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from hashtag_core import storage
from hashtag_core.data.archive_history import READ, ArchivePosts, TagFinder
from hashtag_core.data.history import NO_HASH, UNDATED, HistoryColumns
from hashtag_core.data.tagged_archive import Source
from hashtag_core.errors import HashtagError, NotFoundError, StorageError
from hashtag_core.output.forget_users.forget_list import ForgetList
from hashtag_core.output.records import columns_name
from hashtag_core.schema import POST
from hashtag_core.storage import FileInfo

logger = logging.getLogger(__name__)

SCAN_ROWS = 8_192
PARTS_AT_ONCE = 16


@dataclass(frozen=True)
class PartColumns:
    """What one part's rows are, [n] each; a row that is no post is nobody's."""

    columns: HistoryColumns
    tag_lengths: np.ndarray
    tag_indices: np.ndarray
    identity: np.ndarray
    """uint64: hash of id, caption, `image_uri` and hashtags: when it changes, the histories that the post stands in did."""
    forgotten: str = ""
    """Digest of the list of forgotten users and posts whose rows are nobody's here; empty for an empty list."""
    extra_tags: str = ""
    """Tells which tags stand behind those of the model: with others the indices are not the same tags."""


def columns_of_parts(
    source: Source,
    folder: str,
    parts: Sequence[tuple[FileInfo, int]],
    tags: TagFinder,
    forgotten: ForgetList | None,
    extra_tags: str = "",
) -> list[PartColumns]:
    """The columns of parts (file, rows by the footer), from `folder` or, where it lacks them, from the part.

    `extra_tags` tells which tags `tags` finds beside those of the model; columns of other ones are read anew.
    """
    with ThreadPoolExecutor(min(PARTS_AT_ONCE, max(1, len(parts)))) as pool:
        found = list(pool.map(lambda part: _load(folder, part[0]), parts))
    digest = forgotten.digest if forgotten is not None and (forgotten.users or forgotten.posts) else ""
    for at, (file, rows) in enumerate(parts):
        columns = found[at]
        if columns is not None and columns.extra_tags != extra_tags:
            columns = None
        if columns is None or columns.forgotten != digest:
            read = columns or replace(_read(source, file, rows, tags), extra_tags=extra_tags)
            columns = found[at] = _without_forgotten(source, read, file, forgotten, digest)
            _save(folder, file, columns)
        if len(columns.columns) != rows:
            raise StorageError(f"{file.uri}: {len(columns.columns)} rows, {rows} when it was planned: run again")
    return [item for item in found if item is not None]


def load_digests(folder: str, file: FileInfo) -> np.ndarray | None:
    """int64 [n]: history hashes that the rows of a part were tagged with; None where that is not known."""
    try:
        digests = np.load(io.BytesIO(storage.read_bytes(_uri(folder, file, "history.npy"))), allow_pickle=False)
        return np.asarray(digests)
    except NotFoundError:
        return None
    except (HashtagError, ValueError) as error:
        logger.warning("%s: histories are compared with none: %s", file.path, error)
        return None


def save_digests(folder: str, file: FileInfo, digests: np.ndarray) -> None:
    """Note the history hashes that the rows of a part were tagged with."""
    with storage.open_output(_uri(folder, file, "history.npy")) as target:
        np.lib.format.write_array(target, np.ascontiguousarray(digests), allow_pickle=False)


def sweep_columns(folder: str, files: Sequence[FileInfo]) -> None:
    """Remove the arrays of parts that are no longer in the archive so."""
    kept = {_name(file) for file in files}
    try:
        listed = storage.list_files(folder, hidden=True)
    except NotFoundError:
        return
    for info in listed:
        if info.path.partition(".")[0] not in kept:
            storage.remove(info.uri)


def _read(source: Source, file: FileInfo, rows: int, tags: TagFinder) -> PartColumns:
    """Rows that cannot be read stand for nothing, and so do earlier ones of an id that occurs twice."""
    posts = ArchivePosts(tags)
    identity = np.zeros(rows, np.uint64)
    nothing = pa.schema([POST.field(name) for name in READ]).empty_table()
    begun = 0
    for batch in source.batches(file, SCAN_ROWS, READ) if rows else ():
        size = batch.posts.num_rows + sum(item.row is not None for item in batch.rejected)
        if batch.first_row + size > rows:
            raise StorageError(f"{file.uri}: more rows than the {rows} when it was planned: run again")
        if batch.first_row > begun:
            posts.add(nothing, np.zeros(0, np.int64), batch.first_row - begun)
        at = batch.rows
        posts.add(batch.posts, at - batch.first_row, size)
        begun = batch.first_row + size
        identity[at] = _identity(batch.posts)
    posts.add(nothing, np.zeros(0, np.int64), rows - begun)
    offsets, indices = posts.tag_arrays()
    return PartColumns(posts.columns(), np.diff(offsets), indices, identity)


def _identity(posts: pa.Table) -> np.ndarray:
    """Of id, caption, link and tags together, as one string a post."""
    tags = pc.binary_join(posts["hashtags"].cast(pa.list_(pa.string())), "\x1f")
    pieces = [posts["post_id"], posts["caption"], posts["image_uri"], tags]
    texts = pc.binary_join_element_wise(*pieces, "\x1e", null_handling="replace", null_replacement="\x1d")
    hashes = pd.util.hash_array(texts.to_numpy(), categorize=False)
    return np.where(hashes == NO_HASH, np.uint64(1), hashes)


def _without_forgotten(
    source: Source, part: PartColumns, file: FileInfo, forgotten: ForgetList | None, digest: str
) -> PartColumns:
    """Posts of forgotten users and forgotten posts are nobody's: they stand in no history, and nothing of them is kept."""
    if forgotten is None or not digest:
        return replace(part, forgotten=digest)
    gone = np.zeros(len(part.columns), dtype=bool)
    for batch in source.batches(file, SCAN_ROWS, ["user_id"]):
        gone[batch.rows[forgotten.covers(batch.posts)]] = True
    columns = {item.name: np.where(gone, NO_HASH, getattr(part.columns, item.name)) for item in fields(HistoryColumns)}
    columns["created_us"] = np.where(gone, UNDATED, part.columns.created_us)
    kept = part.tag_indices[~np.repeat(gone, part.tag_lengths)]
    lengths, identity = np.where(gone, 0, part.tag_lengths), np.where(gone, np.uint64(NO_HASH), part.identity)
    return PartColumns(HistoryColumns(**columns), lengths, kept, identity, digest, part.extra_tags)


def _name(file: FileInfo) -> str:
    return columns_name(file.path, file.etag)


def _uri(folder: str, file: FileInfo, suffix: str) -> str:
    return storage.join(folder, f"{_name(file)}.{suffix}")


def _load(folder: str, file: FileInfo) -> PartColumns | None:
    try:
        content = storage.read_bytes(_uri(folder, file, "npz"))
    except NotFoundError:
        return None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as saved:
            columns = HistoryColumns(**{item.name: saved[item.name] for item in fields(HistoryColumns)})
            arrays = (columns, saved["tag_lengths"], saved["tag_indices"], saved["identity"])
            extra = str(saved["extra_tags"]) if "extra_tags" in saved else ""  # before there were any
            return PartColumns(*arrays, str(saved["forgotten"]), extra)
    except (ValueError, KeyError, OSError) as error:
        logger.warning("%s: its columns are read again: %s", file.path, error)
        return None


def _save(folder: str, file: FileInfo, part: PartColumns) -> None:
    arrays = {item.name: getattr(part.columns, item.name) for item in fields(HistoryColumns)}
    with storage.open_output(_uri(folder, file, "npz")) as target:
        np.savez(
            target,
            tag_lengths=part.tag_lengths,
            tag_indices=part.tag_indices,
            identity=part.identity,
            forgotten=np.array(part.forgotten),
            extra_tags=np.array(part.extra_tags),
            **arrays,
        )
