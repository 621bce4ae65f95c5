"""Gradual unfreezing: which blocks have a gradient in which epoch, of an undisturbed run and of one that goes on."""

from pathlib import Path

import pytest
import torch

from hashtag_core.models.tuned import TunedModel
from hashtag_core.training.loop import TrainingLoop

from .toy import Blocks, MemoryTable, ToyModel, make_loop, settings, weights

SECTION = settings(epochs=5, batch_size=10, weight_decay=0.1)
TOP, BELOW = "encoder.layers.1.0.weight", "encoder.layers.0.0.weight"


def made(every: int, on_checkpoint: object = None) -> tuple[TrainingLoop, list[set[str]]]:
    """A loop over two blocks, and what had a gradient in each step."""
    torch.manual_seed(0)
    model = TunedModel(ToyModel(), Blocks())
    seen: list[set[str]] = []
    loop = make_loop(SECTION, MemoryTable(30), model=model, unfreeze_epochs=every, on_checkpoint=on_checkpoint)
    step = loop.optimizer.step

    def stepped(*arguments: object) -> None:
        seen.append({name for name, value in model.named_parameters() if value.grad is not None and value.grad.any()})
        step(*arguments)

    loop.optimizer.step = stepped  # type: ignore[method-assign]
    return loop, seen


def test_blocks_are_freed_from_the_top_one_every_so_many_epochs() -> None:
    loop, seen = made(2)
    before = {name: value.clone() for name, value in loop.model.named_parameters()}
    steps = loop.loader.steps
    stays = []
    loop.on_checkpoint = lambda loop: stays.append(
        torch.equal(dict(loop.model.named_parameters())[BELOW], before[BELOW])
    )
    loop.run()
    assert all(TOP in names for names in seen)
    assert [BELOW in names for names in seen] == [False] * 2 * steps + [True] * 3 * steps
    assert stays == [True, True, False, False, False], "what is frozen is not decayed either"
    assert all("model.head.weight" in names for names in seen)


def test_without_it_all_blocks_learn_from_the_first_step() -> None:
    loop, seen = made(0)
    loop.run()
    assert all({TOP, BELOW} <= names for names in seen)


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_run_that_was_stopped_goes_on_with_the_same_blocks(epoch: int, tmp_path: Path) -> None:
    whole, _ = made(2)
    whole.run()

    def stop(loop: TrainingLoop) -> None:
        if loop.progress.epoch == epoch:
            loop.save(tmp_path / "checkpoint")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(2, stop)[0].run()
    resumed, seen = made(2)
    resumed.restore(tmp_path / "checkpoint")
    resumed.run()
    assert next(BELOW in names for names in seen) is (epoch >= 2)
    assert torch.equal(weights(resumed.model), weights(whole.model))
