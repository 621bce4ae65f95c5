"""Tagging on Ray: an actor a CPU or GPU, one outcome for each chunk.

An actor on a CPU opens its posts itself; for one with a GPU tasks on the CPUs do, ahead of it.
The chunks' borders are the plan's.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import cache, partial
from typing import Any, TypeVar, cast

import pyarrow as pa
import ray
from ray.exceptions import WorkerCrashedError

from hashtag_core.config import CaptionsSection
from hashtag_core.distributed import tasks as tasks_on_ray
from hashtag_core.distributed.place import ACTOR_CPUS, received_model, sent_model
from hashtag_core.distributed.session import cluster_cpus, cluster_gpus
from hashtag_core.distributed.tasks import Pool
from hashtag_core.recommend.image_uris import ImagePlaces
from hashtag_core.recommend.read_posts import OpenedPosts, open_posts
from hashtag_core.tagging.joint_tasks import JointOutcome, JointTask
from hashtag_core.tagging.task import ChunkOutcome, Task, Work

logger = logging.getLogger(__name__)

R = TypeVar("R")

TASK_RETRIES = 2
"""For a task whose actor died; without a limit a post that kills its process never ends."""

STALL_WARNING_S, STALL_TIMEOUT_S = 100, 600
"""Without a result from any actor: a warning, and the end of the run. A chunk takes seconds, the start of actors a minute."""


def cluster_shape(actors: int | None) -> tuple[int, int, str]:
    """Actors, CPU threads of each, and their device, for the cluster that is connected."""
    gpus, cpus = int(cluster_gpus()), int(cluster_cpus())
    count = actors or gpus or max(1, cpus)
    return count, max(1, cpus // count), "cuda" if gpus else "cpu"


def decode_ahead(actors: int, device: str) -> int:
    """Batches that are opened ahead for each actor by tasks on CPUs: 0 on CPUs, where an actor that opens its own posts is the
    faster (299 against 207 images/s on two), and where GPU actors leave no CPU free, since such a task would wait for ever."""
    if device == "cpu":
        return 0
    free = int(cluster_cpus() - actors * ACTOR_CPUS)
    return -(-free // actors) + 1 if free >= 1 else 0


def run_tasks(tasks: Sequence[Task], work: Work, actors: int) -> Iterator[ChunkOutcome]:
    """Run the tasks and give an outcome for each chunk as it is done, in any order.

    A chunk whose actor died again after `TASK_RETRIES` has no row: the caller runs it again, alone. HashtagError where an actor
    cannot load the model, or nothing came back for `STALL_TIMEOUT_S`.
    """
    return _run(tasks, partial(_make_tagger, work, sent_model(work.model_folder)), actors, work.device)


def run_joint_tasks(tasks: Sequence[JointTask], works: Sequence[Work], actors: int) -> Iterator[JointOutcome]:
    """As `run_tasks`, with several models in each actor."""
    make = partial(_make_joint_tagger, works, [sent_model(work.model_folder) for work in works])
    return _run(tasks, make, actors, works[0].device)


def _run(
    tasks: Sequence[Any], make: Callable[[], Callable[[Any], Iterator[R]]], actors: int, device: str
) -> Iterator[R]:
    pool = Pool(min(actors, len(tasks)), ACTOR_CPUS, 1.0 if device == "cuda" else None, retries=TASK_RETRIES)
    outcomes = tasks_on_ray.run_tasks("tagging", tasks, make, pool, end_s=STALL_TIMEOUT_S, warn_s=STALL_WARNING_S)
    with closing(outcomes):
        for outcome in outcomes:
            if outcome.died:
                logger.warning("%s: %s", outcome.task.path, outcome.error)
            else:
                yield outcome.result()


def _make_tagger(work: Work, model_files: list[Any]) -> Callable[[Task], Iterator[ChunkOutcome]]:
    """In an actor. `model_files`: of `sent_model`."""
    from hashtag_core.tagging.tag_chunks import ChunkTagger  # brings torch, which the driver does without

    files = received_model(model_files, work.model_folder, work.model_hash)
    return ChunkTagger(work, files, _open_elsewhere if work.decode_ahead else None).run


def _make_joint_tagger(works: Sequence[Work], models: list[list[Any]]) -> Callable[[JointTask], Iterator[JointOutcome]]:
    from hashtag_core.tagging.tag_jointly import JointTagger

    files = [received_model(sent, work.model_folder, work.model_hash) for sent, work in zip(models, works, strict=True)]
    return JointTagger(works, files, _open_elsewhere if works[0].decode_ahead else None).run


def _open_elsewhere(
    posts: pa.Table, places: ImagePlaces, captions: CaptionsSection, side_px: int
) -> Callable[[], OpenedPosts]:
    """Begin a task on any node's CPU. A post that kills its process costs that process, not the one with the GPU."""
    begun = _opening_task().remote(posts, places, captions, side_px, {})

    def opened() -> OpenedPosts:
        try:
            return cast(OpenedPosts, ray.get(begun))
        except WorkerCrashedError:  # twice: of a node that died or memory that ran out Ray says other things
            raise RuntimeError("killed the process that opened it") from None

    return opened


@cache
def _opening_task() -> Any:
    return ray.remote(num_cpus=1, max_retries=1)(open_posts)
