"""Posts of other users that are like a post: unit vectors in half precision, tags and owners, a part of the model.

Shape legend: `hashtag_core.data.batches`; N posts kept, K neighbours, C columns that are read. Up to `EXACT_POSTS` are searched exactly, by one product;
more by FAISS, an inverted file with 8 bits a number, which is made when the model is loaded and is no file of its own.
"""

import hashlib
import math
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from hashtag_core.data.batches import PostBatch
from hashtag_core.data.features import pad_tags

EXACT_POSTS = 100_000
BLOCK_POSTS = 32_768
SPARE = 4
"""Where FAISS searches: how many times K are asked for, since posts of the same owner are struck out afterwards."""
PROBED_LISTS = 32


class Neighbours(nn.Module):
    """Fill with `keep`; `nearest` is never a post of the same owner."""

    vectors_ND: Tensor
    owner_N: Tensor
    tags_M: Tensor
    tag_starts_N1: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("vectors_ND", torch.zeros(0, width, dtype=torch.float16))
        self.register_buffer("owner_N", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("tags_M", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("tag_starts_N1", torch.zeros(1, dtype=torch.int64))
        self.post_ids: list[str] = []
        """Of the posts kept, for those who ask where a tag comes from; saved by the family."""
        self._ready: tuple[Tensor, Tensor, Any] | None = None
        """The vectors that the search was made ready for, the columns that it reads, and what it searches."""

    def __len__(self) -> int:
        return len(self.owner_N)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Stay where it is: the search is on the CPU whatever the device of the model."""
        return self

    def keep(self, vectors_ND: Tensor, owner_N: Tensor, tags: list[list[int]], post_ids: list[str]) -> None:
        """These posts in place of those before; one without any vector is left out."""
        there_N = vectors_ND.any(dim=1)
        rows = there_N.nonzero()[:, 0].tolist()
        self.vectors_ND, self.owner_N = vectors_ND[there_N].half(), owner_N[there_N]
        self.post_ids = [post_ids[row] for row in rows]
        kept = [sorted(set(tags[row])) for row in rows]
        self.tags_M = torch.tensor([tag for row in kept for tag in row], dtype=torch.int32)
        self.tag_starts_N1 = torch.tensor(np.cumsum([0, *map(len, kept)]), dtype=torch.int64)

    def nearest(self, query_BD: Tensor, owner_B: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """rows_BK and their cosines, best first; -1 and -inf where there are fewer. A post without a vector has none."""
        query_BD, owner_B = query_BD.cpu().float(), owner_B.cpu()
        found = min(k, len(self))
        rows_BK = torch.full((len(query_BD), k), -1)
        cosine_BK = torch.full((len(query_BD), k), -math.inf)
        if found:
            search = self._search_index if len(self) > EXACT_POSTS else self._search_exactly
            rows_BK[:, :found], cosine_BK[:, :found] = search(query_BD, owner_B, found)
            nothing_B = ~query_BD.any(dim=1)
            cosine_BK[nothing_B] = -math.inf
            rows_BK[cosine_BK == -math.inf] = -1
        return rows_BK, cosine_BK

    def tags_of(self, rows_BK: Tensor) -> Tensor:
        """tags_BKL, filled with -1; none for a row of -1."""
        device, rows = rows_BK.device, rows_BK.clamp(min=0).flatten().cpu().numpy()
        if not len(self):
            return torch.full((*rows_BK.shape, 0), -1, device=device)
        tags_ML = torch.from_numpy(pad_tags(self.tag_starts_N1.numpy(), self.tags_M.numpy(), rows))
        return tags_ML.to(device).view(*rows_BK.shape, -1).masked_fill(rows_BK[..., None] < 0, -1)

    def _prepared(self) -> tuple[Tensor, Any]:
        """The columns in which any post has something, and what is searched in them. Where no post has a picture, four fifths of the
        default encoders' columns are zeros, which add nothing to a cosine and would cost as much as the others."""
        if self._ready is None or self._ready[0] is not self.vectors_ND:
            columns_C = self.vectors_ND.any(dim=0).nonzero()[:, 0]
            made: Any = None
            if len(self) > EXACT_POSTS:
                made = self._index(columns_C)
            elif len(self) <= BLOCK_POSTS:
                made = _of(self.vectors_ND, columns_C).float()
            self._ready = (self.vectors_ND, columns_C, made)
        return self._ready[1:]

    def _search_exactly(self, query_BD: Tensor, owner_B: Tensor, k: int) -> tuple[Tensor, Tensor]:
        columns_C, whole_NC = self._prepared()
        query_BC = _of(query_BD, columns_C)
        best: tuple[Tensor, Tensor] | None = None
        for start in range(0, len(self), BLOCK_POSTS):
            end = min(start + BLOCK_POSTS, len(self))
            block_NC = whole_NC if whole_NC is not None else _of(self.vectors_ND[start:end], columns_C).float()
            cosine_BN = query_BC @ block_NC.t()
            cosine_BN[owner_B[:, None] == self.owner_N[start:end]] = -math.inf
            cosine, row = cosine_BN.topk(min(k, end - start), dim=1)
            row = row + start
            if best is not None:
                cosine, row = torch.cat([best[1], cosine], 1), torch.cat([best[0], row], 1)
                cosine, nearest = cosine.topk(min(k, cosine.shape[1]), dim=1)
                row = row.gather(1, nearest)
            best = row, cosine
        assert best is not None
        return best

    def _search_index(self, query_BD: Tensor, owner_B: Tensor, k: int) -> tuple[Tensor, Tensor]:
        columns_C, index = self._prepared()
        asked = min(SPARE * k, len(self))
        cosine, rows = index.search(_of(query_BD, columns_C).contiguous().numpy(), asked)
        cosine_BA, rows_BA = torch.from_numpy(cosine), torch.from_numpy(rows)
        out_BA = (rows_BA < 0) | (self.owner_N[rows_BA.clamp(min=0)] == owner_B[:, None])
        cosine_BK, place_BK = cosine_BA.masked_fill(out_BA, -math.inf).topk(k, dim=1)
        return rows_BA.gather(1, place_BK), cosine_BK

    def _index(self, columns_C: Tensor) -> Any:
        import faiss

        lists = int(4 * math.sqrt(len(self)))
        index: Any = faiss.index_factory(len(columns_C), f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
        sample = np.random.default_rng(0).permutation(len(self))[: 40 * lists]
        sampled_MD = self.vectors_ND[torch.from_numpy(np.sort(sample))]
        index.train(_of(sampled_MD, columns_C).float().numpy())
        for start in range(0, len(self), BLOCK_POSTS):
            index.add(_of(self.vectors_ND[start : start + BLOCK_POSTS], columns_C).float().numpy())
        index.nprobe = PROBED_LISTS
        return index


def _of(values_XD: Tensor, columns_C: Tensor) -> Tensor:
    return values_XD if len(columns_C) == values_XD.shape[1] else values_XD[:, columns_C]


def owners(batch: PostBatch) -> Tensor:
    """int64 of B: whom each post belongs to, its user or, where there is none, itself; two are alike by chance once in 2^64."""
    names = [
        f"user {user}" if user else f"post {post}" for user, post in zip(batch.user_ids, batch.post_ids, strict=True)
    ]
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names]
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests], dtype=torch.int64)
