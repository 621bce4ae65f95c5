"""What a model is given and taught, by hand."""

import numpy as np
import pytest

from hashtag_core.data.batches import END, PADDING, FeaturizedPosts, collate, make_targets

POSTS = FeaturizedPosts(
    ["a", "b"], ["u", None], ["one", "two"], np.array([True, False]), np.array([False, True]),
    {
        "image_vector": np.array([[1, 2], [3, 4]], np.float16),
        "text_vector": np.array([[5], [6]], np.float16),
        "image_grid": np.ones((2, 4, 2), np.float16),
        "boxes": np.zeros((4, 4), np.float32),
    },
)  # fmt: skip


def test_targets_hold_each_tag_once_and_the_first_in_order() -> None:
    targets = make_targets([[2, 0, 2], [], [1, 2, 0]], 3, max_tags=2)
    assert targets.labels_BV.tolist() == [[1, 0, 1], [0, 0, 0], [1, 1, 1]]
    assert targets.sequence_BL.tolist() == [[3, 1, END], [END, PADDING, PADDING], [2, 3, END]]


def test_absent_modalities_are_zeros_and_their_captions_none() -> None:
    batch = collate(POSTS, frozenset({"image_vector", "text_vector", "image_grid"}))
    assert batch.image_vector_BD.tolist() == [[1, 2], [0, 0]]
    assert batch.text_vector_BD.tolist() == [[0], [6]]
    assert batch.captions == [None, "two"]
    assert batch.boxes_BR4.shape == (2, 4, 4)
    assert (batch.post_ids, batch.user_ids) == (["a", "b"], ["u", None])


def test_a_modality_that_is_not_read_is_absent_on_every_row() -> None:
    batch = collate(POSTS, frozenset({"image_vector", "text_vector"}), inputs=("image",))
    assert batch.text_present_B.tolist() == [False, False]
    assert batch.text_vector_BD.tolist() == [[0], [0]]
    assert batch.image_vector_BD.tolist() == [[1, 2], [0, 0]]
    assert POSTS.arrays["image_vector"].tolist() == [[1, 2], [3, 4]]  # the features are as they were


def test_token_ids_need_a_tokenizer() -> None:
    with pytest.raises(ValueError, match="needs a tokenizer"):
        collate(POSTS, frozenset({"tokens"}))
