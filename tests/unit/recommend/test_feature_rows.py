"""Rows of features, written and cut by hand."""

import numpy as np

from hashtag_core.data.batches import FeaturizedPosts
from hashtag_core.data.history import HistoryRule
from hashtag_core.recommend.feature_rows import history_vectors, put_rows, slice_of


def posts(n: int, **arrays: np.ndarray) -> FeaturizedPosts:
    present = np.arange(n) % 2 == 0
    return FeaturizedPosts([f"p{i}" for i in range(n)], [None] * n, [None] * n, present, ~present, arrays)


def test_token_states_grow_to_the_longest() -> None:
    arrays = {"text_states": np.ones((3, 1, 2), np.float16), "text_states_mask": np.ones((3, 1), bool)}
    put_rows(arrays, "text_states", [2], np.full((1, 3, 2), 5, np.float16))
    put_rows(arrays, "text_states_mask", [2], np.array([[True, True, False]]))
    assert arrays["text_states"][:, :, 0].tolist() == [[1, 0, 0], [1, 0, 0], [5, 5, 5]]
    assert arrays["text_states_mask"].tolist() == [[True, False, False], [True, False, False], [True, True, False]]
    put_rows(arrays, "text_states", [0], np.full((1, 1, 2), 7, np.float16))
    assert arrays["text_states"][0, :, 0].tolist() == [7, 0, 0]


def test_other_features_are_replaced_row_by_row() -> None:
    arrays = {"image_vector": np.zeros((3, 2), np.float16)}
    put_rows(arrays, "image_vector", [2, 0], np.array([[1, 2], [3, 4]], np.float16))
    assert arrays["image_vector"].tolist() == [[3, 4], [0, 0], [1, 2]]


def test_a_slice_has_its_posts_and_the_boxes_of_all() -> None:
    whole = posts(4, image_vector=np.arange(8.0).reshape(4, 2), boxes=np.zeros((9, 4)))
    part = slice_of(whole, 1, 3)
    assert part.post_ids == ["p1", "p2"]
    assert part.arrays["image_vector"].tolist() == [[2, 3], [4, 5]]
    assert part.arrays["boxes"].shape == (9, 4)
    assert (part.image_present.tolist(), part.text_present.tolist()) == ([False, True], [True, False])
    each = slice_of(posts(4, boxes=np.zeros((4, 9, 4))), 1, 3)
    assert each.arrays["boxes"].shape == (2, 9, 4)


def test_vectors_of_a_history_come_from_the_rows_that_have_them() -> None:
    vectors = np.array([[1, 1], [2, 2]], np.float16)
    found = history_vectors(
        HistoryRule(reads=("image_vector", "text_vector")),
        4,
        [(np.array([3, 1]), posts(2, image_vector=vectors, text_vector=10 * vectors))],
    )
    values, present = found["image_vector"]
    assert (values[:, 0].tolist(), present.tolist()) == ([0, 2, 0, 1], [False, False, False, True])
    values, present = found["text_vector"]
    assert (values[:, 0].tolist(), present.tolist()) == ([0, 20, 0, 10], [False, True, False, False])
