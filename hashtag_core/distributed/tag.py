"""Tag an archive on Ray: connect, and let `tagging` do the work."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from hashtag_core.config import TaggingSection
from hashtag_core.progress_bar import ProgressBar
from hashtag_core.tagging.planned_work import TagPlan
from hashtag_core.tagging.run import TagRun
from hashtag_core.tagging.run_state import Cluster, TagSummary


def tag(plan: TagPlan, deadline: datetime | None = None) -> TagSummary:
    """Do what is missing; nothing, and neither Ray nor a model is started, where nothing is. Errors as `TagRun.execute`;
    IntegrityError, and nothing written, for a model folder that is not whole."""
    if plan.is_done:
        version = plan.request.model.version
        return TagSummary(skipped_parts=plan.skipped, gone_parts=len(plan.gone), model_version=version)
    if plan.works:
        from hashtag_core.encoders.trained import trained_tops  # torch: not for a run with nothing to tag
        from hashtag_core.models.folder import load_model_folder

        # What is wrong with the model is said before anything is written.
        load_model_folder(plan.request.model.folder, build_tops=trained_tops)
    return TagRun(plan, on_ray, monitor).execute(deadline)


@contextmanager
def on_ray(section: TaggingSection) -> Iterator[Cluster]:
    """The cluster that is connected for the time of the block."""
    from hashtag_core.distributed import session, tag_actors  # ray: not for a run with nothing to tag

    with session.connect():
        actors, threads, device = tag_actors.cluster_shape(section.actors)
        ahead = tag_actors.decode_ahead(actors, device)
        yield Cluster(threads, device, ahead, lambda tasks, work: tag_actors.run_tasks(tasks, work, actors))


@contextmanager
def monitor(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """A progress bar or lines in the log."""
    with ProgressBar(total, what) as progress:
        yield progress.add
