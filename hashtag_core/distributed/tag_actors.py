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

from hashtag_core.config import CaptionsSection, TaggingSection
from hashtag_core.distributed import tasks as tasks_on_ray
from hashtag_core.distributed.place import received_model, sent_model
from hashtag_core.distributed.session import cluster_cpus, cluster_gpus
from hashtag_core.distributed.tasks import Pool
from hashtag_core.distributed.train_resources import grows
from hashtag_core.recommend.image_uris import ImagePlaces
from hashtag_core.recommend.read_posts import OpenedPosts, open_posts
from hashtag_core.tagging.actor_pool import ActorPool, actor_pool
from hashtag_core.tagging.joint_tasks import JointOutcome, JointTask
from hashtag_core.tagging.task import ChunkOutcome, Task, Work

logger = logging.getLogger(__name__)

R = TypeVar("R")

TASK_RETRIES = 2
"""For a task whose actor died; without a limit a post that kills its process never ends."""

STALL_WARNING_S = 100
"""Without a result from any actor: a warning."""


def cluster_pool(section: TaggingSection) -> ActorPool:
    """The actors that a run asks of the cluster that is connected; the errors are those of `actor_pool`."""
    return actor_pool(section, cluster_cpus(), cluster_gpus(), grows())


def run_tasks(tasks: Sequence[Task], work: Work, actors: ActorPool) -> Iterator[ChunkOutcome]:
    """Run the tasks and give an outcome for each chunk as it is done, in any order.

    A chunk whose actor died again after `TASK_RETRIES` has no row: the caller runs it again, alone. HashtagError where an actor
    cannot load the model, or nothing came back for `actors.end_s`.
    """
    return _run(tasks, partial(_make_tagger, work, sent_model(work.model_folder)), actors)


def run_joint_tasks(tasks: Sequence[JointTask], works: Sequence[Work], actors: ActorPool) -> Iterator[JointOutcome]:
    """As `run_tasks`, with several models in each actor."""
    make = partial(_make_joint_tagger, works, [sent_model(work.model_folder) for work in works])
    return _run(tasks, make, actors)


def _run(tasks: Sequence[Any], make: Callable[[], Callable[[Any], Iterator[R]]], actors: ActorPool) -> Iterator[R]:
    pool = Pool(actors.size(len(tasks)), actors.cpus, actors.gpus, retries=TASK_RETRIES, least=actors.least)
    outcomes = tasks_on_ray.run_tasks("tagging", tasks, make, pool, end_s=actors.end_s, warn_s=STALL_WARNING_S)
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
