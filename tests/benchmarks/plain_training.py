"""The loop that one writes without this project, on the same features, model and batches: what `bench_training` compares with.

    python tests/benchmarks/plain_training.py JOB EPOCHS OUT            one process
    torchrun --nproc-per-node 2 tests/benchmarks/plain_training.py ...  DistributedDataParallel over gloo

JOB is a pickled `TrainJob`, OUT takes the posts a second of each epoch, as JSON.
"""

import json
import os
import pickle
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hashtag_core.data.batches import make_targets


def main(job_file: str, epochs: int, out: str) -> None:
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        dist.init_process_group("gloo")
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // world))
    job = pickle.loads(Path(job_file).read_bytes())
    settings, table, reading = job.recipe.training, job.train_table(), job.reading()
    torch.manual_seed(settings.seed)
    model = job.model()
    counts_V = torch.bincount(
        torch.tensor([tag for row in table.tags for tag in row]), minlength=job.spec.vocabulary_size
    )
    model.learn_counts(counts_V, len(table))
    wrapped = DistributedDataParallel(model, find_unused_parameters=True) if world > 1 else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate)
    speeds = []
    for epoch in range(epochs):
        wrapped.train()
        order = np.random.default_rng([settings.seed, epoch]).permutation(len(table))
        began = time.perf_counter()
        for rows in np.array_split(order, -(-len(order) // settings.batch_size)):
            mine = rows[rank::world]
            batch = reading.batch(table.rows(mine))
            targets = make_targets(
                [list(table.tags[int(row)]) for row in mine], reading.vocabulary_size, settings.max_tags
            )
            optimizer.zero_grad()
            loss = wrapped(batch, targets)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip_norm)
            optimizer.step()
            float(loss)
        speeds.append(len(order) / (time.perf_counter() - began))
    if rank == 0:
        Path(out).write_text(json.dumps(speeds))
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
