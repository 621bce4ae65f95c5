"""TweetEmbed_Net's space in NumPy: parts, their mean, distances to the tags."""

import numpy as np
import pytest
import torch

from hashtag_core.data.batches import make_targets
from hashtag_core.models.base import InputSpec
from hashtag_core.models.tweet_embedding import TweetEmbedding
from tests.models.small import assert_paper_parameters
from tests.models.world import V, make


def unit(values):
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def array(tensor):
    return tensor.detach().double().numpy()


def part(module, x):
    """MLP_m(x) / |.|."""
    first, last = module.layers[0], module.layers[3]
    hidden = np.maximum(x @ array(first.weight).T + array(first.bias), 0)
    return unit(hidden @ array(last.weight).T + array(last.bias))


def log_softmax(values):
    values = values - values.max(-1, keepdims=True)
    return values - np.log(np.exp(values).sum(-1, keepdims=True))


@pytest.mark.parametrize("example", ["default", "encoder"])
def test_space_score_and_loss_in_numpy(example):
    subject = make("tweet_embedding", example, temperature=0.2, alignment=0.3)
    model = subject.model.eval()
    assert isinstance(model, TweetEmbedding)
    image, caption = [True, True, False, False], [True, False, True, False]
    batch = subject.batch([1, 2, 3, 5], image, caption)
    tags = [[0, 3], [4], [2, 1, 7], [5]]
    if example == "encoder":
        text = array(batch.text_vector_BD)
    else:
        words = array(model.words.weight)
        text = np.array(
            [
                words[ids[mask]].mean(0) if mask.any() else np.zeros(words.shape[1])
                for ids, mask in zip(batch.token_ids_BT.numpy(), batch.token_mask_BT.numpy(), strict=True)
            ]
        )
    z_image, z_text = part(model.image, array(batch.image_vector_BD)), part(model.text, text)
    both = (z_image[0] + z_text[0]) / 2
    p = unit(np.stack([both, z_image[1], z_text[2], array(model.absent_D)]))
    e = unit(array(model.tags))
    np.testing.assert_allclose(subject.scores(batch), (1 + p @ e.T) / 2, atol=1e-5)

    def d(q, wanted):
        return -log_softmax(q @ e.T / 0.2)[wanted].sum()

    losses = [
        d(p[0], tags[0]) + (d(z_image[0], tags[0]) + d(z_text[0], tags[0])) / 2 + 0.3 * (1 - z_image[0] @ z_text[0]),
        d(p[1], tags[1]) + d(z_image[1], tags[1]),
        d(p[2], tags[2]) + d(z_text[2], tags[2]),
        d(p[3], tags[3]),
    ]
    assert model.loss(batch, make_targets(tags, V)).item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_post_is_drawn_to_its_tags():
    """One step of descent brings a post nearer to its tag and farther from the others."""
    subject = make("tweet_embedding", "encoder", dropout=0.0)
    model, batch = subject.model, subject.batch([1])
    before = subject.scores(batch)[0]
    model.loss(batch, make_targets([[4]], V)).backward()
    with torch.no_grad():
        for value in model.parameters():
            if value.grad is not None:
                value.sub_(0.02 * value.grad)
    change = subject.scores(batch)[0] - before
    assert change[4] > 0
    assert change[[v for v in range(V) if v != 4]].mean() < 0


def test_parameters_of_the_paper_recipe():
    spec = InputSpec(vocabulary_size=500, image_dim=2048, token_vocabulary_size=20_000)
    mlp = 512 * 256 + 256
    image, text = 2048 * 512 + 512 + mlp, 300 * 512 + 512 + mlp
    assert_paper_parameters("tweet_embedding", spec, 20_000 * 300 + image + text + 500 * 256 + 256)
