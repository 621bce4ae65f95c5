"""The training loop: plain torch, alone or under an initialised `torch.distributed` process group.

Everything random is seeded by position, so a run that was stopped and restored takes the same steps as one that was
not, and all ranks decide alike (best epoch, early stopping, a loss that is not finite) without asking each other.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from hashtag_core.config import TrainingSection
from hashtag_core.errors import TrainingError
from hashtag_core.models.base import NeuralModel
from hashtag_core.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from hashtag_core.training.loader import BatchLoader, TrainBatch
from hashtag_core.training.optimizer import make_optimizer, make_schedule

T = TypeVar("T")
Figures = dict[str, float]
Tensors = tuple[Tensor, ...] | list[Tensor]
Validate = Callable[[NeuralModel, "TrainingLoop"], Figures]

NAMED_POSTS = 8
AVERAGE_WARMUP = 10
"""The average's decay after n steps is at most n / (n + this), so that the first steps do not weigh on it for long."""


class TrainingLoop:
    """Trains one model.

    `validate(model, loop)` is called on every rank after each epoch (eval mode, no gradients) and returns the same
    figures on all of them, `select` among them: higher is better, the first best epoch wins.
    `on_checkpoint(loop)` is called on every rank after each epoch and after every `checkpoint_steps` optimizer steps;
    `on_step(progress, steps)` on every rank after each optimizer step.
    """

    def __init__(
        self,
        model: NeuralModel,
        settings: TrainingSection,
        loader: BatchLoader,
        validate: Validate,
        select: str,
        *,
        device: torch.device | str = "cpu",
        on_checkpoint: Callable[["TrainingLoop"], None] | None = None,
        on_step: Callable[[Progress, int], None] | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device)
        self.settings, self.loader, self.select = settings, loader, select
        self.validate, self.on_checkpoint, self.on_step = validate, on_checkpoint, on_step
        self.world, self.rank = world_size(), rank()
        self.progress = Progress(precision=choose_precision(settings.precision, self.device))
        self.average = _make_average(self.model, settings.weight_average)
        self.optimizer = make_optimizer(model, settings)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.progress.precision == "float16")
        self.factor = make_schedule(settings, loader.updates)

    def save(self, folder: Path) -> None:
        """Write a checkpoint (one rank is enough: all hold the same)."""
        save_checkpoint(folder, self.model, self.optimizer, self.scaler, self.progress, self.average)

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        self.progress = load_checkpoint(folder, self.model, self.optimizer, self.scaler, self.average)

    @property
    def improved(self) -> bool:
        """Whether the epoch that has just ended is the best so far."""
        return self.progress.step == 0 and self.progress.best_epoch == self.progress.epoch - 1

    def autocast(self) -> AbstractContextManager[Any]:
        """The arithmetic of a forward pass."""
        if self.progress.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.progress.precision))

    def run(self) -> Progress:
        """Train until the last epoch or until nothing improves; raises TrainingError for a loss that is not finite."""
        wrapped = self._wrap()
        while self.progress.epoch < self.settings.epochs and not self.progress.stopped_early:
            self._train_epoch(wrapped)
            self._close_epoch()
            if self.on_checkpoint:
                self.on_checkpoint(self)
        return self.progress

    def _wrap(self) -> torch.nn.Module:
        if self.world == 1:
            return self.model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(
            self.model, device_ids=devices, find_unused_parameters=self._leaves_parameters_unused()
        )

    def _leaves_parameters_unused(self) -> bool:
        """Whether some parameter takes no part in the loss of a batch as it comes, or of one with nothing present.

        DistributedDataParallel waits for ever for such a parameter unless it is told; telling it costs time.
        """
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        first = next(iter(self.loader.epoch(0)))
        nothing = np.zeros(len(first.rows), dtype=bool)
        rows = dataclasses.replace(self.loader.table.rows(first.rows), image_present=nothing, text_present=nothing)
        self.model.train()
        unused = False
        for posts in (first.posts, self.loader.reading.batch(rows)):
            self.model.zero_grad(set_to_none=True)
            with self.autocast():
                loss = self.model.loss(posts.to(self.device), first.targets.to(self.device))
            loss.backward()  # type: ignore[no-untyped-call]
            unused |= any(p.requires_grad and p.grad is None for p in self.model.parameters())
        self.model.zero_grad(set_to_none=True)
        for name, buffer in self.model.named_buffers():
            buffer.copy_(buffers[name])
        return sum_over_ranks(float(unused), self.device) > 0

    def _train_epoch(self, wrapped: torch.nn.Module) -> None:
        progress = self.progress
        self.model.train()
        started = time.perf_counter()
        group: list[TrainBatch] = []
        losses: list[Tensor] = []
        for batch in self.loader.epoch(progress.epoch, progress.step):
            _seed(self.settings.seed, progress.epoch, batch.step, self.rank)
            losses.append(self._backward(wrapped, batch))
            group.append(batch)
            if not batch.last_of_group:
                continue
            self._update(group, losses)
            progress.step = batch.step + 1
            progress.sums["seconds"] = progress.sums.get("seconds", 0.0) + time.perf_counter() - started
            started = time.perf_counter()
            group, losses = [], []
            if self.on_step:
                self.on_step(progress, self.loader.steps)
            every = self.settings.checkpoint_steps
            within = progress.step < self.loader.steps
            if every and within and self.on_checkpoint and (progress.step // self.settings.accumulate) % every == 0:
                self.on_checkpoint(self)
                started = time.perf_counter()

    def _backward(self, wrapped: torch.nn.Module, batch: TrainBatch) -> Tensor:
        """Add the batch's gradients; returns its detached loss, weighted."""
        posts = batch.posts.to(self.device, non_blocking=True)
        targets = batch.targets.to(self.device, non_blocking=True)
        synchronised = batch.last_of_group or not isinstance(wrapped, DistributedDataParallel)
        with nullcontext() if synchronised else wrapped.no_sync():  # type: ignore[operator]
            with self.autocast():
                loss: Tensor = wrapped(posts, targets) * batch.weight
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _update(self, group: list[TrainBatch], losses: list[Tensor]) -> None:
        progress = self.progress
        own_loss = float(torch.stack(losses).float().sum())
        loss = sum_over_ranks(own_loss, self.device) / self.world
        if not math.isfinite(loss):
            self._refuse("loss", loss, group if not math.isfinite(own_loss) else [])
        update = progress.epoch * self.loader.updates + group[-1].step // self.settings.accumulate
        for options in self.optimizer.param_groups:
            options["lr"] = options["peak"] * self.factor(update)
        self.scaler.unscale_(self.optimizer)
        norm = float(
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.gradient_clip_norm or math.inf)
        )
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            self._refuse("gradient norm", norm, group)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.model)
        sums = {"loss": loss * group[-1].group_posts, "posts": group[-1].group_posts}
        if math.isfinite(norm):
            sums |= {"norm": norm, "norms": 1}
        for name, value in sums.items():
            progress.sums[name] = progress.sums.get(name, 0.0) + value

    def _refuse(self, what: str, value: float, group: list[TrainBatch]) -> None:
        """Raise the same TrainingError on every rank, naming the posts of the ranks that are at fault."""
        ids = [post for own in gather([p for batch in group for p in batch.posts.post_ids]) for post in own]
        more = f" and {len(ids) - NAMED_POSTS} more" if len(ids) > NAMED_POSTS else ""
        raise TrainingError(
            f"{what} is {value} in epoch {self.progress.epoch}, step {self.progress.step}, precision "
            f"{self.progress.precision}; posts {', '.join(ids[:NAMED_POSTS])}{more}"
        )

    def _close_epoch(self) -> None:
        progress = self.progress
        sums = progress.sums
        judged = self.model if self.average is None else cast(NeuralModel, self.average.module)
        judged.eval()
        with torch.no_grad():
            figures = self.validate(judged, self)
        progress.history.append(
            {
                "epoch": float(progress.epoch),
                "train_loss": sums["loss"] / sums["posts"],
                **figures,
                "learning_rate": self.optimizer.param_groups[-1]["lr"],
                "gradient_norm": sums.get("norm", 0.0) / max(1.0, sums.get("norms", 0.0)),
                "posts_per_second": sums["posts"] / max(sums["seconds"], 1e-9),
            }
        )
        value = figures[self.select]
        if progress.best_value is None or value > progress.best_value:
            progress.best_epoch, progress.best_value = progress.epoch, value
        patience = self.settings.early_stopping_epochs
        progress.stopped_early = patience is not None and progress.epoch - (progress.best_epoch or 0) >= patience
        progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, {}


