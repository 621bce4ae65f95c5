"""What a stopped run goes on from: a folder of weights, optimizer state and position. No pickle.

::

    weights.safetensors      parameters and buffers of the model, with `training.weight_average` their average
    stepped.safetensors      the weights that the next step starts from, where those are the average
    optimizer.safetensors    `<parameter>/<moment>` of every parameter that has been stepped
    state.json               position, history, gradient scaler; written last

There is no random state: every step seeds the generators from (seed, epoch, step, rank).
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn
from torch.optim.swa_utils import AveragedModel

from hashtag_core.errors import IntegrityError

FORMAT = 1
WEIGHTS, STEPPED = "weights.safetensors", "stepped.safetensors"
OPTIMIZER, STATE = "optimizer.safetensors", "state.json"


@dataclass
class Progress:
    """Where a run stands. `epoch` and `step` are the next to be done."""

    epoch: int = 0
    step: int = 0
    precision: str = "float32"
    history: list[dict[str, float]] = field(default_factory=list)
    """One dict of figures a finished epoch."""
    best_epoch: int | None = None
    best_value: float | None = None
    stopped_early: bool = False
    sums: dict[str, float] = field(default_factory=dict)
    """Running sums of the unfinished epoch."""


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    moments: dict[str, torch.Tensor],
    scaler: torch.amp.GradScaler,
    progress: Progress,
    average: AveragedModel | None = None,
) -> None:
    """Write the folder; it appears whole or not at all, and replaces one of that name. `moments`: as of `moments_of`."""
    staged = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    save_model(average.module if average else model, str(staged / WEIGHTS))
    if average:
        save_model(model, str(staged / STEPPED))
    save_file(moments, str(staged / OPTIMIZER))
    state = {
        "format": FORMAT,
        "progress": dataclasses.asdict(progress),
        "scaler": scaler.state_dict(),
        "averaged": int(average.n_averaged) if average else None,
    }
    (staged / STATE).write_text(json.dumps(state), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(staged, folder)


def moments_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """`<parameter>/<moment>` of every parameter that has been stepped."""
    return {
        f"{name}/{key}": value.contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: AveragedModel | None = None,
) -> Progress:
    """Put the folder's state into the objects; IntegrityError names the file that is missing, broken or of another model."""
    progress, faults = Progress(), list[IntegrityError]()
    with collected_faults(folder, faults):
        progress, averaged = read_state(folder, scaler)
        load_model(model, str(folder / (STEPPED if average else WEIGHTS)))
        if average:
            load_model(average.module, str(folder / WEIGHTS))
            average.n_averaged.fill_(averaged)
        put_moments(load_file(str(folder / OPTIMIZER)), model, optimizer)
    if faults:
        raise faults[0]
    return progress


@contextmanager
def collected_faults(folder: Path, faults: list[IntegrityError]) -> Iterator[None]:
    """Whatever a broken checkpoint makes go wrong in the block becomes an IntegrityError in `faults`, so that all ranks can say the
    same before one of them ends."""
    try:
        yield
    except IntegrityError as error:
        faults.append(error)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        cause = " ".join(str(error).split())
        faults.append(IntegrityError(f"{folder}: not a checkpoint of this model: {type(error).__name__}: {cause}"))


def read_state(folder: Path, scaler: torch.amp.GradScaler) -> tuple[Progress, Any]:
    """Position and history, the scaler's state put into it, and how many steps the average is of (None without one)."""
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    if state.get("format") != FORMAT:
        raise IntegrityError(f"{folder / STATE}: expected checkpoint format {FORMAT}, found {state.get('format')!r}")
    if state["scaler"]:
        scaler.load_state_dict(state["scaler"])
    return Progress(**state["progress"]), state["averaged"]


def put_moments(moments: dict[str, torch.Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Take what `moments_of` gave; KeyError for a parameter that is not trained."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    by_name: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in moments.items():
        name, _, moment = key.rpartition("/")
        by_name.setdefault(name, {})[moment] = value
    ordered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, Any] = {i: by_name.pop(names[p]) for i, p in enumerate(ordered) if names[p] in by_name}
    if by_name:
        raise KeyError(f"{OPTIMIZER} has state of {sorted(by_name)[0]!r}, which the model does not train")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
