"""The train posts, kept as vectors and tags, and the nearest of them to a post by cosine.

Dense vectors are searched by FAISS, exactly, a block at a time; sparse ones (TF-IDF) by scikit-learn. Both on the CPU.
A million posts of 1,280 numbers are 2.56 GB of float16, their tags 4 bytes each; a search takes 0.34 GB on top. Sparse
vectors take 6 bytes a word of a caption. Loading or saving a model folder holds the memory twice for a moment.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

BLOCK_POSTS = 65_536


class PostMemory(nn.Module):
    """Up to N posts: dense as vectors_ND, or sparse as words_E and values_E with starts_N1; tags_M with tag_starts_N1."""

    vectors_ND: Tensor
    words_E: Tensor
    values_E: Tensor
    starts_N1: Tensor
    tags_M: Tensor
    tag_starts_N1: Tensor

    def __init__(self, size: int, tags: int, *, sparse: bool) -> None:
        super().__init__()
        self.size, self.tags, self.sparse = size, tags, sparse
        if sparse:
            self.register_buffer("words_E", torch.zeros(0, dtype=torch.int32))
            self.register_buffer("values_E", torch.zeros(0, dtype=torch.float16))
            self.register_buffer("starts_N1", torch.zeros(1, dtype=torch.int64))
        else:
            self.register_buffer("vectors_ND", torch.zeros(0, size, dtype=torch.float16))
        self.register_buffer("tags_M", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("tag_starts_N1", torch.zeros(1, dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.tag_starts_N1) - 1

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Stay where it is: the search is on the CPU whatever the device of the model."""
        return self

    def fill(self, rows: Iterable[tuple[Tensor, Tensor, list[list[int]]]], posts: int) -> None:
        """Keep the posts of which something is known (see `VectorModel.rows`); `posts` at most."""
        from scipy.sparse import csr_matrix

        dense_ND = torch.zeros(0 if self.sparse else posts, self.size, dtype=torch.float16)
        sparse: list[csr_matrix] = []
        kept: list[list[int]] = []
        for vectors_BD, known_B, tags in rows:
            known_KD = vectors_BD[known_B]
            if self.sparse:
                sparse.append(csr_matrix(known_KD.numpy()))
            else:
                dense_ND[len(kept) : len(kept) + len(known_KD)] = known_KD
            kept += [row for row, known in zip(tags, known_B.tolist(), strict=True) if known]
        if self.sparse:
            self.words_E = torch.from_numpy(_joined([part.indices for part in sparse], np.int32))
            self.values_E = torch.from_numpy(_joined([part.data for part in sparse], np.float16))
            self.starts_N1 = _starts(_joined([np.diff(part.indptr) for part in sparse], np.int64))
        else:
            self.vectors_ND = dense_ND[: len(kept)].clone() if len(kept) < posts else dense_ND
        self.tags_M = torch.from_numpy(_joined([np.array(row) for row in kept], np.int32))
        self.tag_starts_N1 = _starts(np.array([len(row) for row in kept], dtype=np.int64))

    def shares(self) -> Tensor:
        """share_V: of these posts, how many carry each tag."""
        return torch.bincount(self.tags_M.long(), minlength=self.tags).float() / max(1, len(self))

    def stored(self, rows: np.ndarray) -> "np.ndarray | csr_matrix":
        """The vectors of those posts, float32."""
        if self.sparse:
            return self._matrix()[rows]
        return self.vectors_ND[torch.from_numpy(rows)].float().numpy()

    def _matrix(self) -> "csr_matrix":
        from scipy.sparse import csr_matrix

        parts = (self.values_E.float().numpy(), self.words_E.numpy(), self.starts_N1.numpy())
        return csr_matrix(parts, shape=(len(self), self.size))

    def nearest(self, query: "np.ndarray | csr_matrix", k: int) -> np.ndarray:
        """Rows [Q, k] of the k posts with the greatest inner product, best first; -1 where there are fewer."""
        rows_QK = np.full((query.shape[0], k), -1, dtype=np.int64)
        found = min(k, len(self))
        if not found or not len(rows_QK):
            return rows_QK
        if self.sparse:
            from sklearn.neighbors import NearestNeighbors  # here: scikit-learn takes two seconds to import

            search = NearestNeighbors(n_neighbors=found, algorithm="brute", metric="cosine").fit(self._matrix())
            rows_QK[:, :found] = search.kneighbors(query, return_distance=False)
            return rows_QK
        import faiss  # it tells at length how it was loaded: only to those who search

        heap = faiss.ResultHeap(len(query), found, keep_max=True)
        for start in range(0, len(self), BLOCK_POSTS):
            block = self.vectors_ND[start : start + BLOCK_POSTS].float().numpy()
            products, at = faiss.knn(query, block, min(found, len(block)), faiss.METRIC_INNER_PRODUCT)
            heap.add_result(products, at + start)
        heap.finalize()
        rows_QK[:, :found] = heap.I
        return rows_QK

    def votes(self, rows_QK: np.ndarray) -> np.ndarray:
        """How many of those posts carry each tag: int64 [Q, tags]; -1 is no post."""
        query_P, place_P = np.nonzero(rows_QK >= 0)
        rows_P, starts = rows_QK[query_P, place_P], self.tag_starts_N1.numpy()
        lengths_P = starts[rows_P + 1] - starts[rows_P]
        offsets_P = starts[rows_P] - (np.cumsum(lengths_P) - lengths_P)
        carried = self.tags_M.numpy()[np.repeat(offsets_P, lengths_P) + np.arange(lengths_P.sum())]
        flat = np.repeat(query_P, lengths_P) * self.tags + carried
        return np.bincount(flat, minlength=len(rows_QK) * self.tags).reshape(len(rows_QK), self.tags)

    def votes_of_nearest(self, vectors_BD: Tensor, known_B: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """votes_BV of each post's k neighbours, and voters_B: how many there were. A post of which nothing is known has none."""
        from scipy.sparse import csr_matrix

        rows_BK = np.full((len(vectors_BD), k), -1, dtype=np.int64)
        query = vectors_BD[known_B].cpu().numpy()
        rows_BK[known_B.cpu().numpy()] = self.nearest(csr_matrix(query) if self.sparse else query, k)
        votes_BV = torch.from_numpy(self.votes(rows_BK)).to(vectors_BD.device)
        return votes_BV, torch.from_numpy((rows_BK >= 0).sum(1)).to(vectors_BD.device)


def _joined(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)


def _starts(lengths: np.ndarray) -> Tensor:
    return torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
