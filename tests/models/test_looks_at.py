"""Where families with attention over regions look: shares of the very attention that their scores come from."""

import pytest
import torch

from hashtag_core.models import FittedModel, create_model, family
from hashtag_core.models.base import InputSpec, TagModel
from tests.models.small import batch_of
from tests.models.world import cases, make

ROWS = list(range(8))
LOOKING = {
    "amnn-grid",
    "amnn-normalised",
    "co_attention-default",
    "design-default",
    "macon-default",
    "show_attend_tell-default",
}


@pytest.mark.parametrize(("name", "example"), [pytest.param(*case, id="-".join(case)) for case in cases()])
def test_shares_of_regions_or_none_at_all(name: str, example: str) -> None:
    if issubclass(family(name), FittedModel):
        assert family(name).looks_at is TagModel.looks_at
        return
    subject = make(name, example)
    batch = subject.batch(ROWS)
    with torch.no_grad():
        weights_BR = subject.model.eval().looks_at(batch)
    if f"{name}-{example}" in LOOKING:
        assert weights_BR is not None
    if weights_BR is not None:
        assert batch.image_grid_BRD is not None
        assert weights_BR.shape == batch.image_grid_BRD.shape[:2]
        assert weights_BR.min() >= 0
        torch.testing.assert_close(weights_BR.sum(1), torch.ones(len(ROWS)))
        assert weights_BR.std(dim=1).max() > 0


def test_co_attention_sees_what_it_says_it_looks_at() -> None:
    """The logits again, by hand, of a model that reads pictures alone: W (sum_r a_r tanh(P x_r)) + b."""
    spec = InputSpec(vocabulary_size=3, image_dim=4, regions=5, token_vocabulary_size=9)
    model = create_model(
        "co_attention", spec, {"hidden": 3, "attention_units": 2, "dropout": 0.0, "inputs": ["image"]}
    ).eval()
    batch = batch_of(spec, images=[True, True])
    with torch.no_grad():
        weights_BR, logits_BV = model.looks_at(batch), model.logits(batch)
        regions_BRD = torch.tanh(model.regions(batch.image_grid_BRD))
        post_BD = (weights_BR[..., None] * regions_BRD).sum(1) + model.caption(batch).states_BTD[:, 0]
        torch.testing.assert_close(model.classify(post_BD), logits_BV)


def test_an_lstm_that_looks_tells_the_mean_of_its_first_looks() -> None:
    spec = InputSpec(vocabulary_size=4, image_dim=4, regions=6)
    options = {"embedding": 3, "hidden": 3, "attention_units": 2, "dropout": 0.0}
    model = create_model("show_attend_tell", spec, options).eval()
    batch = batch_of(spec, images=[True])
    with torch.no_grad():
        gaze, previous_B, taken, alphas = model.start(batch), None, [], []
        for _ in range(4):  # as many as there are tags
            alphas.append(model.attend(gaze)[1])
            logits_BU, gaze = model.step(previous_B, gaze)
            logits_BU[:, [0, *taken]] = -torch.inf
            previous_B = logits_BU.argmax(1)
            taken.append(int(previous_B))
        torch.testing.assert_close(model.looks_at(batch), torch.stack(alphas).mean(0))
