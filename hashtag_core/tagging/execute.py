"""Plans carried out, where there is anything to do: neither a cluster nor a model is started where there is not."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from hashtag_core.progress_bar import ProgressBar
from hashtag_core.tagging.joint_run import JointRun, ModelRun
from hashtag_core.tagging.planned_work import TagPlan
from hashtag_core.tagging.run import TagRun
from hashtag_core.tagging.run_state import Connect, TagSummary


def execute(plan: TagPlan, connect: Connect, deadline: datetime | None = None) -> TagSummary:
    """Do what is missing. Errors as `TagRun.execute`; IntegrityError, and nothing written, for a model folder that is not whole."""
    if plan.is_done:
        return _nothing(plan)
    _check_models([plan])
    return TagRun(plan, connect, monitor).execute(deadline)


def execute_jointly(plans: Sequence[TagPlan], connect: Connect, deadline: datetime | None = None) -> list[ModelRun]:
    """Do what is missing of several models, in one pass over the archive; what came of each, in their order.

    What a model's run raises is told with it, and ends no other's. IntegrityError, and nothing written, for a model folder that is
    not whole.
    """
    todo = [plan for plan in plans if not plan.is_done]
    _check_models(todo)
    done = iter(JointRun(todo, connect, monitor).execute(deadline) if todo else ())
    return [ModelRun(plan, _nothing(plan)) if plan.is_done else next(done) for plan in plans]


def _nothing(plan: TagPlan) -> TagSummary:
    return TagSummary(skipped_parts=plan.skipped, gone_parts=len(plan.gone), model_version=plan.request.model.version)


def _check_models(plans: Sequence[TagPlan]) -> None:
    """What is wrong with a model is said before anything is written."""
    for plan in plans:
        if plan.works:
            from hashtag_core.encoders.trained import trained_tops  # torch: not for a run with nothing to tag
            from hashtag_core.models.folder import load_model_folder

            load_model_folder(plan.request.model.folder, build_tops=trained_tops)


@contextmanager
def monitor(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """A progress bar or lines in the log."""
    with ProgressBar(total, what) as progress:
        yield progress.add
