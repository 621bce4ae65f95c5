"""How a training run is watched."""

from pathlib import Path

import pytest

from hashtag_core.distributed.train_monitor import RunLog, Watch
from hashtag_core.tracking.runs import connect, start_run


def test_figures_that_are_logged_later_carry_the_time_they_were_measured_at(
    mlflow_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = ("train_loss", "validation_loss", "f", "posts_per_second", "learning_rate", "gradient_norm")
    history = [{"epoch": n, **dict.fromkeys(figures, 0.5)} for n in range(3)]
    clock = [1000.0]
    monkeypatch.setattr("hashtag_core.distributed.train_monitor.time.time", lambda: clock[0])
    log = RunLog()
    with start_run("e", "r") as run:
        watch = Watch(None, run, 3, "f")
        log.epochs(history[:1])
        clock[0] = 2000.0
        log.epochs(history[:2])
        clock[0] = 9000.0  # MLflow was away until now, and the log has gone
        watch._show(*log.read()[:2])
        watch.finish(history)
    found = connect().get_metric_history(run.run_id, "train_loss")
    assert [(each.step, each.timestamp) for each in found] == [(1, 1_000_000), (2, 2_000_000), (3, 9_000_000)]
