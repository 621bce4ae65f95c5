"""Ranking against hand-worked lists and NumPy's stable sort."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hashtag_core.recommend.ranking import top_tags


def test_ties_go_to_the_lower_index() -> None:
    indices_BK, scores_BK = top_tags(torch.tensor([[0.5, 0.9, 0.5, 0.5, 0.1], [0.0, 0.0, 0.0, 0.0, 0.0]]), 3)
    assert indices_BK.tolist() == [[1, 0, 2], [0, 1, 2]]
    assert scores_BK.tolist() == [[torch.tensor(0.9).item(), 0.5, 0.5], [0.0, 0.0, 0.0]]


def test_a_list_is_no_longer_than_the_vocabulary() -> None:
    indices_BK, scores_BK = top_tags(torch.tensor([[0.1, 0.2]]), 10)
    assert indices_BK.tolist() == [[1, 0]]
    assert scores_BK.shape == (1, 2)


def test_no_posts_and_no_tags() -> None:
    assert top_tags(torch.zeros(0, 5), 3)[0].shape == (0, 3)
    assert top_tags(torch.zeros(4, 0), 3)[0].shape == (4, 0)


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.integers(1, 12)),
        elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
    ),
    st.integers(1, 15),
)
def test_equals_a_stable_sort(scores_BV: np.ndarray, k: int) -> None:
    order_BV = np.argsort(-scores_BV, axis=1, kind="stable")[:, :k]
    indices_BK, scores_BK = top_tags(torch.from_numpy(scores_BV), k)
    np.testing.assert_array_equal(indices_BK.numpy(), order_BV)
    np.testing.assert_array_equal(scores_BK.numpy(), np.take_along_axis(scores_BV, order_BV, axis=1))
