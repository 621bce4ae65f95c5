"""What the ranks of a process group tell each other; without a group there is one rank."""

from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


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
