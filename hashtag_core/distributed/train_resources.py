"""What training asks of Ray: what the recipe says, and not what happens to be up.

A cluster at rest is a head without CPUs for work, and an autoscaler that starts machines for what is asked for and cannot be
placed. So the CPUs and GPUs of each worker are asked for as the recipe has them, and the deadline leaves machines time to boot.
A single machine (a Ray of this process's own, or a head that works itself) starts nothing: there the workers share what it
has, and what does not fit is refused at once.
"""

import logging
import os
from collections.abc import Mapping

import ray

from hashtag_core.config import Recipe, TrainingSection
from hashtag_core.distributed.session import cluster_cpus, cluster_gpus
from hashtag_core.errors import ConfigError
from hashtag_core.storage.home import SUBMITTED

logger = logging.getLogger(__name__)

START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
LOOK_INTERVAL = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
WATCHES_NODES = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
"""Ray Train reads these of the environment of the driver."""

GPU_WORKER_CPUS = 4.0
"""CPUs of a worker with a GPU: one that drives it, the others read, tokenize and collate ahead."""
CPU_WORKER_CPUS = 2.0
SINGLE_MACHINE_START_S = 60
SINGLE_MACHINE_LOOK_S = 0.25
"""How often the workers of a single machine are looked at. A worker that has a checkpoint to report, or has ended, waits for that: with
Ray's own 2 s epochs of a second took two, and the end of a run four more."""


def grows() -> bool:
    """Whether the Ray that is joined may be more than one machine: several are up, or the only one has no CPU for work."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return len(nodes) > 1 or not any(node["Resources"].get("CPU") for node in nodes)


def worker_resources(recipe: Recipe) -> dict[str, float]:
    """CPUs and GPUs that each worker reserves; ConfigError where a single machine cannot hold the workers."""
    settings = recipe.training
    return _of_cluster(settings) if grows() else _of_machine(settings)


def _of_cluster(settings: TrainingSection) -> dict[str, float]:
    up = cluster_gpus()
    use_gpu = settings.gpus in ("always", "cluster") or (settings.gpus == "auto" and up >= settings.workers)
    cpus = settings.worker_cpus or (GPU_WORKER_CPUS if use_gpu else CPU_WORKER_CPUS)
    asked = {"CPU": cpus, **({"GPU": 1.0} if use_gpu else {})}
    if settings.gpus == "auto" and not use_gpu:
        logger.info(
            'training.gpus = "auto": %g GPUs are up, so CPUs are asked for; gpus = "cluster" starts machines with GPUs',
            up,
        )
    logger.info(
        "asking the cluster for %d worker(s) of %s; machines have %d s to start",
        settings.workers,
        " and ".join(f"{amount:g} {kind}" for kind, amount in asked.items()),
        settings.start_timeout_s,
    )
    return asked


def _of_machine(settings: TrainingSection) -> dict[str, float]:
    cpus, gpus = cluster_cpus(), cluster_gpus()
    if settings.gpus == "always" and gpus < settings.workers:
        raise ConfigError(f"training.gpus: 'always' needs {settings.workers} GPUs, the cluster has {gpus:g}")
    # A worker group that takes every CPU leaves none for anything else and waits for ever: half a machine of two is left.
    share = settings.worker_cpus or min(1.0, max(cpus - 1, cpus / 2) / settings.workers)
    if share * settings.workers > cpus:
        raise ConfigError(
            f"training.workers: {settings.workers} workers of {share:g} CPUs do not fit the cluster's {cpus:g} CPUs"
        )
    use_gpu = settings.gpus != "never" and gpus >= settings.workers
    return {"CPU": share, **({"GPU": 1.0} if use_gpu else {})}


def worker_threads(settings: TrainingSection, resources: Mapping[str, float]) -> int:
    """Threads that each worker computes with on CPUs: as many as the CPUs that it reserved, where others may work on its machine or
    the recipe says so (`training.worker_cpus`), else its share of the single machine; at most OMP_NUM_THREADS, where that is set.

    More threads than cores do not merely share them: each waits for the others without giving its core up, and two trainings at once
    take several times as long as one after the other.
    """
    of_machine = cluster_cpus() / settings.workers
    found = max(1, int(resources["CPU"] if grows() or settings.worker_cpus else of_machine))
    # Ray itself gives the driver of a submitted job OMP_NUM_THREADS=1.
    wanted = "" if SUBMITTED in os.environ else os.environ.get("OMP_NUM_THREADS", "")
    return min(found, int(wanted)) if wanted.isdecimal() and int(wanted) else found


def set_train_environment(settings: TrainingSection) -> None:
    """Tell Ray Train, which reads it of the environment, how long a worker group may take to start, and how often to look at it;
    and to start no process that waits for nodes to be taken away where there is one alone."""
    growing = grows()
    os.environ.setdefault(START_TIMEOUT, str(settings.start_timeout_s if growing else SINGLE_MACHINE_START_S))
    if not growing:
        os.environ.setdefault(LOOK_INTERVAL, str(SINGLE_MACHINE_LOOK_S))
        os.environ.setdefault(WATCHES_NODES, "0")
