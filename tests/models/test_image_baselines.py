"""The baselines that see the image alone, and LSTM-CNN: their equations in NumPy, their sizes."""

import numpy as np
import pytest
import torch

from hashtag_core.data.batches import make_targets
from hashtag_core.errors import ConfigError
from hashtag_core.models.amnn import AmnnOptions, ImageEncoder
from hashtag_core.models.base import InputSpec
from hashtag_core.models.registry import create_model, parse_options
from tests.models.small import assert_paper_parameters, batch_of

SPEC = InputSpec(vocabulary_size=4, image_dim=3, image_second_dim=2, regions=5, token_vocabulary_size=9)


def linear(layer, x):
    return x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("family", ["nic", "show_attend_tell", "resnet_multilabel", "vgg_object_scene"])
def test_an_image_family_refuses_to_see_no_image(family):
    with pytest.raises(ConfigError, match="inputs: name at least one of 'image'"):
        parse_options(family, {"inputs": ["caption", "history"]})


def test_nic_is_shown_the_image_once_and_then_its_tags():
    torch.manual_seed(0)
    model = create_model("nic", SPEC, {"hidden": 4, "dropout": 0.0}).eval()
    batch = batch_of(SPEC, images=[True])
    w = {name: value.detach().double().numpy() for name, value in model.lstm.named_parameters()}

    def lstm(x, h, c):
        i, f, g, o = np.split(x @ w["weight_ih"].T + w["bias_ih"] + h @ w["weight_hh"].T + w["bias_hh"], 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c

    signs = model.signs.weight.detach().double().numpy()
    h, c = lstm(linear(model.image.project, batch.image_vector_BD[0].double().numpy()), np.zeros(4), np.zeros(4))
    loss = 0.0
    for seen, true in ((signs[-1], 3), (signs[3], 0)):
        h, c = lstm(seen, h, c)
        logits = linear(model.write, h)
        loss -= logits[true] - np.log(np.exp(logits).sum())
    assert float(model.loss(batch, make_targets([[2]], 4)).detach()) == pytest.approx(loss, rel=1e-5)


def test_lstm_cnn_concatenates_two_projections():
    torch.manual_seed(0)
    model = create_model("lstm_cnn", SPEC, {"embedding": 3, "hidden": 4, "projection": 2, "dropout": 0.0}).eval()
    batch = batch_of(SPEC, captions=[[2, 3], [4], None], images=[True, False, True])
    text = linear(model.project, model.caption(batch).last_BD.detach().double().numpy())
    image = linear(model.image.project, batch.image_vector_BD.double().numpy())
    image[1] = model.image.absent_D.detach().numpy()
    np.testing.assert_allclose(
        model.score(batch).detach(), sigmoid(linear(model.classify, np.concatenate([text, image], axis=1))), atol=1e-6
    )
    alone = batch_of(SPEC, captions=[[4]], images=[False])
    alone_last = model.caption(alone).last_BD[0]
    torch.testing.assert_close(alone_last, model.caption(batch).last_BD[1])
    torch.testing.assert_close(model.caption(batch).last_BD[2], model.caption.absent_D)


def test_resnet_head_is_linear_and_amnns_is_amnns_encoder():
    torch.manual_seed(0)
    batch = batch_of(SPEC, images=[True])
    plain = create_model("resnet_multilabel", SPEC, {}).eval()
    expected = sigmoid(linear(plain.classify, batch.image_vector_BD[0].double().numpy()))
    np.testing.assert_allclose(plain.score(batch)[0].detach(), expected, atol=1e-6)

    sizes = {"image_dense": 3, "image_hidden": 4, "image_steps": 6}
    model = create_model("resnet_multilabel", SPEC, {"head_on": "amnn", **sizes}).eval()
    encoder = ImageEncoder(AmnnOptions(**sizes), SPEC).eval()
    encoder.load_state_dict(model.image.state_dict())
    expected = sigmoid(linear(model.classify, encoder(batch)[0].detach().double().numpy()))
    np.testing.assert_allclose(model.score(batch)[0].detach(), expected, atol=1e-6)


@pytest.mark.parametrize("scene", ["second", "grid_max", "grid_mean"])
def test_two_visual_vectors_side_by_side(scene):
    model = create_model("vgg_object_scene", SPEC, {"hidden": 5, "scene": scene}).eval()
    batch = batch_of(SPEC, images=[True])
    grid = batch.image_grid_BRD[0].double().numpy()
    scenes = {"second": batch.image_vector_second_BD[0].numpy(), "grid_max": grid.max(0), "grid_mean": grid.mean(0)}
    both = np.concatenate([batch.image_vector_BD[0].double().numpy(), scenes[scene]])
    first, _, _, last = model.classify
    expected = sigmoid(linear(last, np.maximum(linear(first, both), 0)))
    np.testing.assert_allclose(model.score(batch)[0].detach(), expected, atol=1e-6)


COUNTS = {
    # 20,000 words, 500 tags: LSTM-CNN is a baseline of article 001
    "lstm_cnn": 20_000 * 300
    + 4 * 512 * (300 + 512 + 2)
    + 512
    + (512 * 512 + 512)
    + (4096 * 512 + 512 + 512)
    + (1024 * 500 + 500),
    # 1,000 tags: these are baselines of article 003
    "nic": (2048 * 512 + 512 + 512) + 1002 * 512 + 4 * 512 * (512 + 512 + 2) + (512 * 1001 + 1001),
    "resnet_multilabel": 2048 + (2048 * 1000 + 1000),
    "vgg_object_scene": 8192 + (8192 * 4096 + 4096) + (4096 * 1000 + 1000),
}


@pytest.mark.parametrize("family", sorted(COUNTS))
def test_parameters_of_the_paper_recipes(family):
    tags, words = (500, 20_000) if family == "lstm_cnn" else (1000, 0)
    dim = 4096 if family in ("lstm_cnn", "vgg_object_scene") else 2048
    spec = InputSpec(tags, image_dim=dim, image_second_dim=4096, regions=49, token_vocabulary_size=words)
    assert_paper_parameters(family, spec, COUNTS[family])
