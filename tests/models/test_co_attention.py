"""CoA's two attentions, computed again in NumPy."""

import numpy as np
import pytest
import torch

from hashtag_core.models.base import InputSpec
from hashtag_core.models.co_attention import GuidedAttention
from hashtag_core.models.registry import create_model
from tests.models.small import assert_paper_parameters, batch_of


def softmax(scores):
    shares = np.exp(scores - scores.max())
    return shares / shares.sum()


def weights(attention):
    return {name: value.detach().double().numpy() for name, value in attention.named_parameters()}


@pytest.mark.parametrize("joining", ["sum", "concatenate"])
def test_guided_attention_is_the_papers(joining):
    torch.manual_seed(0)
    attention = GuidedAttention(3, 2, joining)
    items_BND, guide_BD = torch.randn(2, 4, 3), torch.randn(2, 3)
    mask_BN = torch.tensor([[True, True, True, True], [True, True, False, False]])
    attended_BD, weights_BN = attention(items_BND, guide_BD, mask_BN)
    w = weights(attention)
    for b in range(2):
        items = items_BND[b][mask_BN[b]].double().numpy()
        scores = []
        for item in items:
            left, right = w["items.weight"] @ item, w["guide.weight"] @ guide_BD[b].double().numpy()
            joined = left + right if joining == "sum" else np.concatenate([left, right])
            scores.append((w["score.weight"] @ np.tanh(joined))[0])
        shares = softmax(np.array(scores))
        np.testing.assert_allclose(weights_BN[b][mask_BN[b]].detach(), shares, atol=1e-6)
        np.testing.assert_allclose(attended_BD[b].detach(), shares @ items, atol=1e-6)
    assert not weights_BN[~mask_BN].any()


def test_a_concatenated_guide_guides_nothing():
    items_BND, mask_BN = torch.randn(1, 5, 3), torch.ones(1, 5, dtype=torch.bool)
    for joining, guided in (("sum", True), ("concatenate", False)):
        attention = GuidedAttention(3, 2, joining)
        one, other = (attention(items_BND, guide, mask_BN)[1] for guide in (torch.zeros(1, 3), torch.ones(1, 3)))
        assert torch.allclose(one, other, atol=1e-6) is not guided


def test_the_text_finds_regions_and_these_find_words():
    spec = InputSpec(vocabulary_size=3, image_dim=4, regions=2, token_vocabulary_size=9)
    model = create_model(
        "co_attention", spec, {"embedding": 3, "hidden": 3, "attention_units": 2, "dropout": 0.0}
    ).eval()
    batch = batch_of(spec, captions=[[2, 3, 4]], images=[True])
    regions = np.tanh(
        batch.image_grid_BRD[0].numpy() @ model.regions.weight.detach().numpy().T + model.regions.bias.detach().numpy()
    )
    states = model.caption(batch).states_BTD[0].detach().numpy()

    def attend(attention, items, guide):
        w = weights(attention)
        hidden = np.tanh(items @ w["items.weight"].T + guide @ w["guide.weight"].T)
        return softmax(hidden @ w["score.weight"][0]) @ items

    image = attend(model.visual, regions, states.mean(0))
    text = attend(model.textual, states, image)
    logits = (image + text) @ model.classify.weight.detach().numpy().T + model.classify.bias.detach().numpy()
    np.testing.assert_allclose(model.logits(batch)[0].detach(), logits, atol=1e-5)
    np.testing.assert_allclose(model.score(batch)[0].detach(), softmax(logits), atol=1e-5)


def test_parameters_of_the_paper_recipe():
    spec = InputSpec(vocabulary_size=500, image_dim=512, regions=49, token_vocabulary_size=20_000)
    words, lstm = 20_000 * 200, 4 * (200 * 200 + 200 * 200 + 2 * 200)
    image, absent = 512 * 200 + 200, 2 * 200
    attentions = 2 * (2 * 200 * 100 + 100)
    expected = words + lstm + image + absent + attentions + 200 * 500 + 500
    assert_paper_parameters("co_attention", spec, expected)
