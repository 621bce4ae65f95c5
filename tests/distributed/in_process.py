"""Tagging without Ray, for what is not Ray's affair."""

import pickle
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import pytest

from hashtag_core.distributed import session, tag_actors
from hashtag_core.tagging.actor_pool import ActorPool
from hashtag_core.tagging.joint_tasks import JointOutcome, JointTask
from hashtag_core.tagging.tag_chunks import ChunkTagger
from hashtag_core.tagging.tag_jointly import JointTagger
from hashtag_core.tagging.task import ChunkOutcome, Task, Work


def tag_in_process(patch: pytest.MonkeyPatch) -> None:
    """Tasks are run in this process."""

    def run_tasks(tasks: Sequence[Task], work: Work, actors: ActorPool) -> Iterator[ChunkOutcome]:
        tagger = ChunkTagger(work)
        for task in tasks:
            yield from tagger.run(Task.from_json(task.to_json()))

    def run_joint_tasks(tasks: Sequence[JointTask], works: Sequence[Work], actors: ActorPool) -> Iterator[JointOutcome]:
        tagger = JointTagger(works)
        for task in tasks:
            yield from tagger.run(pickle.loads(pickle.dumps(task)))

    patch.setattr(session, "connect", nullcontext)
    patch.setattr(tag_actors, "cluster_pool", lambda section: ActorPool(1))
    patch.setattr(tag_actors, "run_tasks", run_tasks)
    patch.setattr(tag_actors, "run_joint_tasks", run_joint_tasks)
