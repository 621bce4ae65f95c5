"""What each training worker does: open the features, build or restore the model, run the loop, report to Ray Train."""

import logging
import os
import tempfile
import time
from pathlib import Path

import ray.train
import ray.train.torch
import torch

from hashtag_core.errors import HashtagError, StorageError, TrainingError
from hashtag_core.judging.validation import Validation
from hashtag_core.training.checkpoint import Progress
from hashtag_core.training.job import TrainJob, check_disk, make_loop
from hashtag_core.training.loop import TrainingLoop
from hashtag_core.training.ranks import gather, rank
from hashtag_core.training.record import check_storage

STEP_REPORT_S = 0.5
BEST = "best_epoch_or_minus_one"
"""What Ray Train orders checkpoints by: the epoch where it is the best so far, else -1, so that the highest is ours."""


WorkerOutcome = Progress | HashtagError


def train_worker(job: TrainJob, threads: int) -> WorkerOutcome:
    """The training function of Ray Train; `threads` of `worker_threads`.

    Returns an error that a fresh worker would meet again: raised, it would be taken for a lost worker and tried again.
    All ranks return alike, since none may wait for one that has gone.
    """
    # Ray Train tells every report through the root logger; the driver shows the epochs.
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("hashtag_core").setLevel(logging.INFO)
    loop: TrainingLoop | None = None
    fault: HashtagError | None = None
    try:
        loop = _make_loop(job, threads)
    except StorageError:
        raise  # it may answer the next worker
    except HashtagError as error:
        fault = error
    faults = [found for found in gather(fault) if found is not None]
    if faults or loop is None:
        return faults[0]
    try:
        return loop.run()
    except TrainingError as error:
        return error


def _make_loop(job: TrainJob, threads: int) -> TrainingLoop:
    """Tables, model and optimizer of this worker of Ray Train, at the position of the last checkpoint."""
    context = ray.train.get_context()
    check_storage(job.record_file, job.run_id)
    check_disk(job)
    # Ray counts the machine's cores, also where a process is held to some of them.
    share = len(os.sched_getaffinity(0)) // context.get_local_world_size()
    torch.set_num_threads(max(1, min(threads, share)))
    checkpoint = ray.train.get_checkpoint()
    loop = make_loop(
        job,
        ray.train.torch.get_device(),
        Validation(job),
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        fresh=checkpoint is None,
        on_checkpoint=lambda loop: _report(job, loop),
        on_step=_StepReport(job) if context.get_world_rank() == 0 else None,
    )
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            loop.restore(Path(folder))
    return loop


def _report(job: TrainJob, loop: TrainingLoop) -> None:
    """Hand a checkpoint to Ray Train (a barrier for all ranks), then the history to the log."""
    progress = loop.progress
    metrics = {
        "epoch": progress.epoch,
        "step": progress.step,
        BEST: progress.best_epoch if loop.improved else -1,
    }
    if rank() != 0:
        loop.save(None)
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory(prefix="hashtag-checkpoint-") as folder:
        loop.save(Path(folder, "checkpoint"))
        ray.train.report(
            metrics,
            ray.train.Checkpoint.from_directory(Path(folder, "checkpoint")),
            checkpoint_dir_name=f"epoch-{progress.epoch:04d}-step-{progress.step:06d}",
        )
    if job.log is not None and progress.step == 0:
        job.log.epochs.remote(progress.history)


class _StepReport:
    """Tells the log the position, twice a second at most."""

    def __init__(self, job: TrainJob) -> None:
        self.log, self.reported_at = job.log, 0.0

    def __call__(self, progress: Progress, steps: int) -> None:
        if self.log is not None and (time.monotonic() - self.reported_at > STEP_REPORT_S or progress.step == steps):
            self.reported_at = time.monotonic()
            self.log.step.remote(progress.epoch, progress.step, steps)
