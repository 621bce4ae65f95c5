"""The training loop: plain torch, alone or under an initialised `torch.distributed` process group.

Everything random is seeded by position, so a run that was stopped and restored takes the same steps as one that was
not, and all ranks decide alike (best epoch, early stopping, a loss that is not finite) without asking each other.

Within an epoch the process never waits for a GPU: see `readout` and `clock`.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from hashtag_core.config import TrainingSection
from hashtag_core.errors import TrainingError
from hashtag_core.models.base import NeuralModel
from hashtag_core.training.checkpoint import Progress, load_checkpoint, moments_of, save_checkpoint
from hashtag_core.training.clock import PARTS, StepClock, mark_last_gradient
from hashtag_core.training.loader import BatchLoader, TrainBatch
from hashtag_core.training.optimizer import make_optimizer, make_schedule
from hashtag_core.training.ranks import gather, rank, sum_over_ranks, world_size
from hashtag_core.training.readout import Readout, StepNumbers
from hashtag_core.training.utilisation import count_flops, peak_flops

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

    from hashtag_core.training.sharded import ShardedModel

T = TypeVar("T")
Figures = dict[str, float]
Validate = Callable[[NeuralModel, "TrainingLoop"], Figures]

NAMED_POSTS = 8
AVERAGE_WARMUP = 10
"""The average's decay after n steps is at most n / (n + this), so that the first steps do not weigh on it for long."""


