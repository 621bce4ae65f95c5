import math

import pytest
import torch

from hashtag_core.training.optimizer import BertAdam, make_optimizer, make_schedule

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


def test_a_rate_of_nothing_leaves_what_came_pretrained_as_it_is():
    model = ToyModel()
    optimizer = make_optimizer(model, settings(learning_rate=0.1, encoder_learning_rate=0.0))
    taught = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    names = {name for name, parameter in model.named_parameters() if parameter in taught}
    assert names == {"head.weight", "head.bias", "norm.weight", "norm.bias", "image_absent_D"}
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == names


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


def test_bert_adam_by_hand() -> None:
    """No bias correction: the first step of g = 0.5 is m = 0.05, v = 2.5e-4; a gradient of norm 5 is brought to 1."""
    small, large = torch.nn.Parameter(torch.tensor([1.0])), torch.nn.Parameter(torch.tensor([0.0, 0.0]))
    optimizer = BertAdam([{"params": [small, large], "weight_decay": 0.1}], lr=0.01)
    small.grad, large.grad = torch.tensor([0.5]), torch.tensor([3.0, 4.0])
    optimizer.step()
    assert small.item() == pytest.approx(1 - 0.01 * (0.05 / (2.5e-4**0.5 + 1e-6) + 0.1 * 1.0), rel=1e-6)
    expected = [-0.01 * 0.1 * g / ((1e-3 * g * g) ** 0.5 + 1e-6) for g in (0.6, 0.8)]
    assert large.tolist() == pytest.approx(expected, rel=1e-4)
    small.grad, large.grad = torch.tensor([0.5]), None
    optimizer.step()
    m, v = 0.9 * 0.05 + 0.05, 0.999 * 2.5e-4 + 2.5e-4
    assert optimizer.state[small]["exp_avg"].item() == pytest.approx(m)
    assert optimizer.state[small]["exp_avg_sq"].item() == pytest.approx(v, rel=1e-5)


def test_an_optimizers_own_weight_decay_spares_nothing():
    optimizer = make_optimizer(ToyModel(), settings(weight_decay=0.5, weight_decay_of="all"))
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.5}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(ToyModel().parameters()))
