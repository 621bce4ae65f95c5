"""Parameter groups and learning-rate schedules."""

import math
from collections.abc import Callable

import torch
from torch import nn

from hashtag_core.config import TrainingSection
from hashtag_core.models.base import NeuralModel

Schedule = Callable[[int], float]


def make_optimizer(model: NeuralModel, settings: TrainingSection) -> torch.optim.Optimizer:
    """AdamW (or Adam, whose decay is an L2 term) over up to four groups: pretrained or new, decayed or not.

    `pretrained_parameters()` take `encoder_learning_rate`. Biases, norms, other vectors and the embeddings of absence
    are not decayed: a decayed embedding of absence shrinks wherever its modality is seldom absent. Each group has the
    key `peak`, its rate before the schedule.
    """
    pretrained = model.pretrained_parameters()
    normed = {
        f"{owner}.{leaf}" if owner else leaf
        for owner, module in model.named_modules()
        if isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.modules.batchnorm._BatchNorm)
        for leaf, _ in module.named_parameters(recurse=False)
    }
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decayed = parameter.ndim > 1 and name not in normed and "absent" not in name
            groups.setdefault((name in pretrained, decayed), []).append(parameter)
    rates = {True: settings.encoder_learning_rate or settings.learning_rate, False: settings.learning_rate}
    optimizer = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return optimizer(
        [
            {
                "params": parameters,
                "lr": rates[is_pretrained],
                "peak": rates[is_pretrained],
                "weight_decay": settings.weight_decay if decayed else 0.0,
            }
            for (is_pretrained, decayed), parameters in sorted(groups.items())
        ]
    )


def make_schedule(settings: TrainingSection, updates_per_epoch: int) -> Schedule:
    """Optimizer step (from 0) -> factor of the peak learning rate: a pure function, so there is no state to save.

    Warm-up rises linearly over its share of all steps; then `constant` stays, `linear` falls to 0 after the last step,
    `cosine` likewise along half a cosine, and `cosine_restarts` begins a new half cosine every `restart_epochs`.
    """
    total = settings.epochs * updates_per_epoch
    warmup = round(settings.warmup * total)
    period = settings.restart_epochs * updates_per_epoch

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done, rest = step - warmup, max(1, total - warmup)
        match settings.schedule:
            case "linear":
                return max(0.0, 1 - done / rest)
            case "cosine":
                return 0.5 * (1 + math.cos(math.pi * min(1.0, done / rest)))
            case "cosine_restarts":
                return 0.5 * (1 + math.cos(math.pi * (done % period) / period))
            case _:
                return 1.0

    return factor
