"""Where the time of a step goes, told apart without slowing the step down.

A step is cut at marks: what lies between two marks belongs to the part that the second one names.

    data            waiting for the loader, and the copy to the device
    forward         the loss
    backward        gradients, until the last of them is there
    communication   what the step still waits for other workers after that: the rest of the all-reduce runs beside `backward`
    update          clipping, the optimizer, the average of the weights

On a CPU a mark is a look at the clock, and every step is measured. A GPU works behind its process, and asking it how far it is
would stop both; there a mark is an event in its queue, every `SAMPLED_EVERY`-th step is measured, and the events are read when
the epoch is over. `data` is then what the GPU waited, not what the process did.
"""

import time
from dataclasses import dataclass, field

import torch

PARTS = ("data", "forward", "backward", "communication", "update")
SAMPLED_EVERY = 10


@dataclass
class StepClock:
    """Seconds of each part over the steps that were measured since the last `read`."""

    device: torch.device
    _steps: int = 0
    _measured: int = 0
    _measuring: bool = False
    _last: float = 0.0
    _seconds: dict[str, float] = field(default_factory=dict)
    _events: list[tuple[str | None, torch.cuda.Event]] = field(default_factory=list)

    def start(self) -> None:
        """A step begins. One that was begun and not ended (a checkpoint was written) is begun anew."""
        on_gpu = self.device.type == "cuda"
        self._measuring = not on_gpu or self._steps % SAMPLED_EVERY == 0
        if on_gpu and self._measuring:
            self._record(None)
        self._last = time.perf_counter()

    def mark(self, part: str) -> None:
        """What was done since the last mark, or since `start`, is `part`."""
        if not self._measuring:
            return
        if self.device.type == "cuda":
            self._record(part)
            return
        now = time.perf_counter()
        self._seconds[part] = self._seconds.get(part, 0.0) + now - self._last
        self._last = now

    def end(self) -> None:
        """A step is over."""
        self._steps += 1
        self._measured += self._measuring

    def read(self) -> dict[str, float]:
        """Seconds of each part and `steps`, how many were measured; on a GPU it waits for what is queued. Counting begins anew."""
        if self._events:
            self._events[-1][1].synchronize()
            for (_, before), (part, after) in zip(self._events, self._events[1:], strict=False):
                if part is not None:
                    self._seconds[part] = self._seconds.get(part, 0.0) + before.elapsed_time(after) / 1000
        found = {**{part: self._seconds.get(part, 0.0) for part in PARTS}, "steps": float(self._measured)}
        self._steps, self._measured, self._seconds, self._events = 0, 0, {}, []
        return found

    def _record(self, part: str | None) -> None:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        self._events.append((part, event))


def mark_last_gradient(wrapped: torch.nn.parallel.DistributedDataParallel, clock: StepClock) -> None:
    """Have the clock marked when the last gradients of a step are there and only their exchange is left.

    The hook averages as DistributedDataParallel does without one.
    """
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    def exchange(
        state: object,
        bucket: torch.distributed.GradBucket,  # type: ignore[name-defined]
    ) -> torch.futures.Future[torch.Tensor]:
        if bucket.is_last():
            clock.mark("backward")
        found: torch.futures.Future[torch.Tensor] = allreduce_hook(None, bucket)  # type: ignore[arg-type]
        return found

    wrapped.register_comm_hook(None, exchange)
