"""Every family on the card: it learns in bfloat16, scores as on the CPU, and its step does not wait for the card."""

import copy
from contextlib import ExitStack

import pytest
import torch

from hashtag_core.models import NeuralModel, family, list_models
from hashtag_core.models.base import FittedModel
from tests.gpu.conftest import Tell
from tests.gpu.world_training import section, strict, world_loop
from tests.models.host_reads import HostReads
from tests.models.test_host_reads import SILENT
from tests.models.world import make

TAUGHT = [name for name in list_models() if issubclass(family(name), NeuralModel)]
ROWS = list(range(32))
TOLERANCE = 2e-4
"""Of scores in float32: the order of sums differs."""
LOW_TOLERANCE = 0.05
"""Of scores in bfloat16, which has 8 bits. A decoder may take another turn by it: its difference is told, and not judged."""


@pytest.mark.parametrize("name", TAUGHT)
def test_the_loss_falls_in_bfloat16(name: str, device: torch.device, tell: Tell) -> None:
    _, loop = world_loop(name, device, section())
    losses = [row["train_loss"] for row in loop.run().history]
    tell(name, "train loss in bfloat16, 8 epochs", f"{losses[0]:.3f} -> {losses[-1]:.3f}")
    assert all(torch.isfinite(value).all() for value in loop.model.parameters())
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("name", list_models())
def test_scores_are_the_cpus(name: str, device: torch.device, tell: Tell) -> None:
    subject = make(name)
    if isinstance(subject.model, FittedModel):
        subject.fitted()
    batch = subject.batch(ROWS, [True, True, False, True] * 8, [True, False, True, True] * 8)
    expected = subject.scores(batch)
    there = copy.deepcopy(subject.model).to(device).eval()
    with torch.inference_mode():
        found = there.score(batch.to(device)).float().cpu()
        with torch.autocast(device.type, dtype=torch.bfloat16):
            low = there.score(batch.to(device)).float().cpu()
    difference, of_low = float((found - expected).abs().max()), float((low - expected).abs().max())
    tell(name, "scores: largest difference from the CPU's", f"{difference:.1e}; in bfloat16 {of_low:.1e}")
    assert difference <= TOLERANCE
    if isinstance(subject.model, NeuralModel) and subject.model.objective not in ("sequence", "hybrid"):
        assert of_low <= LOW_TOLERANCE


@pytest.mark.parametrize("name", sorted(SILENT))
def test_a_step_does_not_wait_for_the_card(name: str, device: torch.device, tell: Tell) -> None:
    reads = HostReads()
    stack, entered = ExitStack(), []

    def on_step(progress, steps) -> None:  # type: ignore[no-untyped-def]
        if progress.epoch == 1 and progress.step == 1:  # the first epoch allocates and compiles
            stack.enter_context(strict(device, reads))
            entered.append(progress.step)
        if progress.epoch == 1 and progress.step == steps:
            stack.close()

    _, loop = world_loop(name, device, section(epochs=2, weight_average=0.98), on_step=on_step, read_lag=4, times=4)
    with stack:  # a step that waits leaves it too
        loop.run()
    assert entered == [1]
    assert reads.files <= {"readout.py", "?"}, "what the loop looks at is there already"
    tell(name, "steps that waited for the card", "0 of 15")
