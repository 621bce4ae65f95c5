"""Ranking against hand-worked lists and NumPy's stable sort."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hashtag_core.recommend.ranking import less_popular, popularity_logits, top_tags


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


def test_less_popular_by_hand() -> None:
    """Shares .6 and .1 (of 9 posts: 5.5 / 10, .5 / 10); at 1 odds are divided by the share, up to one factor for all."""
    popularity = popularity_logits(np.array([5, 0]), 9)
    assert popularity.tolist() == pytest.approx([0.0, np.log(0.05 / 0.55)], abs=1e-6)
    scores = torch.tensor([[0.5, 0.2]])
    assert less_popular(scores, popularity, 0) is scores
    odds = 0.25 / (0.05 / 0.55)
    assert less_popular(scores, popularity, 1)[0].tolist() == pytest.approx([0.5, odds / (1 + odds)], abs=1e-6)
    half = 0.25 / (0.05 / 0.55) ** 0.5
    assert less_popular(scores, popularity, 0.5)[0].tolist() == pytest.approx([0.5, half / (1 + half)], abs=1e-6)
    edges = less_popular(torch.tensor([[0.0, 1.0]]), popularity, 1)
    assert torch.isfinite(edges).all()
    assert popularity_logits(np.zeros(0, np.int64), 0).shape == (0,)
    assert torch.isfinite(popularity_logits(np.zeros(2, np.int64), 0)).all()
