"""The training loop over the small world of `tests.models.world`, as a worker sets it up."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hashtag_core.config import TrainingSection
from hashtag_core.data.batches import FeaturizedPosts
from hashtag_core.models import NeuralModel
from hashtag_core.training.loader import BatchLoader, Reading, TableFitSource
from hashtag_core.training.loop import TrainingLoop
from tests.models.world import POSTS, Subject, V, history_of, make, world


class WorldTable:
    """The world as a `PostTable`, `times` over."""

    def __init__(self, times: int = 1) -> None:
        self.times = times
        self.tags: Sequence[Sequence[int]] = world().tags * times

    def __len__(self) -> int:
        return POSTS * self.times

    def rows(self, indices: np.ndarray) -> FeaturizedPosts:
        here, index = world(), np.asarray(indices) % POSTS
        n = len(index)
        return FeaturizedPosts(
            [f"post-{row}" for row in indices],
            [here.users[row] for row in index],
            [here.captions[row] for row in index],
            index % 7 != 6,
            index % 9 != 8,
            {name: value if name == "boxes" else value[index] for name, value in here.arrays.items()},
            history_of([int(row) for row in index]) if n else None,
        )


def section(**values: Any) -> TrainingSection:
    wanted = {
        "epochs": 8,
        "batch_size": 16,
        "learning_rate": 5e-3,
        "precision": "bfloat16",
        "schedule": "constant",
        "warmup": 0,
    }
    return TrainingSection(**{**wanted, **values})


def world_loop(
    name: str,
    device: torch.device,
    settings: TrainingSection,
    *,
    rank: int = 0,
    world_size: int = 1,
    times: int = 1,
    **options: Any,
) -> tuple[Subject, TrainingLoop]:
    """A family on the world, and the loop that trains it there."""
    subject = make(name)
    assert isinstance(subject.model, NeuralModel)
    table, reading = WorldTable(times), Reading(V, subject.needs, tuple(subject.options.inputs), subject.tokenizer)
    loader = BatchLoader(table, reading, settings, rank=rank, world=world_size, pin_memory=device.type == "cuda")
    counts_V = torch.bincount(torch.tensor([tag for row in table.tags for tag in row]), minlength=V)
    subject.model.learn_counts(counts_V, len(table))
    subject.model.begin_with(counts_V, len(table))
    subject.model.prepare(TableFitSource(table, reading), seed=0)
    quality = lambda model, loop: {"quality": 0.0}  # noqa: E731
    loop = TrainingLoop(subject.model, settings, loader, quality, "quality", device=device, **options)
    return subject, loop


@contextmanager
def strict(device: torch.device, reads: TorchDispatchMode) -> Iterator[None]:
    """Within it, whatever waits for the device is an error on a GPU, and is counted on a CPU."""
    if device.type != "cuda":
        with reads:
            yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