class TrainingLoop:
    """Trains one model.

    `validate(model, loop)` is called on every rank after each epoch (eval mode, no gradients) and returns the same
    figures on all of them, `select` among them: higher is better, the first best epoch wins.
    `on_checkpoint(loop)` is called on every rank after each epoch and after every `checkpoint_steps` optimizer steps;
    `on_step(progress, steps)` on every rank after each optimizer step. `read_lag`: steps after which loss and norm are looked at
    (None: at once on a CPU, a few steps later on a GPU). `unfreeze_epochs`: see `NeuralModel.freed_after`.
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
        read_lag: int | None = None,
        unfreeze_epochs: int = 0,
    ) -> None:
        self.device = torch.device(device)
        self.sharded = _shard(model, self.device) if settings.parallel == "fsdp" and world_size() > 1 else None
        self.model = model.to(self.device)
        self.settings, self.loader, self.select = settings, loader, select
        self.validate, self.on_checkpoint, self.on_step = validate, on_checkpoint, on_step
        self.world, self.rank = world_size(), rank()
        self.progress = Progress(precision=choose_precision(settings.precision, self.device))
        decay = settings.weight_average
        self.average = None if decay is None else _MovingAverage(self.model, decay)
        if self.sharded is not None and self.progress.precision == "float16":
            raise TrainingError(
                'training.parallel: "fsdp" needs training.precision = "bfloat16" or "float32" on this device'
            )
        self.optimizer = make_optimizer(model, settings)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.progress.precision == "float16")
        self.factor = make_schedule(settings, loader.updates)
        self._freed_after = self.model.freed_after(unfreeze_epochs)
        self.clock = StepClock(self.device)
        self._readout = Readout(self.device, read_lag)
        self._flops_per_post: float | None = None

    def save(self, folder: Path | None) -> None:
        """Write a checkpoint on one rank; called on all of them, the others have no `folder`."""
        if self.sharded is not None:
            self.sharded.save(folder, self.optimizer, self.scaler, self.progress)
        elif folder is not None:
            moments = moments_of(self.model, self.optimizer)
            save_checkpoint(folder, self.model, moments, self.scaler, self.progress, self.average)

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint; called on all ranks."""
        if self.sharded is not None:
            self.progress = self.sharded.restore(folder, self.optimizer, self.scaler)
            return
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
        wrapped: torch.nn.Module | None = None
        while self.progress.epoch < self.settings.epochs and not self.progress.stopped_early:
            if self._free_blocks() or wrapped is None:  # DistributedDataParallel knows what learned when it was made
                wrapped = self._wrap()
                self._flops_per_post = self._count_flops()
            self._train_epoch(wrapped)
            self._close_epoch()
            if self.on_checkpoint:
                self.on_checkpoint(self)
        return self.progress

    def _free_blocks(self) -> bool:
        """Let learn what is to learn in this epoch, and nothing else; whether that is not what it was. The epoch alone says which, so
        that a run that goes on from a checkpoint does as one that was not stopped."""
        changed = False
        for name, parameter in self.model.named_parameters():
            if name in self._freed_after:
                learns = self.progress.epoch >= self._freed_after[name]
                changed |= parameter.requires_grad != learns
                parameter.requires_grad_(learns)
        return changed

    def _wrap(self) -> torch.nn.Module:
        if self.world == 1 or self.sharded is not None:
            return self.model
        devices = [self.device] if self.device.type == "cuda" else None
        wrapped = DistributedDataParallel(
            self.model, device_ids=devices, find_unused_parameters=self._leaves_parameters_unused()
        )
        mark_last_gradient(wrapped, self.clock)
        return wrapped

    def _leaves_parameters_unused(self) -> bool:
        """Whether some parameter takes no part in the loss of a batch as it comes, or of one with nothing present.

        DistributedDataParallel waits for ever for such a parameter unless it is told; telling it costs time.
        """
        first = next(iter(self.loader.epoch(0)))
        nothing = np.zeros(len(first.rows), dtype=bool)
        rows = dataclasses.replace(self.loader.table.rows(first.rows), image_present=nothing, text_present=nothing)
        unused = False
        for posts in (first.posts, self.loader.reading.batch(rows)):
            with self._trial():
                with self.autocast():
                    loss = self.model.loss(posts.to(self.device), first.targets.to(self.device))
                loss.backward()  # type: ignore[no-untyped-call]
                unused |= any(p.requires_grad and p.grad is None for p in self.model.parameters())
        return sum_over_ranks(float(unused), self.device) > 0

    def _count_flops(self) -> float | None:
        """FLOPs of a post, where the device's own FLOPs/s are known and the model's can be counted."""
        if (
            self.sharded is not None
            or self.device.type != "cuda"
            or not peak_flops(torch.cuda.get_device_name(self.device), self.progress.precision)
        ):
            return None
        first = next(iter(self.loader.epoch(0)))
        posts, targets = first.posts.to(self.device), first.targets.to(self.device)

        def loss() -> Tensor:
            with self.autocast():
                return self.model.loss(posts, targets)

        with self._trial():
            flops = count_flops(self.model, loss)
        return None if flops is None else flops / len(first.rows)

    @contextmanager
    def _trial(self) -> Iterator[None]:
        """A forward and backward pass in it leaves nothing behind: no gradient, no running mean."""
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        yield
        self.model.zero_grad(set_to_none=True)
        for name, buffer in self.model.named_buffers():
            buffer.copy_(buffers[name])

    def _train_epoch(self, wrapped: torch.nn.Module) -> None:
        progress, clock = self.progress, self.clock
        self.model.train()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        started = time.perf_counter()
        group: list[TrainBatch] = []
        losses: list[Tensor] = []
        clock.start()
        for batch in self.loader.epoch(progress.epoch, progress.step):
            _seed(self.settings.seed, progress.epoch, batch.step, self.rank)
            losses.append(self._backward(wrapped, batch))
            group.append(batch)
            if not batch.last_of_group:
                continue
            self._update(group, losses)
            clock.mark("update")
            clock.end()
            progress.step = batch.step + 1
            group, losses = [], []
            if self.on_step:
                self.on_step(progress, self.loader.steps)
            every = self.settings.checkpoint_steps
            within = progress.step < self.loader.steps
            if every and within and self.on_checkpoint and (progress.step // self.settings.accumulate) % every == 0:
                self._take(self._readout.rest())
                self._add_seconds(started)
                self.on_checkpoint(self)
                started = time.perf_counter()
            clock.start()
        self._take(self._readout.rest())
        self._add_seconds(started)

    def _add_seconds(self, started: float) -> None:
        """What was trained since `started` counts for the epoch's posts a second, and for the parts of its steps."""
        sums = self.progress.sums
        spent = {"seconds": time.perf_counter() - started, **{f"clock_{k}": v for k, v in self.clock.read().items()}}
        for name, value in spent.items():
            sums[name] = sums.get(name, 0.0) + value

    def _backward(self, wrapped: torch.nn.Module, batch: TrainBatch) -> Tensor:
        """Add the batch's gradients; returns its detached loss, weighted."""
        posts = batch.posts.to(self.device, non_blocking=True)
        targets = batch.targets.to(self.device, non_blocking=True)
        self.clock.mark("data")
        exchanged = batch.last_of_group and isinstance(wrapped, DistributedDataParallel)
        if self.sharded is not None:
            self.sharded.sync_gradients(batch.last_of_group)
        kept_back = not batch.last_of_group and isinstance(wrapped, DistributedDataParallel)
        with wrapped.no_sync() if kept_back else nullcontext():  # type: ignore[operator]
            with self.autocast():
                loss: Tensor = wrapped(posts, targets) * batch.weight
            self.clock.mark("forward")
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.clock.mark("communication" if exchanged else "backward")
        return loss.detach()

    def _update(self, group: list[TrainBatch], losses: list[Tensor]) -> None:
        progress = self.progress
        own_loss = torch.stack(losses).float().sum()
        loss = own_loss
        if self.world > 1:
            loss = own_loss.clone()
            dist.all_reduce(loss)
            loss /= self.world
            self.clock.mark("communication")
        update = progress.epoch * self.loader.updates + group[-1].step // self.settings.accumulate
        for options in self.optimizer.param_groups:
            options["lr"] = options["peak"] * self.factor(update)
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.gradient_clip_norm or math.inf)
        norm = norm if self.sharded is None else cast("DTensor", norm).full_tensor()
        self._readout.push(progress.epoch, progress.step, group, torch.stack([own_loss, loss, norm.float()]))
        self._take(self._readout.due())
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.model)

    def _take(self, steps: Iterable[StepNumbers]) -> None:
        """Count what steps gave; TrainingError where it is not finite."""
        sums = self.progress.sums
        for found in steps:
            if not math.isfinite(found.loss):
                self._refuse("loss", found.loss, found, named=not math.isfinite(found.own_loss))
            if not math.isfinite(found.norm) and not self.scaler.is_enabled():
                self._refuse("gradient norm", found.norm, found)
            posts = found.group[-1].group_posts
            new = {"loss": found.loss * posts, "posts": posts}
            if math.isfinite(found.norm):
                new |= {"norm": found.norm, "norms": 1}
            for name, value in new.items():
                sums[name] = sums.get(name, 0.0) + value

    def _refuse(self, what: str, value: float, found: StepNumbers, *, named: bool = True) -> None:
        """Raise the same TrainingError on every rank, naming the posts of the ranks that are at fault."""
        own = [post for batch in found.group for post in batch.posts.post_ids] if named else []
        ids = [post for posts in gather(own) for post in posts]
        more = f" and {len(ids) - NAMED_POSTS} more" if len(ids) > NAMED_POSTS else ""
        raise TrainingError(
            f"{what} is {value} in epoch {found.epoch}, step {found.step}, precision "
            f"{self.progress.precision}; posts {', '.join(ids[:NAMED_POSTS])}{more}"
        )

    def _close_epoch(self) -> None:
        progress = self.progress
        sums = progress.sums
        judged = self.model if self.average is None else cast(NeuralModel, self.average.module)
        judged.eval()
        with torch.no_grad(), self.sharded.gathered() if self.sharded is not None else nullcontext():
            figures = self.validate(judged, self)
        progress.history.append(
            {
                "epoch": float(progress.epoch),
                "train_loss": sums["loss"] / sums["posts"],
                **figures,
                "learning_rate": self.optimizer.param_groups[-1]["lr"],
                "gradient_norm": sums.get("norm", 0.0) / max(1.0, sums.get("norms", 0.0)),
                "posts_per_second": sums["posts"] / max(sums["seconds"], 1e-9),
                **self._step_figures(),
            }
        )
        value = figures[self.select]
        if progress.best_value is None or value > progress.best_value:
            progress.best_epoch, progress.best_value = progress.epoch, value
        patience = self.settings.early_stopping_epochs
        progress.stopped_early = patience is not None and progress.epoch - (progress.best_epoch or 0) >= patience
        progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, {}

    def _step_figures(self) -> Figures:
        """Milliseconds of each part of a step; on a GPU the most memory that was held (MiB), and MFU where it can be told."""
        sums = self.progress.sums
        steps = max(1.0, sums.get("clock_steps", 0.0))
        figures = {f"step_{part}_ms": 1000 * sums.get(f"clock_{part}", 0.0) / steps for part in PARTS}
        if self.device.type != "cuda":
            return figures
        figures["peak_memory_mib"] = torch.cuda.max_memory_allocated(self.device) / 2**20
        peak = peak_flops(torch.cuda.get_device_name(self.device), self.progress.precision)
        if peak and self._flops_per_post:
            posts_per_second = sums["posts"] / self.world / max(sums["seconds"], 1e-9)
            figures["mfu"] = posts_per_second * self._flops_per_post / peak
        return figures


