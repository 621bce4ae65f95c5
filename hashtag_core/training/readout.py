"""Loss and gradient norm of each step, read a few steps late where reading them at once would stop a GPU.

A GPU works through a queue that its process fills. A number that the process wants to see empties the queue first, and the GPU
idles until it is filled again. So what a step gave is copied into the process's memory by the queue itself, and looked at when
`lag` more steps are queued: it has long arrived by then. The lag is a number of steps, not whatever has arrived, so that all
ranks refuse a loss that is not finite at the same step. On a CPU the lag is 0.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hashtag_core.training.loader import TrainBatch

GPU_LAG = 4


@dataclass(frozen=True)
class StepNumbers:
    """What one optimizer step gave."""

    epoch: int
    step: int
    group: list[TrainBatch]
    own_loss: float
    """Of this rank's posts."""
    loss: float
    """Of all ranks' posts."""
    norm: float
    """Of all gradients, before clipping."""


class Readout:
    """Steps whose numbers were asked for and not yet looked at."""

    def __init__(self, device: torch.device, lag: int | None = None) -> None:
        self._on_gpu = device.type == "cuda"
        self.lag = (GPU_LAG if self._on_gpu else 0) if lag is None else lag
        self._waiting: deque[tuple[int, int, list[TrainBatch], Tensor, torch.cuda.Event | None]] = deque()

    def push(self, epoch: int, step: int, group: list[TrainBatch], numbers_3: Tensor) -> None:
        """Take the step's own loss, loss and norm, on the device."""
        if not self._on_gpu:
            self._waiting.append((epoch, step, group, numbers_3, None))
            return
        here = torch.empty(3, dtype=numbers_3.dtype, pin_memory=True)
        here.copy_(numbers_3, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        self._waiting.append((epoch, step, group, here, arrived))

    def due(self) -> Iterator[StepNumbers]:
        """Those that are `lag` steps old, oldest first."""
        while len(self._waiting) > self.lag:
            yield self._next()

    def rest(self) -> Iterator[StepNumbers]:
        """All that are left: before anything is decided or written that rests on them."""
        while self._waiting:
            yield self._next()

    def _next(self) -> StepNumbers:
        epoch, step, group, numbers_3, arrived = self._waiting.popleft()
        if arrived is not None:
            arrived.synchronize()
        own_loss, loss, norm = numbers_3.tolist()
        return StepNumbers(epoch, step, group, own_loss, loss, norm)
