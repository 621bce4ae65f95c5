"""What jobs/tag.py tells of one model's run and of several models' runs: beforehand, afterwards, and in its summary."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from hashtag_core.errors import HashtagError, UsageError

if TYPE_CHECKING:
    from hashtag_core.tagging.joint_run import ModelRun
    from hashtag_core.tagging.planned_work import TagPlan
    from hashtag_core.tagging.run_state import TagSummary
    from hashtag_core.tracking.registry import ResolvedModel

logger = logging.getLogger("hashtag_core.jobs")

SHOWN_PARTS = 20
COUNTS = ("posts", "tagged", "kept", "rejected", "parts", "skipped_parts", "gone_parts", "dropped_posts")
"""Fields of the summary of several models that are the sums of theirs."""


def require_distinct(named: Sequence[str], models: Sequence["ResolvedModel"]) -> None:
    """UsageError where two of the `--model` are one: they would write the same rows."""
    seen: dict[tuple[str, str], str] = {}
    for flag, model in zip(named, models, strict=True):
        key = (model.name, model.version)
        if key in seen:
            raise UsageError(
                f"--model {flag}: is {model.name} {model.version}, as --model {seen[key]}: name each model once"
            )
        seen[key] = flag


def tell_run(plan: "TagPlan", summary: "TagSummary") -> None:
    """Tell MLflow of a run that is done, and write its page; nothing where it had nothing to do."""
    from hashtag_core.tagging.report import report
    from hashtag_core.tagging.run_page import write_run_page

    if summary.run is None or not summary.posts:
        return
    request = plan.request
    report(
        plan.layout.out,
        summary.run,
        request.recipe.tracking.experiment,
        patient=request.model.tags is not None,
    )
    page = write_run_page(plan.layout.out, summary.run)
    if page is not None:
        logger.info("what was tagged, as a page: %s", page)


def tag_models(plans: Sequence["TagPlan"], deadline: datetime | None) -> Mapping[str, object]:
    """Tag with all of the models. HashtagError, with the summary of all, where one of them did not come to its end (StoppedError where
    they were all told to end); the others are done and told all the same."""
    from hashtag_core.distributed.tag import tag_jointly
    from hashtag_core.tagging.stop_signal import StoppedError

    began = time.monotonic()
    runs = tag_jointly(plans, deadline)
    summary = _summary(runs, time.monotonic() - began)
    for run in runs:
        if run.error is None:
            tell_run(run.plan, run.summary)
        elif not isinstance(run.error, HashtagError):
            logger.error("%s", _named(run), exc_info=run.error)
    failed = [run for run in runs if run.error is not None]
    if failed:
        kind = StoppedError if all(isinstance(run.error, StoppedError) for run in failed) else HashtagError
        error = kind(
            f"{len(failed)} of {len(runs)} models did not come to the end: "
            + "; ".join(f"{_named(run)}: {run.error or type(run.error).__name__}" for run in failed)
        )
        error.summary = summary  # type: ignore[attr-defined]
        raise error
    return summary


def _named(run: "ModelRun") -> str:
    return f"{run.plan.layout.model_name} {run.plan.layout.model_version}"


def _summary(runs: Sequence["ModelRun"], seconds: float) -> dict[str, Any]:
    """The counts of all models together, and `models`: those of each."""
    models = [
        {
            "model_name": run.plan.layout.model_name,
            **asdict(run.summary),
            "error": None if run.error is None else str(run.error) or type(run.error).__name__,
        }
        for run in runs
    ]
    sums = {name: sum(getattr(run.summary, name) for run in runs) for name in COUNTS}
    return {
        **sums,
        "model_version": ", ".join(run.summary.model_version for run in runs),
        "seconds": round(seconds, 3),
        "posts_per_second": round(sums["tagged"] / max(seconds, 1e-9), 1),
        "models": models,
        "files": runs[0].plan.source.archive.tally.to_json(),
    }


def dry_run(plans: Sequence["TagPlan"]) -> Mapping[str, object]:
    """What would be done, by one model or by each of several."""
    found = [_dry_run(plan) for plan in plans]
    if len(plans) == 1:
        return found[0]
    models = [
        {"model_name": plan.layout.model_name, **{name: value for name, value in one.items() if name != "files"}}
        for plan, one in zip(plans, found, strict=True)
    ]
    seconds = [one["estimated_seconds"] for one in found]
    return {
        **found[0],
        **{name: sum(one[name] for one in found) for name in (*COUNTS, "unselected_parts") if name in found[0]},
        "model_version": ", ".join(plan.layout.model_version for plan in plans),
        "estimated_seconds": None if None in seconds else max(seconds),  # what is shared takes its time once
        "models": models,
    }


def _dry_run(plan: "TagPlan") -> dict[str, Any]:
    from hashtag_core.tagging.report import last_rate

    left_out = sum(len(work.left_out) for work in plan.works)
    logger.info(
        "would tag %d row(s) of %d part(s), those whose content is tagged already excepted; %d row(s) or part(s) are left out",
        plan.rows,
        len(plan.works),
        left_out,
    )
    for work in plan.works[:SHOWN_PARTS]:
        logger.info("  %s: %d row(s)", work.path, len(work.wanted))
    if plan.dropped:
        logger.info(
            "would remove the rows of %d part(s) that are gone: %s", len(plan.dropped), ", ".join(plan.dropped[:3])
        )
    rate = last_rate(plan.layout)
    if rate is not None:
        logger.info("at the %g posts/s of the last run, that takes %.1f minute(s)", rate, plan.rows / rate / 60)
    return {
        "dry_run": True,
        "posts": plan.rows,
        "tagged": 0,
        "rejected": 0,
        "parts": len(plan.works),
        "skipped_parts": plan.skipped,
        "gone_parts": len(plan.gone),
        "model_version": plan.request.model.version,
        "seconds": 0.0,
        "posts_per_second": 0.0,
        "unselected_parts": len(plan.unselected),
        "files": plan.source.archive.tally.to_json(),
        "estimated_seconds": None if rate is None else round(plan.rows / rate, 1),
    }