def choose_precision(setting: str, device: torch.device) -> str:
    """What `precision = "auto"` means: bfloat16 where the device has matrix units for it, else float16 on CUDA and
    float32 elsewhere. It is asked of the hardware, not timed, so that a run and its repetition choose alike."""
    if setting != "auto":
        return setting
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "bfloat16" if device.type == "cpu" and torch.cpu._is_amx_tile_supported() else "float32"


class _MovingAverage(AveragedModel):
    """The exponential moving average of the weights that is judged and kept. Its decay rises over the first steps; torch's own way
    of telling the step to a function reads it back from the device, for which a GPU would be waited for."""

    def __init__(self, model: NeuralModel, decay: float) -> None:
        super().__init__(model)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move towards the model's weights; its buffers are taken."""
        steps = int(self.n_averaged.numpy())  # kept on the CPU, and no read of the device
        weight = 1 - min(self.decay, steps / (steps + AVERAGE_WARMUP))
        torch._foreach_lerp_(list(self.module.parameters()), list(model.parameters()), weight)
        for kept, new in zip(self.module.buffers(), model.buffers(), strict=True):
            kept.copy_(new)
        self.n_averaged += 1


def _seed(*position: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0]))


def _shard(model: NeuralModel, device: torch.device) -> "ShardedModel":
    from hashtag_core.training.sharded import ShardedModel  # half a second of imports that nothing else needs

    return ShardedModel(model, device)
