"""What the loop tells of its own time, and numbers that are looked at some steps late."""

import time

import pytest
import torch

from hashtag_core.errors import TrainingError
from hashtag_core.training import clock
from hashtag_core.training.clock import PARTS, StepClock

from .toy import MemoryTable, ToyModel, make_loop, settings, weights


def test_parts_are_what_lies_between_marks(monkeypatch):
    times = iter([0.0, 1.0, 3.0, 10.0, 10.5])
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(times))
    watch = StepClock(torch.device("cpu"))
    watch.start()  # 0
    watch.mark("data")  # 1
    watch.mark("forward")  # 3
    watch.end()
    watch.start()  # 10
    watch.mark("data")  # 10.5
    watch.end()
    assert watch.read() == {
        "data": 1.5, "forward": 2.0, "backward": 0.0, "communication": 0.0, "update": 0.0, "steps": 2.0
    }  # fmt: skip
    assert set(watch.read().values()) == {0.0}


def test_a_slow_part_is_told_apart_and_the_parts_are_the_whole():
    class Slow(ToyModel):
        def loss(self, batch, targets):
            time.sleep(0.1)
            return super().loss(batch, targets)

    row = make_loop(settings(epochs=2), MemoryTable(40), model=Slow()).run().history[1]
    parts = {part: row[f"step_{part}_ms"] for part in PARTS}
    assert parts["forward"] >= 100
    assert parts["communication"] == 0
    assert all(0 < parts[part] < parts["forward"] for part in ("data", "backward", "update"))
    of_a_step = 1000 * 8 / row["posts_per_second"]
    assert sum(parts.values()) == pytest.approx(of_a_step, rel=0.2)


@pytest.mark.parametrize("lag", [1, 3, 100])
def test_numbers_that_are_read_late_are_the_same(lag, tmp_path):
    section = settings(epochs=2, accumulate=2, checkpoint_steps=2)
    kept = []
    at_once = make_loop(section, MemoryTable(61))
    late = make_loop(
        section, MemoryTable(61), read_lag=lag, on_checkpoint=lambda loop: kept.append(dict(loop.progress.sums))
    )
    at_once.run(), late.run()
    assert torch.equal(weights(at_once.model), weights(late.model))
    for mine, theirs in zip(at_once.progress.history, late.progress.history, strict=True):
        for name in ("train_loss", "gradient_norm", "quality"):
            assert mine[name] == theirs[name]
    within = [sums["posts"] for sums in kept if sums]
    assert within, "a checkpoint within an epoch"
    assert all(posts > 0 for posts in within), "what a checkpoint holds is complete"


def test_a_loss_that_is_seen_late_still_names_its_own_step_and_posts():
    table = MemoryTable(24)
    table.image[7] = float("inf")
    with pytest.raises(TrainingError) as at_once:
        make_loop(settings(batch_size=4), table).run()
    with pytest.raises(TrainingError) as late:
        make_loop(settings(batch_size=4), table, read_lag=3).run()
    first, second = (str(error.value).split("; posts ") for error in (at_once, late))
    assert first == second
    assert "p7" in first[1]
