"""Encode what the feature cache lacks, with Ray Data.

    keys of the dataset, minus those cached -> chunks of posts (rows of a Ray dataset) -> read, decode, encode -> cache files

A chunk's files are written when it is done, so that a killed run goes on where it stopped. Without GPUs one actor does
all of a chunk; with GPUs a pool of CPU tasks reads and decodes, and one actor a GPU encodes.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from hashtag_core import storage
from hashtag_core.config import EncodersSection
from hashtag_core.data.dataset import SPLITS, Dataset, Split
from hashtag_core.data.feature_cache import DIED, FeatureCache, cache_root
from hashtag_core.data.features import build_feature_table
from hashtag_core.distributed.place import pool_for
from hashtag_core.distributed.session import cluster_cpus, cluster_gpus
from hashtag_core.distributed.tasks import Pool, run_tasks
from hashtag_core.encoders import load_encoders
from hashtag_core.encoders.encode_chunk import EncodeChunk, Slices, read_chunk
from hashtag_core.errors import HashtagError
from hashtag_core.progress_bar import ProgressBar
from hashtag_core.storage.node_local import open_root

__all__ = ["build_feature_table", "ensure_features", "tables_folder"]

logger = logging.getLogger(__name__)

CHUNK_POSTS = (64, 1024)
"""Fewest and most posts a chunk; in between, eight chunks an actor."""

RETRY_CHUNK_POSTS = (16, 1)
"""Chunk sizes of the rounds after a process died: the last one singles out the content that kills it."""

NO_PROGRESS_TIMEOUT_S = 1800
"""A chunk of a large encoder takes minutes on a CPU."""


def tables_folder() -> Path:
    """Where this user's feature tables are on a node: its own disk. Tables that nobody uses go by age, or when room is short."""
    return open_root("tables")


