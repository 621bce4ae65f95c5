"""Greedy decoding and its scores, worked by hand on a decoder of three tags."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hashtag_core.models.decoding import greedy_decode, sequence_scores

# rows: step; columns: END, tag 0, tag 1, tag 2
SHARES = [[0.1, 0.2, 0.6, 0.1], [0.5, 0.1, 0.3, 0.1], [0.2, 0.1, 0.1, 0.6]]


def fixed_step(previous: Tensor | None, step: int) -> tuple[Tensor, int]:
    return torch.tensor(SHARES[step]).log()[None], step + 1


def test_a_list_by_hand() -> None:
    """Step 1 takes tag 1 (.6). Step 2: END (.5) and tag 1 (.3) are likelier, the best unused is tag 0 (.1, first of two).
    Tag 0 is in with 1 - (1 - .2)(1 - .9 x .1); alive is 1, then .9."""
    decoded = greedy_decode(fixed_step, 0, vocabulary_size=3, steps=2)
    assert decoded.tags_BK.tolist() == [[1, 0]]
    np.testing.assert_allclose(decoded.probabilities_BK[0], [0.6, 0.1], rtol=1e-6)
    inclusion = [1 - 0.8 * (1 - 0.9 * 0.1), 1 - 0.4 * (1 - 0.9 * 0.3), 1 - 0.9 * (1 - 0.9 * 0.1)]
    np.testing.assert_allclose(decoded.inclusion_BV[0], inclusion, rtol=1e-6)
    np.testing.assert_allclose(sequence_scores(decoded, "marginal")[0], inclusion, rtol=1e-6)
    greedy = sequence_scores(decoded, "greedy")[0]
    np.testing.assert_allclose(greedy, [0.1, 0.6, 0.1 * inclusion[2]], rtol=1e-4)


def test_a_later_tag_never_outranks_an_earlier_one() -> None:
    """At step 3 tag 2 is likelier (.6) than tag 0 was at step 2 (.1): it scores just below it."""
    scores = sequence_scores(greedy_decode(fixed_step, 0, vocabulary_size=3, steps=3), "greedy")[0]
    assert scores.argsort(descending=True).tolist() == [1, 0, 2]
    assert 0.0999 < scores[2] < scores[0]


def test_the_sign_before_is_told() -> None:
    told: list[list[int] | None] = []

    def step(previous: Tensor | None, state: int) -> tuple[Tensor, int]:
        told.append(None if previous is None else previous.tolist())
        return fixed_step(previous, state)

    greedy_decode(step, 0, vocabulary_size=3, steps=9)
    assert told == [None, [2], [1]]


def test_no_steps() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        greedy_decode(fixed_step, 0, vocabulary_size=3, steps=0)


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 10_000),
    tags=st.integers(1, 8),
    steps=st.integers(1, 10),
    spread=st.sampled_from([0.1, 3.0, 60.0]),
)
def test_scores_always_rank_the_decoded_list_first(seed: int, tags: int, steps: int, spread: float) -> None:
    logits = torch.randn(10, 2, tags + 1, generator=torch.Generator().manual_seed(seed)) * spread
    decoded = greedy_decode(lambda _, step: (logits[step], step + 1), 0, tags, steps)
    taken = min(tags, steps)
    assert decoded.tags_BK.shape == (2, taken)
    assert all(len(set(row)) == taken for row in decoded.tags_BK.tolist())
    for ranking in ("greedy", "marginal"):
        scores = sequence_scores(decoded, ranking)
        assert scores.min() >= 0
        assert scores.max() <= 1
    scores = sequence_scores(decoded, "greedy")
    along = scores.gather(1, decoded.tags_BK)
    assert (along.diff(dim=1) <= 0).all()
    rest = scores.scatter(1, decoded.tags_BK, -1.0)
    assert (rest <= along[:, -1:]).all()
