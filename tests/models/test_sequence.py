"""Sequences of tags: what is taught and what is scored."""

import numpy as np
import pytest
import torch

from hashtag_core.data.batches import PADDING, make_targets
from hashtag_core.models.base import InputSpec
from hashtag_core.models.registry import create_model
from hashtag_core.models.sequence import teach
from tests.models.small import batch_of

TINY = {"embedding": 4, "hidden": 5, "dropout": 0.0}


@pytest.mark.parametrize(("forcing", "share"), [(1.0, 1.0), (0.5, 0.5), (0.0, 0.0)])
def test_teacher_forcing_is_a_chance_a_step(forcing, share):
    torch.manual_seed(0)
    shown = []

    def step(previous, state):
        shown.append(None if previous is None else int(previous[0]))
        return torch.tensor([[0.0, 1.0, 0.0]]), state

    teach(step, (), torch.full((1, 401), 2), forcing)
    assert shown[0] is None
    assert np.mean([sign == 2 for sign in shown[1:]]) == pytest.approx(share, abs=0.1)
    assert set(shown[1:]) <= {1, 2}


TAGS = ["sun", "sunflower", "sunflowers", "flower", "été", "夏", "s"]


def test_subwords_are_taught_what_the_tags_score():
    """The loss is minus the sum of the log-chances of the tags and of END."""
    torch.manual_seed(0)
    spec = InputSpec(vocabulary_size=len(TAGS), image_dim=3, token_vocabulary_size=9)
    model = create_model("okboomer", spec, TINY | {"decoder": "subwords", "pieces": 262}, TAGS).eval()
    batch = batch_of(spec, captions=[[2], [3, 4]], images=[True, True])
    sequence = make_targets([[2, 5, 0], [1]], len(TAGS)).sequence_BL
    logits, _ = teach(model.spelling.tag_step(model.step), model.start(batch), sequence)
    chances = logits.gather(2, sequence.clamp(min=0)[..., None])[..., 0].masked_fill(sequence == PADDING, 0.0)
    loss = model.loss(batch, make_targets([[2, 5, 0], [1]], len(TAGS)))
    assert float(loss.detach()) == pytest.approx(-float(chances.detach().sum()) / 2, rel=1e-4)
    assert model.score(batch).shape == (2, len(TAGS))
