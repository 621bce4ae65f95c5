"""Two ranks that each hold half of a model take the steps of one that holds it whole, and leave the same files."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.tensor import DTensor

from hashtag_core.errors import IntegrityError
from hashtag_core.models.tuned import TunedModel
from hashtag_core.training.checkpoint import moments_of
from hashtag_core.training.loader import BatchLoader
from hashtag_core.training.loop import TrainingLoop

from .toy import Blocks, MemoryTable, ToyModel, make_loop, reading, settings

POSTS = 61
SECTION = settings(epochs=3, batch_size=9, accumulate=2, parallel="fsdp", gradient_clip_norm=0.5)


def model_of(kind: str) -> Any:
    torch.manual_seed(0)
    toy = ToyModel(unused=kind == "unused")
    return TunedModel(toy, Blocks()) if kind == "tuned" else toy


def _judge(model: Any, loop: TrainingLoop) -> dict[str, float]:
    """Ranks call the model a different number of times, as where the split's posts do not divide by them."""
    assert not any(isinstance(value, DTensor) for value in model.parameters())
    first = next(iter(loop.loader.epoch(0)))
    for _ in range(1 + dist.get_rank()):
        scores = model.score(first.posts)
    return {"quality": float(scores.sum()) * 0 + loop.progress.epoch}


def _two(rank: int, folder: str, kind: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    torch.set_num_threads(1)

    def loop_of(on_checkpoint: Any = None) -> TrainingLoop:
        model = model_of(kind)
        if rank:  # rank 0's are taken
            with torch.no_grad():
                model.image_absent_D.add_(1) if kind != "tuned" else model.encoder.layers[0][0].weight.add_(1)
        loader = BatchLoader(MemoryTable(POSTS), reading(), SECTION, rank=rank, world=2)
        return TrainingLoop(model, SECTION, loader, _judge, "quality", on_checkpoint=on_checkpoint)

    told: dict[str, Any] = {}

    def note(loop: TrainingLoop) -> None:
        name = f"epoch-{loop.progress.epoch}"
        loop.save(Path(folder, name) if rank == 0 else None)
        held = sum(value.to_local().numel() for value in loop.model.parameters())
        told["held"] = held / sum(value.numel() for value in loop.model.parameters())
        told["spread"] = all(isinstance(value, DTensor) for value in loop.model.parameters())

    loop_of(note).run()
    resumed = loop_of()
    resumed.restore(Path(folder, "epoch-1"))
    resumed.run()
    resumed.save(Path(folder, "resumed") if rank == 0 else None)
    try:
        loop_of().restore(Path(folder, "nowhere"))
    except IntegrityError as error:
        told["fault"] = str(error)
    told["history"] = resumed.progress.history
    torch.save(told, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", ["unused", "tuned"])
def test_two_ranks_with_half_a_model_each_take_the_steps_of_one(kind: str, tmp_path: Path) -> None:
    mp.spawn(_two, args=(str(tmp_path), kind), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    alone = make_loop(SECTION, MemoryTable(POSTS), model=model_of(kind))
    alone.run()
    alone.save(tmp_path / "alone")
    for name in ("epoch-3", "resumed"):
        found = make_loop(SECTION, MemoryTable(POSTS), model=model_of(kind))
        found.restore(tmp_path / name)
        expected = alone.model.state_dict()
        for key, value in found.model.state_dict().items():
            if "spare" not in key:  # what nothing uses takes a step with the gradient zero, that is, decays
                assert torch.allclose(value, expected[key], atol=1e-5), key
        assert found.progress.epoch == 3
        mine, theirs = (moments_of(one.model, one.optimizer) for one in (alone, found))
        assert mine.keys() == {key for key in theirs if "spare" not in key} != set()
        for key, value in mine.items():
            assert torch.allclose(value, theirs[key], atol=1e-5), key
        assert {path.name for path in (tmp_path / name).iterdir()} == {
            path.name for path in (tmp_path / "alone").iterdir()
        }
    fewer = make_loop(SECTION, MemoryTable(POSTS), model=model_of(kind))
    fewer.restore(tmp_path / "epoch-1")
    fewer.run()  # the one that is left goes on where two were, and holds all
    for key, value in fewer.model.state_dict().items():
        if "spare" not in key:
            assert torch.allclose(value, alone.model.state_dict()[key], atol=1e-5), key
    for one in (first, second):
        assert one["spread"]
        assert 0.3 < one["held"] < 0.7
        for row, own in zip(one["history"], alone.progress.history, strict=True):
            assert row["train_loss"] == pytest.approx(own["train_loss"], rel=1e-5)
            assert row["gradient_norm"] == pytest.approx(own["gradient_norm"], rel=1e-4)
    assert first["fault"] == second["fault"]
    assert "nowhere" in first["fault"]


def test_alone_there_is_nothing_to_spread() -> None:
    assert make_loop(SECTION, MemoryTable(20)).sharded is None
