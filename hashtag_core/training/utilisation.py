"""How much of a GPU's arithmetic a training uses: model FLOPs utilisation (MFU; Chowdhery et al. 2022, PaLM, appendix B).

    MFU = posts/s of a worker * FLOPs of a post, forward and backward / FLOPs/s that the device can do

FLOPs are counted by torch on a batch: matrix products, convolutions and attention. Two kinds of model get no MFU: one with an LSTM
of cuDNN, which torch does not count, so that it would be too low; and one that checkpoints gradients, where torch counts what is
computed anew too, which MFU by its definition does not.
"""

import re
from collections.abc import Callable

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

PEAK_FLOPS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A40": 150e12,
    "A30": 165e12,
    "V100": 125e12,
    "T4": 65e12,
}
"""Dense FLOPs/s in 16 bits with sums in 32, from the makers' data sheets. Each is a word of the device's name; the first
that is counts."""


def peak_flops(device_name: str, precision: str) -> float | None:
    """FLOPs/s that the device can do in that precision; None where it is not known."""
    if precision not in ("bfloat16", "float16"):
        return None
    return next((flops for name, flops in PEAK_FLOPS.items() if re.search(rf"\b{name}\b", device_name)), None)


def count_flops(model: nn.Module, loss: Callable[[], Tensor]) -> int | None:
    """FLOPs of `loss()` and its gradients; None for a model with a part that is not counted. Gradients are left behind."""
    if any(isinstance(module, nn.RNNBase) or _checkpoints_gradients(module) for module in model.modules()):
        return None
    with FlopCounterMode(display=False) as counter:
        loss().backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops())


def _checkpoints_gradients(module: nn.Module) -> bool:
    """Whether it is an encoder's top whose section asks for that."""
    return bool(getattr(getattr(module, "section", None), "checkpoint_gradients", False))
