"""Two processes, one card each where there are two, else one card for both: the steps of one process."""

import traceback
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.gpu.conftest import Tell
from tests.gpu.world_training import section, world_loop

FAMILY = "resnet_multilabel"
SETTINGS = {"epochs": 2, "precision": "float32", "learning_rate": 1e-3}


def _train(rank: int, kind: str, folder: str) -> None:
    shared = kind == "cuda" and torch.cuda.device_count() < 2
    device = torch.device("cuda", 0 if shared else rank) if kind == "cuda" else torch.device("cpu")
    try:
        if kind == "cuda":
            torch.cuda.set_device(device)
        backend = "nccl" if kind == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/init", rank=rank, world_size=2)
        _, loop = world_loop(FAMILY, device, section(**SETTINGS), rank=rank, world_size=2)
        loop.run()
        torch.save({"history": loop.progress.history, "weights": _flat(loop.model)}, f"{folder}/{rank}.pt")
    except Exception:
        Path(folder, f"{rank}.error").write_text(traceback.format_exc())
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().flatten().cpu() for value in model.parameters()])


def test_two_processes_take_the_steps_of_one(device: torch.device, tell: Tell, tmp_path: Path) -> None:
    mp.spawn(_train, args=(device.type, str(tmp_path)), nprocs=2)
    errors = [path.read_text() for path in sorted(tmp_path.glob("*.error"))]
    if any("Duplicate GPU" in error for error in errors):
        tell("two processes", "NCCL", "not tried: it refuses two ranks on one card, and there is one")
        pytest.skip("NCCL refuses two ranks on one card (Duplicate GPU detected), and there is one card")
    assert not errors, errors[0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert torch.equal(first["weights"], second["weights"])
    _, alone = world_loop(FAMILY, device, section(**SETTINGS))
    alone.run()
    largest = float((_flat(alone.model) - first["weights"]).abs().max())
    row = first["history"][-1]
    tell("two processes", "weights: largest difference from one process", f"{largest:.1e}")
    tell("two processes", "a step waits for the other", f"{row['step_communication_ms']:.2f} ms")
    assert largest < 1e-3
    assert row["train_loss"] == pytest.approx(alone.progress.history[-1]["train_loss"], rel=1e-3)
