"""Tag an archive on Ray: connect, and let `tagging` do the work."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from hashtag_core.config import TaggingSection
from hashtag_core.tagging import execute
from hashtag_core.tagging.joint_run import ModelRun
from hashtag_core.tagging.planned_work import TagPlan
from hashtag_core.tagging.run_state import Cluster, TagSummary


def tag(plan: TagPlan, deadline: datetime | None = None) -> TagSummary:
    """As `execute.execute`, on Ray."""
    return execute.execute(plan, on_ray, deadline)


def tag_jointly(plans: Sequence[TagPlan], deadline: datetime | None = None) -> list[ModelRun]:
    """As `execute.execute_jointly`, on Ray."""
    return execute.execute_jointly(plans, on_ray, deadline)


@contextmanager
def on_ray(section: TaggingSection) -> Iterator[Cluster]:
    """The cluster that is connected for the time of the block."""
    from hashtag_core.distributed import session, tag_actors  # ray: not for a run with nothing to tag

    with session.connect():
        pool = tag_actors.cluster_pool(section)
        yield Cluster(
            pool.threads, pool.device, pool.decode_ahead,
            lambda tasks, work: tag_actors.run_tasks(tasks, work, pool),
            lambda tasks, works: tag_actors.run_joint_tasks(tasks, works, pool),
        )  # fmt: skip
