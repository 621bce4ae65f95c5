"""Parameter groups and learning-rate schedules.

(Articles by number: docs/models.md.)
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from hashtag_core.config import TrainingSection
from hashtag_core.models.base import NeuralModel

Schedule = Callable[[int], float]


def make_optimizer(model: NeuralModel, settings: TrainingSection) -> torch.optim.Optimizer:
    """AdamW (or BertAdam, or Adam, whose decay is an L2 term) over up to four groups: pretrained or new, decayed or not.

    `pretrained_parameters()` take `encoder_learning_rate`; at 0 no gradient is asked of them. Biases, norms, other vectors and the embeddings of absence
    are not decayed unless `weight_decay_of` says so: a decayed embedding of absence shrinks wherever its modality is seldom absent. Each group has the
    key `peak`, its rate before the schedule.
    """
    pretrained = model.pretrained_parameters()
    normed = {
        f"{owner}.{leaf}" if owner else leaf
        for owner, module in model.named_modules()
        if isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.modules.batchnorm._BatchNorm)
        for leaf, _ in module.named_parameters(recurse=False)
    }
    scales = model.rate_scales()
    encoder_rate = settings.learning_rate if settings.encoder_learning_rate is None else settings.encoder_learning_rate
    groups: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if name in pretrained and not encoder_rate:
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            matrix = parameter.ndim > 1 and name not in normed and "absent" not in name
            decayed = matrix or settings.weight_decay_of == "all"
            groups.setdefault((name in pretrained, decayed, scales.get(name, 1.0)), []).append(parameter)
    rates = {True: encoder_rate, False: settings.learning_rate}
    optimizers: dict[str, type[torch.optim.Optimizer]] = {
        "adamw": torch.optim.AdamW,
        "adam": torch.optim.Adam,
        "bert_adam": BertAdam,
    }
    make: Callable[..., torch.optim.Optimizer] = optimizers[settings.optimizer]
    return make(
        [
            {
                "params": parameters,
                "lr": rates[is_pretrained] * scale,
                "peak": rates[is_pretrained] * scale,
                "weight_decay": settings.weight_decay if decayed else 0.0,
            }
            for (is_pretrained, decayed, scale), parameters in sorted(groups.items(), key=lambda group: group[0])
        ]
    )


class BertAdam(torch.optim.Optimizer):
    """Adam as BERT was published with it, of which LXMERT and article 001 speak as "BertAdam" (Devlin et al. 2019).

    AdamW without bias correction, so that the first steps are larger by 1 / (1 - beta) at most, epsilon 1e-6, and the
    gradient of each parameter clipped at norm 1 by itself.
    """

    def __init__(self, params: Any, lr: float = 5e-5, weight_decay: float = 0.01) -> None:
        super().__init__(
            params, {"lr": lr, "weight_decay": weight_decay, "betas": (0.9, 0.999), "eps": 1e-6, "norm": 1.0}
        )

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, w -= lr (m / (sqrt v + eps) + decay w)."""
        for group in self.param_groups:
            beta_1, beta_2 = group["betas"]
            for parameter in (p for p in group["params"] if p.grad is not None):
                state = self.state[parameter]
                if not state:
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                grad = parameter.grad * (group["norm"] / (parameter.grad.norm() + 1e-6)).clamp(max=1.0)
                state["exp_avg"].lerp_(grad, 1 - beta_1)
                state["exp_avg_sq"].mul_(beta_2).addcmul_(grad, grad, value=1 - beta_2)
                update = state["exp_avg"] / (state["exp_avg_sq"].sqrt() + group["eps"])
                parameter.add_(update + group["weight_decay"] * parameter, alpha=-group["lr"])


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
