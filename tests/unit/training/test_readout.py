"""Numbers that are read from the device late."""

import torch

from hashtag_core.training.readout import Readout


def test_what_is_waiting_is_read_in_order():
    readout = Readout(torch.device("cpu"), lag=2)
    for step in range(4):
        readout.push(0, step, [], torch.tensor([1.0, 2.0, float(step)]))
    assert [(found.step, found.norm) for found in readout.due()] == [(0, 0.0), (1, 1.0)]
    assert [found.step for found in readout.rest()] == [2, 3]
    assert list(readout.rest()) == []
