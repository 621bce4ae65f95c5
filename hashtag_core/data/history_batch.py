"""From rows of histories to the tensors that a model reads; see `hashtag_core.data.history` for which rows they are.

Shape legend: `hashtag_core.data.batches`. What is read of a post is looked up once a batch, in however many histories it stands.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from hashtag_core.data.batches import HistoryBatch
from hashtag_core.data.dataset import Dataset, Split
from hashtag_core.data.feature_cache import FeatureCache
from hashtag_core.data.features import FeatureTable, build_feature_table, pad_tags
from hashtag_core.data.history import HistoryRule, dataset_history
from hashtag_core.data.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


class PastPosts(Protocol):
    """Posts that may stand in a history, found by row."""

    def __len__(self) -> int: ...

    def tags_of(self, rows: np.ndarray) -> np.ndarray:
        """int64 [n, L]: vocabulary indices of their tags, filled with -1."""
        ...

    def vectors_of(self, kind: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float [n, D], zeros where there is none, and bool [n]: whether there is one."""
        ...


@dataclass(frozen=True)
class ArrayPosts:
    """Posts whose arrays are at hand, in memory or memory-mapped."""

    tag_offsets: np.ndarray
    """int64 [N + 1]: where the tags of each post begin in `tag_indices`."""
    tag_indices: np.ndarray
    vectors: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    """Kind -> values [N, D] and whether there is one [N]."""

    def __len__(self) -> int:
        return len(self.tag_offsets) - 1

    def tags_of(self, rows: np.ndarray) -> np.ndarray:
        return pad_tags(self.tag_offsets, self.tag_indices, rows)

    def vectors_of(self, kind: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, present = self.vectors[kind]
        return np.asarray(values[rows]), np.asarray(present[rows], dtype=bool)


@dataclass(frozen=True)
class JoinedPosts:
    """Posts of several places, their rows counted on from one to the next."""

    places: Sequence[PastPosts]

    def __len__(self) -> int:
        return sum(len(posts) for posts in self.places)

    def tags_of(self, rows: np.ndarray) -> np.ndarray:
        pieces = [(mine, posts.tags_of(here)) for posts, mine, here in self._apart(rows)]
        tags = np.full((len(rows), max((found.shape[1] for _, found in pieces), default=0)), -1, np.int64)
        for mine, found in pieces:
            tags[mine, : found.shape[1]] = found
        return tags

    def vectors_of(self, kind: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pieces = [(mine, *posts.vectors_of(kind, here)) for posts, mine, here in self._apart(rows)]
        values = np.zeros((len(rows), pieces[0][1].shape[1]), np.float16)
        present = np.zeros(len(rows), dtype=bool)
        for mine, found, here in pieces:
            values[mine], present[mine] = found, here
        return values, present

    def _apart(self, rows: np.ndarray) -> list[tuple[PastPosts, np.ndarray, np.ndarray]]:
        """Every place, which of `rows` are in it, and their rows there."""
        ends = np.cumsum([len(posts) for posts in self.places])
        of = np.searchsorted(ends, rows, side="right")
        begins = ends - [len(posts) for posts in self.places]
        return [(posts, np.flatnonzero(of == n), rows[of == n] - begins[n]) for n, posts in enumerate(self.places)]


@dataclass(frozen=True)
class History:
    """The histories of some posts: `rows_NH` in `posts`, filled with -1, and what is read of them beside the tags."""

    rows_NH: np.ndarray
    posts: PastPosts
    reads: tuple[str, ...] = ()

    def select(self, indices: np.ndarray | slice) -> "History":
        """Of some of the posts, in that order."""
        return History(self.rows_NH[indices], self.posts, self.reads)

    def batch(self, indices: np.ndarray | Sequence[int]) -> HistoryBatch:
        """The histories of those posts, in that order."""
        rows_BH = np.asarray(self.rows_NH[np.asarray(indices)], dtype=np.int64)
        mask_BH = rows_BH >= 0
        unique, inverse = np.unique(rows_BH[mask_BH], return_inverse=True)
        tags = self.posts.tags_of(unique)
        tags_BHL = np.full((*rows_BH.shape, tags.shape[1]), -1, np.int64)
        tags_BHL[mask_BH] = tags[inverse]
        values: dict[str, torch.Tensor] = {}
        for kind in self.reads:
            found, present = self.posts.vectors_of(kind, unique)
            vector_BHD = np.zeros((*rows_BH.shape, found.shape[1]), np.float32)
            present_BH = np.zeros(rows_BH.shape, dtype=bool)
            vector_BHD[mask_BH], present_BH[mask_BH] = found[inverse], present[inverse]
            values[f"{kind}_BHD"] = torch.from_numpy(vector_BHD)
            values[f"{kind.removesuffix('_vector')}_present_BH"] = torch.from_numpy(present_BH)
        return HistoryBatch(mask_BH=torch.from_numpy(mask_BH), tags_BHL=torch.from_numpy(tags_BHL), **values)


def open_history(
    dataset: Dataset,
    split: Split,
    rule: HistoryRule,
    cache: FeatureCache | None,
    vocabulary: Vocabulary,
    folder: str | Path,
) -> History:
    """The histories of a split's posts, from feature tables below `folder` of this and the earlier splits.

    The tables hold what is read of a history alone; the cache (None where that is nothing but tags) must hold it for all
    those splits.
    """
    rows_NH, splits = dataset_history(dataset, split, rule)
    if not (rows_NH >= 0).any():
        why = "posts without user_id" + (" or created_at" if rule.order == "earlier" else "")
        logger.warning("%s, %s split: no post has a history (%s); %s", dataset.uri, split, rule.describe(), why)
    needs = frozenset(rule.reads)
    cache = cache or FeatureCache("", {})
    tables: list[FeatureTable] = [
        build_feature_table(dataset, name, cache, needs, vocabulary, folder)
        for name in splits
        if dataset.info.posts.get(name, 0)
    ]
    for table in tables:
        os.utime(table.folder)
    return History(rows_NH, JoinedPosts(tables), rule.reads)
