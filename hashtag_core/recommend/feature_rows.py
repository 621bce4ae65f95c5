"""Rows of features: written, cut, and laid out for histories."""

from collections.abc import Sequence

import numpy as np

from hashtag_core.data.batches import FeaturizedPosts
from hashtag_core.data.history import HistoryRule


def history_vectors(
    rule: HistoryRule, n: int, pieces: Sequence[tuple[np.ndarray, FeaturizedPosts]]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What a history reads of n posts: the values [n, D] and whether there is one [n], from the features of some rows."""
    vectors = {}
    for kind in rule.reads:
        values = np.zeros((n, pieces[0][1].arrays[kind].shape[1]), np.float16)
        present = np.zeros(n, dtype=bool)
        for rows, features in pieces:
            present[rows] = features.image_present if kind == "image_vector" else features.text_present
            values[rows] = features.arrays[kind]
        vectors[kind] = values, present
    return vectors


def put_rows(arrays: dict[str, np.ndarray], name: str, rows: Sequence[int], values: np.ndarray) -> None:
    """Write `values` to those rows of `arrays[name]`; token states grow to the longest."""
    if not name.startswith(("text_states", "text_trunk")):
        arrays[name][list(rows)] = values
        return
    longer = values.shape[1] - arrays[name].shape[1]
    if longer > 0:
        arrays[name] = np.pad(arrays[name], [(0, 0), (0, longer), *[(0, 0)] * (values.ndim - 2)])
    arrays[name][list(rows), : values.shape[1]] = values


def slice_of(posts: FeaturizedPosts, start: int, end: int) -> FeaturizedPosts:
    """The posts from `start` to before `end`."""
    n = len(posts.post_ids)
    arrays = {
        name: value if name == "boxes" and value.ndim == 2 else value[start:end] for name, value in posts.arrays.items()
    }
    return FeaturizedPosts(
        posts.post_ids[start:end],
        posts.user_ids[start:end],
        posts.captions[start:end],
        posts.image_present[start : min(end, n)],
        posts.text_present[start : min(end, n)],
        arrays,
    )