def ensure_features(
    dataset: Dataset,
    section: EncodersSection,
    needs: frozenset[str],
    splits: Sequence[Split] = SPLITS,
    gpus: int | None = None,
) -> FeatureCache:
    """The cache, complete for those splits: every image and caption is in it, or known as unreadable with the reason.

    Only what is missing is computed; where nothing is, no Ray task runs. `gpus`: how many the cluster is asked for, beside those
    that are up (it starts the machines). Raises HashtagError (the first of the errors
    in its message) where chunks failed for a reason that is not their content.
    """
    encoders = load_encoders(section, needs, "cpu")
    kinds, side_px = encoders.kinds, encoders.image_side_px
    cache = encoders.open_cache(cache_root(dataset.uri, section))
    del encoders
    cache.forget_deaths()
    before = 0
    for chunk_posts in (None, *RETRY_CHUNK_POSTS):
        cache.refresh()
        lacking, slices = _missing(dataset, splits, cache)
        if not slices:
            return cache
        posts = sum(len({*images, *captions}) for _, _, images, captions in slices)
        if before and posts > before // 2 + CHUNK_POSTS[0]:
            raise HashtagError(f"the processes that encode keep dying (memory?): {posts} of {before} posts are left")
        before = posts
        logger.info("encoding %d posts into %s: %s", posts, cache.root, ", ".join(sorted(lacking)))
        on_gpus = max(int(cluster_gpus()), gpus or 0)
        actors = on_gpus or max(1, int(cluster_cpus()))
        size = chunk_posts or int(np.clip(posts // (8 * actors), *CHUNK_POSTS))
        chunks = list(_cut(slices, size))
        make = partial(EncodeChunk, section, frozenset(lacking), FeatureCache(cache.root, kinds))
        pool, _ = pool_for(len(chunks), on_gpus)
        if on_gpus:  # CPUs are for the tasks that read ahead, which need a whole one
            pool = replace(pool, cpus=None)
        _run(chunks, make, side_px, pool, posts)
    cache.refresh()
    _, slices = _missing(dataset, splits, cache)
    for kind, keys in _keys_of(slices, cache).items():
        logger.warning("%d contents killed the process that encoded them; they count as unreadable for now", len(keys))
        cache.write_unreadable(kind, dict.fromkeys(keys, DIED))
    cache.refresh()
    return cache


def _missing(dataset: Dataset, splits: Sequence[Split], cache: FeatureCache) -> tuple[set[str], Slices]:
    """Which kinds lack something, and the rows that hold it: each content once."""
    lacking: set[str] = set()
    seen: set[bytes] = set()
    slices: Slices = []
    for uri in (uri for split in splits for uri in dataset.files(split)):
        with storage.open_input(uri) as source:
            file = pq.ParquetFile(source)
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=["image_key", "caption_key"])
                wanted: dict[str, list[int]] = {"image": [], "caption": []}
                for of, rows in wanted.items():
                    keys = table[f"{of}_key"].to_pylist()
                    missing: set[str] = set()
                    for name, kind in cache.kinds.items():
                        found = cache.missing(name, keys) if kind.of == of else []
                        missing.update(found)
                        lacking.update([name] if found else [])
                    for row, key in enumerate(keys):
                        if key in missing and (short := of[:1].encode() + bytes.fromhex(key)[:16]) not in seen:
                            seen.add(short)
                            rows.append(row)
                if wanted["image"] or wanted["caption"]:
                    slices.append((uri, group, wanted["image"], wanted["caption"]))
    return lacking, slices


def _keys_of(slices: Slices, cache: FeatureCache) -> dict[str, list[str]]:
    """The keys in those rows, by one kind of their encoder."""
    found: dict[str, list[str]] = {}
    kind_of: dict[str, str] = {kind.of: name for name, kind in cache.kinds.items()}
    for uri, group, images, captions in slices:
        with storage.open_input(uri) as source:
            table = pq.ParquetFile(source).read_row_group(group, columns=["image_key", "caption_key"])
        for of, rows in (("image", images), ("caption", captions)):
            if rows:
                found.setdefault(kind_of[of], []).extend(table[f"{of}_key"].take(rows).to_pylist())
    return found


def _cut(slices: Slices, size: int) -> Iterator[Slices]:
    """Chunks of at most `size` posts, in order."""
    chunk: Slices = []
    room = size
    for uri, group, images, captions in slices:
        rows = sorted({*images, *captions})
        start = 0
        while start < len(rows):
            taken = rows[start : start + room]
            first, last = taken[0], taken[-1]
            part = [[row for row in wanted if first <= row <= last] for wanted in (images, captions)]
            chunk.append((uri, group, part[0], part[1]))
            start, room = start + len(taken), room - len(taken)
            if not room:
                yield chunk
                chunk, room = [], size
    if chunk:
        yield chunk


def _run(chunks: list[Slices], encode: "Callable[..., EncodeChunk]", side_px: int, pool: Pool, posts: int) -> None:
    """One round over the chunks, with a progress bar on stderr. Those whose process died are left to the next round."""
    make = partial(encode, threads=None if pool.gpus else 1)
    ahead = partial(read_chunk, side_px=side_px) if pool.gpus else None
    errors: list[str] = []
    started = time.monotonic()
    unreadable = 0
    outcomes = run_tasks("encoding", chunks, make, pool, end_s=NO_PROGRESS_TIMEOUT_S, ahead=ahead)
    with closing(outcomes), ProgressBar(posts, "encoding") as progress:
        for outcome in outcomes:
            if outcome.value is not None:
                progress.add(outcome.value.posts)
                unreadable += outcome.value.unreadable
            elif not outcome.died:
                errors.append(str(outcome.error))
    if errors:
        raise HashtagError(f"{len(errors)} of {len(chunks)} chunks could not be encoded; the first: {errors[0]}")
    rate = posts / max(time.monotonic() - started, 1e-9)
    logger.info("encoded %d posts (%.0f a second, actors' start included), %d unreadable", posts, rate, unreadable)