def world_size() -> int:
    """Ranks of the process group, 1 without one."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process among them."""
    return dist.get_rank() if dist.is_initialized() else 0


def sum_over_ranks(value: float, device: torch.device) -> float:
    """The sum of every rank's value; not finite where one of them is not."""
    if world_size() == 1:
        return value
    total = torch.tensor(value, dtype=torch.float32, device=device)
    dist.all_reduce(total)
    return float(total)


def gather(value: T) -> list[T]:
    """Every rank's value, on every rank, by rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def choose_precision(setting: str, device: torch.device) -> str:
    """What `precision = "auto"` means: bfloat16 where the device has matrix units for it, else float16 on CUDA and
    float32 elsewhere. It is asked of the hardware, not timed, so that a run and its repetition choose alike."""
    if setting != "auto":
        return setting
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "bfloat16" if device.type == "cpu" and torch.cpu._is_amx_tile_supported() else "float32"


def _make_average(model: NeuralModel, decay: float | None) -> AveragedModel | None:
    """The exponential moving average of the weights that is judged and kept, if there is to be one."""
    if decay is None:
        return None

    def move(averaged: Tensors, current: Tensors, steps: Tensor | int) -> None:
        torch._foreach_lerp_(averaged, current, 1 - min(decay, int(steps) / (int(steps) + AVERAGE_WARMUP)))

    return AveragedModel(model, multi_avg_fn=torch.no_grad()(move))


def _seed(*position: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0]))
