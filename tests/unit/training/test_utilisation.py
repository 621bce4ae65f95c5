"""Floating-point operations of a step, by hand."""

import math

import pytest
import torch
from torch import nn

from hashtag_core.config import EncodersSection
from hashtag_core.training import clock
from hashtag_core.training.utilisation import count_flops, peak_flops


def test_flops_of_two_layers_are_those_worked_by_hand():
    """[8, 6] x [6, 4] and [8, 4] x [4, 2]; backward takes a product for the weights of both, and one for the input of the second."""
    model = nn.Sequential(nn.Linear(6, 4, bias=False), nn.Linear(4, 2, bias=False))
    found = count_flops(model, lambda: model(torch.randn(8, 6)).sum())
    first, second = 2 * 8 * 6 * 4, 2 * 8 * 4 * 2
    assert found == 2 * first + 3 * second
    assert count_flops(nn.LSTM(2, 2), lambda: torch.zeros((), requires_grad=True)) is None


@pytest.mark.parametrize("checkpoint", [False, True])
def test_where_gradients_are_checkpointed_flops_are_not_told(checkpoint):
    model = nn.Sequential(nn.Linear(6, 4, bias=False))
    model[0].section = EncodersSection(checkpoint_gradients=checkpoint)
    found = count_flops(model, lambda: model(torch.randn(8, 6)).sum())
    assert found == (None if checkpoint else 2 * 2 * 8 * 6 * 4)


def test_peaks_are_those_of_the_named_device_alone():
    assert peak_flops("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "float16") == 312e12
    assert peak_flops("NVIDIA A10", "bfloat16") == 125e12
    assert peak_flops("NVIDIA L40S", "bfloat16") == 362e12
    assert peak_flops("NVIDIA T400", "float16") is None
    assert peak_flops("NVIDIA H100 80GB HBM3", "float32") is None
    assert all(math.isfinite(value) for value in clock.StepClock(torch.device("cpu")).read().values())
