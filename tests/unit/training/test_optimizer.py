import math

import pytest
import torch

from hashtag_core.training.optimizer import make_optimizer, make_schedule

from .toy import ToyModel, settings


def test_groups_split_pretrained_from_new_and_decayed_from_not():
    model = ToyModel()
    optimizer = make_optimizer(model, settings(learning_rate=0.1, encoder_learning_rate=0.001, weight_decay=0.5))
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {
        names[parameter]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert found == {
        "hidden.weight": (0.001, 0.5),
        "hidden.bias": (0.001, 0.0),
        "head.weight": (0.1, 0.5),
        "head.bias": (0.1, 0.0),
        "norm.weight": (0.1, 0.0),
        "norm.bias": (0.1, 0.0),
        "image_absent_D": (0.1, 0.0),
    }


def test_frozen_parameters_are_left_out_and_adam_is_adam():
    model = ToyModel()
    model.hidden.requires_grad_(False)
    optimizer = make_optimizer(model, settings(optimizer="adam"))
    assert type(optimizer) is torch.optim.Adam
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 5


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0]),
        ("cosine", [0.5, 1, *(0.5 * (1 + math.cos(math.pi * i / 8)) for i in range(9))]),
        ("cosine_restarts", [0.5, 1, *(0.5 * (1 + math.cos(math.pi * (i % 4) / 4)) for i in range(9))]),
    ],
)
def test_schedules_over_ten_steps(schedule, expected):
    factor = make_schedule(settings(schedule=schedule, warmup=0.2, epochs=5, restart_epochs=2), updates_per_epoch=2)
    assert [factor(step) for step in range(11)] == pytest.approx(expected)


def test_no_warmup_starts_at_the_peak_and_no_step_is_wasted():
    factor = make_schedule(settings(schedule="linear", warmup=0, epochs=1), updates_per_epoch=4)
    assert [factor(step) for step in range(4)] == [1, 0.75, 0.5, 0.25]
