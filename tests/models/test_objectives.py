"""What families are taught by, by hand."""

import numpy as np
import pytest
import torch

from hashtag_core.data.batches import make_targets
from hashtag_core.models.base import InputSpec
from hashtag_core.models.objectives import sequence_loss
from hashtag_core.models.registry import create_model
from hashtag_core.models.sequence import teach
from tests.models.small import batch_of

SPEC = InputSpec(vocabulary_size=4, image_dim=3, regions=5)


@pytest.fixture
def model():
    torch.manual_seed(0)
    options = {"embedding": 4, "hidden": 6, "attention_units": 2, "dropout": 0.0, "coverage": 0.5}
    return create_model("show_attend_tell", SPEC, options).eval()


def test_the_penalty_counts_real_steps_alone(model):
    batch = batch_of(SPEC, images=[True, True])
    targets = make_targets([[1, 2], []], SPEC.vocabulary_size)
    logits, gaze = teach(model.step, model.start(batch), targets.sequence_BL)
    alphas = np.stack([alpha.detach().numpy() for alpha in gaze.alphas], axis=1)
    looked = np.stack([alphas[0].sum(0), alphas[1, :1].sum(0)])
    penalty = ((1 - looked) ** 2).sum(1).mean()
    expected = float(sequence_loss(logits, targets.sequence_BL).detach()) + 0.5 * penalty
    assert float(model.loss(batch, targets).detach()) == pytest.approx(expected, rel=1e-5)
