"""A user's own tags by frequency, by hand."""

import pytest
import torch

from hashtag_core.data.batches import HistoryBatch, PostBatch
from hashtag_core.models import InputSpec, create_model


def test_scores_by_hand() -> None:
    """Two posts [0, 1] and [0] of the user, a third is masked; popularity .5 .25 0, prior of two posts."""
    model = create_model("user_frequency", InputSpec(vocabulary_size=3), {"prior_posts": 2.0})
    model.share_V = torch.tensor([0.5, 0.25, 0.0])
    history = HistoryBatch(
        mask_BH=torch.tensor([[True, True, False], [False, False, False]]),
        tags_BHL=torch.tensor([[[0, 1], [0, -1], [2, 2]], [[2, -1], [-1, -1], [-1, -1]]]),
    )
    batch = PostBatch(["p", "q"], ["u", None], torch.zeros(2).bool(), torch.zeros(2).bool(), history=history)
    expected = [[(2 + 1) / 4, (1 + 0.5) / 4, 0.0], [0.5, 0.25, 0.0]]
    torch.testing.assert_close(model.score(batch), torch.tensor(expected))
    without = PostBatch(["p"], ["u"], torch.zeros(1).bool(), torch.zeros(1).bool())
    assert model.score(without)[0].tolist() == pytest.approx([0.5, 0.25, 0.0])
