"""One place that connects to Ray and says what the workers' environment is."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from hashtag_core import storage

logger = logging.getLogger(__name__)

LOCAL_OBJECT_STORE_BYTES = 1 << 30
"""Enough for the blocks in flight: features go through files, images through row groups."""


@contextmanager
def connect(*, num_cpus: int | None = None) -> Iterator[None]:
    """Join the cluster of `RAY_ADDRESS`, or start a local Ray for the time of the block.

    The package need not be installed: workers find it where the driver found it. S3 endpoint, region and checksum
    settings travel to the workers, secrets never do (the dashboard shows a runtime_env).
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    address = os.environ.get("RAY_ADDRESS")
    environment = {**storage.worker_environment(), "RAY_TRAIN_V2_ENABLED": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    settings: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": True}
    if address:
        logger.info("joining the Ray cluster of RAY_ADDRESS")
    else:
        root = str(Path(__file__).resolve().parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        settings |= {
            "address": "local",
            "include_dashboard": False,
            "object_store_memory": LOCAL_OBJECT_STORE_BYTES,
            "num_cpus": num_cpus,
        }
    ray.init(runtime_env={"env_vars": environment}, **settings)
    try:
        yield
    finally:
        ray.shutdown()


def cluster_cpus() -> float:
    """CPUs of the whole cluster."""
    return float(ray.cluster_resources().get("CPU", 1.0))


def cluster_gpus() -> float:
    """GPUs of the whole cluster."""
    return float(ray.cluster_resources().get("GPU", 0.0))
