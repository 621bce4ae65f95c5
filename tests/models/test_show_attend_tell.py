"""Show, attend and tell's soft attention, deep output and doubly stochastic penalty in NumPy."""

import numpy as np
import pytest
import torch

from hashtag_core.models.base import InputSpec
from hashtag_core.models.registry import create_model
from tests.models.small import assert_paper_parameters, batch_of

SPEC = InputSpec(vocabulary_size=4, image_dim=3, regions=5)


@pytest.fixture
def model():
    torch.manual_seed(0)
    options = {"embedding": 4, "hidden": 6, "attention_units": 2, "dropout": 0.0, "coverage": 0.5}
    return create_model("show_attend_tell", SPEC, options).eval()


def linear(layer, x):
    bias = 0 if layer.bias is None else layer.bias.detach().double().numpy()
    return x @ layer.weight.detach().double().numpy().T + bias


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_one_step_is_the_papers(model):
    batch = batch_of(SPEC, images=[True])
    a = batch.image_grid_BRD[0].double().numpy()
    gaze = model.start(batch)
    h, c = np.tanh(linear(model.initial_hidden, a.mean(0))), np.tanh(linear(model.initial_cell, a.mean(0)))
    np.testing.assert_allclose(gaze.hidden_BH[0].detach(), h, atol=1e-6)

    e = np.array(
        [linear(model.look, np.tanh(linear(model.region_key, a_i) + linear(model.hidden_key, h)))[0] for a_i in a]
    )
    alpha = np.exp(e) / np.exp(e).sum()
    z = sigmoid(linear(model.gate, h)) * sum(share * a_i for share, a_i in zip(alpha, a, strict=True))
    found_z, found_alpha = model.attend(gaze)
    np.testing.assert_allclose(found_alpha[0].detach(), alpha, atol=1e-6)
    np.testing.assert_allclose(found_z[0].detach(), z, atol=1e-6)

    y = model.signs.weight[3].detach().double().numpy()
    x = np.concatenate([y, z])
    w = {name: value.detach().double().numpy() for name, value in model.lstm.named_parameters()}
    gates = x @ w["weight_ih"].T + w["bias_ih"] + h @ w["weight_hh"].T + w["bias_hh"]
    i, f, g, o = np.split(gates, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    logits, after = model.step(torch.tensor([3]), gaze)
    np.testing.assert_allclose(after.hidden_BH[0].detach(), h, atol=1e-6)
    written = linear(model.write, y + linear(model.from_hidden, h) + linear(model.from_context, z))
    np.testing.assert_allclose(logits[0].detach(), written, atol=1e-6)


def test_parameters_of_the_paper_recipe():
    spec = InputSpec(vocabulary_size=1000, image_dim=512, regions=49)
    d, n = 512, 512
    start, attention = 2 * (d * n + n), d * n + (n * n + n) + n + (n + 1)
    lstm = 4 * n * (n + d + n + 2)
    output = (n * n + n) + d * n + n * 1001 + 1001
    assert_paper_parameters("show_attend_tell", spec, start + attention + 1002 * n + lstm + output + d)
