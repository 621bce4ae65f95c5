"""A model that no rank holds whole: its parameters, gradients and the optimizer's state are spread over the ranks (FSDP2).

Zhao et al. 2023, PyTorch FSDP; `torch.distributed.fsdp.fully_shard`. A rank keeps 1/N of each parameter. The whole ones are gathered for
as long as a part of the model needs them: for the blocks of an encoder that is trained through, one block at a time; for what the family
itself has, over the forward and backward pass, since a family may leave a part of itself out where its modality is absent, and
all ranks have to gather alike. (What no post of a batch uses takes a step with the gradient zero there, and none under
DistributedDataParallel.) While the validation split is judged every rank holds all parameters, and nothing else.

What is saved is the whole model, written by rank 0, as any other training writes it.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from safetensors.torch import load_file, load_model
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from hashtag_core.errors import IntegrityError
from hashtag_core.models.base import NeuralModel
from hashtag_core.models.tuned import TunedModel
from hashtag_core.training.checkpoint import (
    OPTIMIZER,
    WEIGHTS,
    Progress,
    collected_faults,
    put_moments,
    read_state,
    save_checkpoint,
)
from hashtag_core.training.ranks import gather, rank, world_size


class ShardedModel:
    """Spreads `model` over the ranks of the process group, rank 0's values, and moves it to the device. The optimizer is made
    after that. Collective, as every method is: all ranks call alike."""

    def __init__(self, model: NeuralModel, device: torch.device) -> None:
        self.device = device
        for value in (*model.parameters(), *model.buffers()):
            value.data = self._of_first_rank(value.data).to(value.device)
        self.whole = copy.deepcopy(model) if rank() == 0 else None
        """On the CPU: what is saved."""
        mesh = init_device_mesh(device.type, (world_size(),))
        for block in _blocks(model):
            fully_shard(block, mesh=mesh)
        self.model = fully_shard(model, mesh=mesh)
        self.model.set_reduce_scatter_unused_params(True)

    def sync_gradients(self, wanted: bool) -> None:
        """Whether the next backward pass adds up the gradients of all ranks."""
        self.model.set_requires_gradient_sync(wanted)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Every rank holds all parameters for the time of the block, so that ranks need not call alike within it."""
        parts = [module for module in cast(nn.Module, self.model).modules() if isinstance(module, FSDPModule)]
        self.model.set_reshard_after_forward(False)
        for part in parts:
            part.unshard()
        try:
            yield
        finally:
            for part in parts:
                part.set_reshard_after_forward(part is not self.model, recurse=False)
                part.reshard()

    def save(
        self, folder: Path | None, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, progress: Progress
    ) -> None:
        """A checkpoint as `save_checkpoint` writes it, on rank 0; the others have no `folder`."""
        whole = {} if self.whole is None else dict(_tensors(self.whole))
        moments: dict[str, Tensor] = {}
        for name, value in _tensors(cast(nn.Module, self.model)):
            found = _full(value)
            if name in whole:
                whole[name].data.copy_(found)
            for key, moment in optimizer.state.get(value, {}).items():
                full = _full(moment)
                if self.whole is not None:
                    moments[f"{name}/{key}"] = full.cpu().contiguous()
        if self.whole is not None and folder is not None:
            save_checkpoint(folder, self.whole, moments, scaler, progress)

    def restore(self, folder: Path, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> Progress:
        """What rank 0 reads of a checkpoint, spread; IntegrityError, on all ranks, for one that is not of this model."""
        progress, moments, faults = Progress(), dict[str, Tensor](), list[IntegrityError]()
        with collected_faults(folder, faults):
            progress, _ = read_state(folder, scaler)
            if self.whole is not None:
                load_model(self.whole, str(folder / WEIGHTS))
                moments = load_file(str(folder / OPTIMIZER))
        if told := [fault for of_rank in gather(faults) for fault in of_rank]:
            raise told[0]
        whole = {} if self.whole is None else dict(_tensors(self.whole))
        with torch.no_grad():
            for name, value in _tensors(cast(nn.Module, self.model)):
                self._spread(whole.get(name), value)
        self._spread_moments(moments, optimizer)
        return progress

    def _spread_moments(self, moments: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
        kinds = gather({key: (value.shape, value.dtype) for key, value in moments.items()})[0]
        parameters = dict(cast(nn.Module, self.model).named_parameters())
        spread: dict[str, Tensor] = {}
        for key, (shape, dtype) in kinds.items():
            parameter = parameters.get(key.rpartition("/")[0])
            full = moments.get(key, torch.empty(shape, dtype=dtype))
            if parameter is not None and shape == parameter.shape and shape:
                spread[key] = torch.empty_like(parameter, dtype=dtype)
                self._spread(full, spread[key])
            else:
                spread[key] = self._of_first_rank(full).cpu()
        put_moments(spread, cast(nn.Module, self.model), optimizer)

    def _spread(self, full: Tensor | None, target: Tensor) -> None:
        """Rank 0's `full` into a tensor that may be spread."""
        here = torch.empty(target.shape, dtype=target.dtype) if full is None else full
        if isinstance(target, DTensor):
            target.to_local().copy_(
                distribute_tensor(here.to(self.device), target.device_mesh, target.placements).to_local()
            )
        else:
            target.data.copy_(self._of_first_rank(here))

    def _of_first_rank(self, value: Tensor) -> Tensor:
        """Rank 0's value, on the device."""
        here = value.detach().clone().to(self.device).contiguous()
        dist.broadcast(here, src=0)
        return here


def _tensors(model: nn.Module) -> Iterator[tuple[str, Any]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _full(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value.detach()


def _blocks(model: NeuralModel) -> list[nn.Module]:
    """The blocks of encoders that are trained through: each is called once for every batch, on every rank."""
    if not isinstance(model, TunedModel):
        return []
    stacks = [module for module in model.encoder.modules() if isinstance(module, nn.ModuleList) and len(module) > 1]
    outer = [stack for stack in stacks if not any(stack is not other and stack in other.modules() for other in stacks)]
    return [block for stack in outer for block in stack if any(True for _ in block.parameters())]
