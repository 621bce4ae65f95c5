"""Figures by kind of post and by kind of tag: where a model is good, and where an average hides that it is not."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from hashtag_core.evaluation.metrics import Booleans, Floats, Judged, Protocol, index_metrics


def post_slices(caption_words: ArrayLike, has_image: ArrayLike, history: ArrayLike) -> dict[str, Booleans]:
    """Which posts are in which slice.

    `caption_words` is 0 where there is no caption; `has_image` whether there is one that could be read; `history` the
    number of posts in the user's history, counted up to 5.
    """
    words = np.asarray(caption_words, dtype=np.int64)
    image = np.asarray(has_image, dtype=bool)
    others = np.asarray(history, dtype=np.int64)
    return {
        "caption absent": words == 0,
        "caption of 1-4 words": (words > 0) & (words < 5),
        "caption of 5+ words": words >= 5,
        "with image": image,
        "without image": ~image,
        "history of 0 posts": others == 0,
        "history of 1-4 posts": (others > 0) & (others < 5),
        "history of 5+ posts": others >= 5,
    }


def slice_metrics(
    judged: Judged, slices: dict[str, Booleans], ks: Iterable[int], protocol: Protocol
) -> dict[str, dict[str, float]]:
    """`index_metrics` of every slice that has a counting post."""
    ks = list(ks)
    chosen = judged.selected(protocol)
    out = {}
    for name, mask in slices.items():
        if (mask & chosen).any():
            part = Judged(
                judged.ranked_NK[mask],
                judged.hits_NK[mask],
                judged.truth_N[mask],
                judged.known_N[mask],
                judged.vocabulary_size,
            )
            out[name] = index_metrics(part, ks, protocol)
    return out


def frequency_bands(counts_V: ArrayLike) -> dict[str, Booleans]:
    """The vocabulary, sorted by falling train count, in three: `head`, `middle` and `tail` each hold about a third of all
    train uses (a tag belongs to the third in which its first use falls)."""
    counts = np.asarray(counts_V, dtype=np.int64)
    before = counts.cumsum() - counts
    third = 3 * before // max(int(counts.sum()), 1)
    return {"head": third == 0, "middle": third == 1, "tail": third == 2}


def tag_slices(
    judged: Judged, truth: Sequence[Sequence[int]], counts_V: ArrayLike, ks: Iterable[int]
) -> dict[str, dict[str, float]]:
    """By band of `frequency_bands`, over uses of true tags: `tags` in the band, `uses` of them in these posts, `recall_at_k`
    = the share of the uses that are recommended within k. `unseen` are true tags outside the vocabulary.

    `truth` is what `judge` was given, distinct tags a post. A tag outside the vocabulary can be hit only by a model that
    spells tags.
    """
    size = judged.vocabulary_size
    lengths = np.fromiter(map(len, truth), dtype=np.int64, count=len(truth))
    tags = np.fromiter((tag for row in truth for tag in row), dtype=np.int64, count=int(lengths.sum()))
    uncounted = int(judged.truth_N.sum() - len(tags))
    out = {}
    bands = {name: np.append(mask, False) for name, mask in frequency_bands(counts_V).items()}
    bands["unseen"] = np.append(np.zeros(size, dtype=bool), True)
    ranked = np.where(judged.ranked_NK >= 0, np.minimum(judged.ranked_NK, size), -1)
    for name, mask in bands.items():
        unseen = name == "unseen"
        uses = int(mask[np.minimum(tags, size)].sum()) + (uncounted if unseen else 0)
        figures = {"tags": float(len(np.unique(tags[tags >= size])) if unseen else mask.sum()), "uses": float(uses)}
        hits_NK = judged.hits_NK & (ranked >= 0) & mask[ranked]
        for k in ks:
            figures[f"recall_at_{k}"] = float(hits_NK[:, :k].sum() / uses) if uses else 0.0
        out[name] = figures
    return out


def tail_recall(judged: Judged, truth: Sequence[Sequence[int]], counts_V: ArrayLike, k: int) -> Floats:
    """Each post's share of its true tail tags (`frequency_bands`) that are recommended within `k`; NaN for a post that has
    none. `truth` is what `judge` was given, distinct tags a post."""
    tail = np.append(frequency_bands(counts_V)["tail"], False)
    size = len(tail) - 1
    uses = np.array([sum(bool(tail[min(tag, size)]) for tag in tags) for tags in truth], dtype=np.float64)
    ranked_NK = judged.ranked_NK[:, :k]
    hits = (judged.hits_NK[:, :k] & (ranked_NK >= 0) & tail[np.clip(ranked_NK, 0, size)]).sum(axis=1)
    return np.where(uses > 0, hits / np.maximum(uses, 1), np.nan)
