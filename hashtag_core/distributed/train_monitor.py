"""How a training run is watched: workers tell an actor, the driver reads it, logs to MLflow and writes to stderr.

MLflow is the driver's affair alone: its credentials are in the driver's environment, and a database file is on its node.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayError
from tqdm import tqdm

from hashtag_core.errors import StorageError
from hashtag_core.tracking.runs import Run

logger = logging.getLogger(__name__)

POLL_S = 0.5
SHOWN = ("train_loss", "validation_loss")

Figures = dict[str, float]


class RunLog:
    """An actor of no CPU: the history of finished epochs, when each came, and the position in the present one."""

    def __init__(self) -> None:
        self.history: list[Figures] = []
        self.times: list[float] = []
        self.position: tuple[int, int, int] = (0, 0, 0)

    def epochs(self, history: list[Figures]) -> None:
        """Take the history of the run so far."""
        self.history = history
        self.times += [time.time()] * (len(history) - len(self.times))

    def step(self, epoch: int, step: int, steps: int) -> None:
        """Take the position: steps done of the steps of an epoch."""
        self.position = (epoch, step, steps)

    def read(self) -> tuple[list[Figures], list[float], tuple[int, int, int]]:
        """What is known now: figures and time (seconds since 1970) of each epoch, and the position."""
        return self.history, self.times, self.position


def start_run_log() -> Any:
    """A new `RunLog` actor; it ends with the driver."""
    return ray.remote(num_cpus=0, max_concurrency=4)(RunLog).remote()


class Watch:
    """Follows a `RunLog` for the time of a `with` block: each epoch goes to stderr, and once to MLflow.

    Two threads, so that an MLflow that is away for minutes does not stop the display. `logged` epochs are in MLflow already. An
    MLflow that fails is warned of once; what is logged later carries the time it was measured at. `finish` logs what is left
    and raises.
    """

    def __init__(self, log: Any, run: Run, epochs: int, select: str, logged: int = 0) -> None:
        self._log, self._run, self._epochs, self._select, self._logged = log, run, epochs, select, logged
        self._began, self._moving = time.monotonic(), logged > 0
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=work.__name__, daemon=True) for work in (self._follow, self._send)
        ]
        self._best: float | None = None
        self._shown = 0
        self._history: list[Figures] = []
        self._times: list[float] = []
        self._bar: Any = None

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        if self._bar is not None:
            self._bar.close()

    def finish(self, history: list[Figures]) -> None:
        """Show and log the epochs that the threads have not seen. StorageError where MLflow refuses."""
        self._show(history, self._times)
        self._record()

    def _follow(self) -> None:
        while not self._stopped.wait(POLL_S):
            try:
                history, times, (epoch, step, steps) = ray.get(self._log.read.remote(), timeout=10)
            except RayError:
                continue  # a dead log costs the display: the figures are in the checkpoints
            if step and not self._moving:
                self._moving = True
                logger.info("first step %.1f s after workers were asked for", time.monotonic() - self._began)
            self._step(epoch, step, steps)
            self._show(history, times)

    def _send(self) -> None:
        report: Callable[[StorageError], None] = lambda error: logger.warning("%s (tried again later)", error)  # noqa: E731
        while not self._stopped.wait(POLL_S):
            try:
                self._record()
            except StorageError as error:
                report(error)
                report = lambda error: logger.debug("%s", error)  # noqa: E731

    def _record(self) -> None:
        while self._logged < len(self._history):
            row, measured_at = self._history[self._logged], self._times[self._logged]
            values = {name: value for name, value in row.items() if name != "epoch"}
            self._run.log_metrics(values, self._logged + 1, measured_at=measured_at)
            self._logged += 1

    def _show(self, history: list[Figures], times: list[float]) -> None:
        self._times = times + [time.time()] * (len(history) - len(times))
        self._history = history
        for row in history[self._shown :]:
            value = row[self._select]
            best = self._best is None or value > self._best
            self._best = value if best else self._best
            figures = "  ".join(f"{name.replace('_', ' ')} {row[name]:.4g}" for name in (*SHOWN, self._select))
            logger.info(
                "epoch %d/%d  %s%s  %.0f posts/s (%s)  learning rate %.2g  gradient norm %.3g",
                int(row["epoch"]) + 1,
                self._epochs,
                figures,
                " (best)" if best else "",
                row["posts_per_second"],
                _step_in_words(row),
                row["learning_rate"],
                row["gradient_norm"],
            )
            self._shown += 1

    def _step(self, epoch: int, step: int, steps: int) -> None:
        if not sys.stderr.isatty() or not steps or not logger.isEnabledFor(logging.INFO):
            return
        if self._bar is None or self._bar.total != steps:
            self._bar = tqdm(total=steps, unit="step", file=sys.stderr, leave=False)
        self._bar.set_description(f"epoch {epoch + 1}/{self._epochs}")
        self._bar.n = step
        self._bar.refresh()


def _step_in_words(row: Figures) -> str:
    """`a step: data 0.1 ms, forward 3.2 ms, ...`, with the memory and the utilisation of a GPU where there is one."""
    parts = [f"{name[5:-3]} {row[name]:.3g} ms" for name in row if name.startswith("step_") and name.endswith("_ms")]
    if "peak_memory_mib" in row:
        parts.append(f"memory {row['peak_memory_mib']:.0f} MiB")
    if "mfu" in row:
        parts.append(f"MFU {row['mfu']:.1%}")
    return f"a step: {', '.join(parts)}"
