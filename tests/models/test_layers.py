"""Parts that several families share."""

import math

import torch
from torch import nn

from hashtag_core.models.layers import initialise_glorot


def test_initialise_glorot() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 50), nn.Embedding(40, 20, padding_idx=3), nn.LSTM(30, 10, bidirectional=True))
    absent = nn.Parameter(torch.full((5,), 7.0))
    model.register_parameter("absent_D", absent)
    model.apply(initialise_glorot)
    linear, embedding, lstm = model
    limit = math.sqrt(6 / 80)
    assert 0.9 * limit < linear.weight.abs().max() <= limit
    assert not linear.bias.any()
    assert 0.04 < embedding.weight.abs().max() <= 0.05
    assert not embedding.weight[3].any()
    for direction in ("", "_reverse"):
        for gate in getattr(lstm, f"weight_hh_l0{direction}").chunk(4):
            torch.testing.assert_close(gate @ gate.T, torch.eye(10), rtol=0, atol=1e-5)
        for gate in getattr(lstm, f"weight_ih_l0{direction}").chunk(4):
            assert 0.8 * math.sqrt(6 / 40) < gate.abs().max() <= math.sqrt(6 / 40)
        biases = getattr(lstm, f"bias_ih_l0{direction}") + getattr(lstm, f"bias_hh_l0{direction}")
        assert biases.tolist() == [0.0] * 10 + [1.0] * 10 + [0.0] * 20
    assert (absent == 7).all()
