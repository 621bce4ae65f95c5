"""Notices that nothing comes back from Ray any more, and says what the cluster looks like."""

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import ray

from hashtag_core.distributed.session import cluster_cpus, cluster_gpus

logger = logging.getLogger(__name__)

T = TypeVar("T")


def watched(results: Iterable[T], warn_s: float, end_s: float) -> Iterator[T]:
    """The results as they come; a warning whenever the next one was waited for `warn_s` seconds.

    `end_s` is only told: after it Ray ends the run. What the caller does with a result is not waiting.
    """
    waits_since: list[float | None] = [time.monotonic()]
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(waits_since, ended, warn_s, end_s), name="stall", daemon=True)
    thread.start()
    try:
        for result in results:
            waits_since[0] = None
            yield result
            waits_since[0] = time.monotonic()
    finally:
        ended.set()


def _watch(waits_since: list[float | None], ended: threading.Event, warn_s: float, end_s: float) -> None:
    told = 0.0
    while not ended.wait(min(1.0, warn_s / 4)):
        since, now = waits_since[0], time.monotonic()
        if since is not None and now - max(told, since) >= warn_s:
            told = now
            logger.warning(
                "nothing came back from Ray for %.0f s; %s; after %.0f s without progress the run ends",
                now - since,
                _cluster(),
                end_s,
            )


def _cluster() -> str:
    free = ray.available_resources()
    alive = [node["Alive"] for node in ray.nodes()]
    told = f"{sum(alive)} of {len(alive)} node(s) alive, {free.get('CPU', 0):g} of {cluster_cpus():g} CPUs free"
    gpus = cluster_gpus()
    return f"{told}, {free.get('GPU', 0):g} of {gpus:g} GPUs free" if gpus else told
