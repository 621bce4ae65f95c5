"""Champion + archive -> Parquet of ranked hashtags.

    python jobs/tag.py --archive URI --out URI --model MODEL [--top-k 10] [--chunk-rows N]
    MODEL = models:/NAME/VERSION | models:/NAME@ALIAS | a model folder

With no argument the champion tags the sample archive into ./demo/tagged. Read the result with DuckDB:

    SELECT * FROM read_parquet('demo/tagged/model=*/version=*/**/part-*.parquet')

A second run tags only what is missing: new parts, changed parts, and what a killed run left. SIGTERM, Ctrl-C (once) and
--deadline end the chunks in hand, publish the parts that are whole and end with exit code 1; run again to go on.

    python jobs/tag.py --verify --out URI [--archive URI]      re-reads an output; exit code 1 if anything is wrong with it
    python jobs/tag.py --forget USERS_FILE --out URI           deletes the posts of users (ids, one a line), and proves it
    python jobs/tag.py --compact --out URI [--target-mb N]     merges the files of each part into files of about N MiB
    python jobs/tag.py --compact --by-day --out URI [--archive URI]   and puts them into folders by the day of created_at
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hashtag_core.distributed.forget_list import read_users
from hashtag_core.distributed.tag_by_day import partition
from hashtag_core.distributed.tag_compact import TARGET_BYTES, compact
from hashtag_core.distributed.tag_job import TagJob, last_rate, plan_tagging
from hashtag_core.distributed.tag_orders import parse_deadline
from hashtag_core.distributed.tag_report import report
from hashtag_core.distributed.tag_select import Selection, parse_since

from hashtag_core.distributed.tag import tag
from hashtag_core.distributed.tag_forget import forget
from hashtag_core.distributed.tag_verify import SHOWN_PROBLEMS, verify_output
from hashtag_core.errors import IntegrityError, NotFoundError
from hashtag_core.tracking.registry import ResolvedModel, resolve_model
from jobs.common import JobParser, add_common_arguments, recipe_of, run

logger = logging.getLogger("hashtag_core.jobs")

SAMPLE_ARCHIVE = ROOT / "jobs" / "sample"
SAMPLE_OUT = Path("demo") / "tagged"


def build_parser() -> JobParser:
    """The flags of this job."""
    parser = JobParser(prog="tag", description=__doc__)
    parser.add_argument("--archive", metavar="URI", help="folder of Parquet parts (default: the sample archive)")
    parser.add_argument("--out", metavar="URI", help="folder to write (default: ./demo/tagged, for the sample only)")
    parser.add_argument("--model", metavar="MODEL", help="what tags (default: the champion)")
    parser.add_argument("--top-k", metavar="K", help="hashtags a post; the same as --set tagging.top_k=K")
    parser.add_argument("--chunk-rows", metavar="N", help="rows a file; the same as --set tagging.chunk_rows=N")
    parser.add_argument(
        "--max-rejected",
        metavar="SHARE",
        help="stop with exit code 1 when more of the rows are rejected; the same as --set tagging.max_rejected=SHARE",
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        default=[],
        metavar="GLOB",
        help="do these parts alone, by their path in the archive (quote it; * matches slashes too)",
    )
    parser.add_argument(
        "--since",
        metavar="DATE",
        help="do the parts alone whose file was modified then or later, as 2026-01-31 (created_at of posts is not looked at)",
    )
    parser.add_argument(
        "--retag",
        action="store_true",
        help="tag what is tagged already again, all or what --parts and --since select; all of it may have other settings "
        "than before. --dry-run says what it costs; killed, the same command goes on",
    )
    parser.add_argument(
        "--deadline",
        metavar="WHEN",
        help="begin no chunk after it: minutes from now, HH:MM by the local clock, or 2026-01-31T06:00",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="tag nothing: re-read --out and prove it whole; with --archive, look for every one of its posts",
    )
    parser.add_argument(
        "--forget",
        metavar="USERS_FILE",
        help="tag nothing: delete these users' posts (ids, one a line) from --out, of all models, and tag none of them again; "
        "--archive: where to look up whose posts are which, if not in the archive that was tagged (it is not changed)",
    )
    parser.add_argument(
        "--compact", action="store_true", help="tag nothing: merge the many files of each part in --out"
    )
    parser.add_argument(
        "--by-day",
        action="store_true",
        help="with --compact: the files of each part into folders day=2026-01-31 by created_at (UTC; without one: hive's null); "
        "--archive: where to look that up, if not in the archive that was tagged. Parts that are tagged later are not by day "
        "before this is run again, and a glob over both needs hive_partitioning=false",
    )
    parser.add_argument("--target-mb", type=int, metavar="N", help="size of a merged file in MiB (default: 128)")
    add_common_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; its exit code."""
    return run(build_parser(), _tag, argv)


def _tag(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.verify + arguments.compact + (arguments.forget is not None) > 1:
        build_parser().error("--verify, --forget and --compact exclude each other")
    if arguments.target_mb is not None and not (arguments.compact and arguments.target_mb > 0):
        build_parser().error(f"--target-mb {arguments.target_mb}: a number of MiB above 0, and only with --compact")
    if arguments.by_day and not arguments.compact:
        build_parser().error("--by-day: only with --compact")
    if arguments.verify:
        return _verify(arguments)
    if arguments.compact:
        target = TARGET_BYTES if arguments.target_mb is None else arguments.target_mb << 20
        if arguments.by_day:
            return asdict(partition(_out(arguments), arguments.archive, target, dry_run=arguments.dry_run))
        return asdict(compact(_out(arguments), target, dry_run=arguments.dry_run))
    if arguments.forget is not None:
        return asdict(
            forget(_out(arguments), read_users(arguments.forget), arguments.archive, dry_run=arguments.dry_run)
        )
    for key in ("top_k", "chunk_rows", "max_rejected"):
        if getattr(arguments, key) is not None:
            arguments.overrides.append(f"tagging.{key}={getattr(arguments, key)}")
    recipe = recipe_of(arguments)
    deadline = None if arguments.deadline is None else parse_deadline(arguments.deadline, datetime.now(UTC))
    archive, out = _places(arguments)
    model = _model(arguments.model, recipe.tracking.model_name)
    since = None if arguments.since is None else parse_since(arguments.since)
    job = plan_tagging(recipe, archive, out, model, Selection(arguments.parts, since, arguments.retag))
    logger.info("%s %s tags %s into %s", model.name, model.version, archive, job.layout.tagged)
    if arguments.dry_run:
        return _dry_run(job)
    if job.is_done:
        done = len(job.plan.parts) - len(job.unselected)
        logger.info("nothing to do: %d part(s) are tagged already, %d not selected", done, len(job.unselected))
    summary = tag(job, deadline)
    if summary.run is not None and summary.tagged:
        report(job.layout.out, summary.run, recipe.tracking.experiment)
    return asdict(summary)


def _verify(arguments: argparse.Namespace) -> dict[str, Any]:
    found = verify_output(arguments.out or str(SAMPLE_OUT), arguments.archive)
    for problem in found.problems[:SHOWN_PROBLEMS]:
        logger.error("%s", problem)
    summary = {"verified": not found.problems, **asdict(found), "problems": len(found.problems)}
    if found.problems:
        error = IntegrityError(f"{len(found.problems)} fault(s) in the output: {found.problems[0]}")
        error.summary = {**summary, "found": found.problems[:SHOWN_PROBLEMS]}  # type: ignore[attr-defined]
        raise error
    return summary


def _out(arguments: argparse.Namespace) -> str:
    if arguments.out is None:
        build_parser().error("--out is missing: the tagged output to change")
    return str(arguments.out)


def _places(arguments: argparse.Namespace) -> tuple[str, str]:
    if arguments.archive is None and arguments.out is None:
        logger.info("no --archive and no --out: the sample archive %s into %s", SAMPLE_ARCHIVE, SAMPLE_OUT)
    if arguments.out is None and arguments.archive is not None:
        build_parser().error("--archive needs --out, the folder to write")
    return arguments.archive or str(SAMPLE_ARCHIVE), arguments.out or str(SAMPLE_OUT)


def _model(model: str | None, name: str) -> ResolvedModel:
    if model is not None:
        return resolve_model(model)
    try:
        return resolve_model(f"models:/{name}@champion")
    except NotFoundError as error:
        raise NotFoundError(
            f"{error}; no --model was given and there is no champion yet: run jobs/prepare.py, jobs/train.py and "
            "jobs/promote.py first (make demo runs them all), or name a --model"
        ) from None


def _dry_run(job: TagJob) -> dict[str, Any]:
    repeated = sum(len(part.left_out) for part in job.missing)
    logger.info(
        "would tag %d row(s) of %d part(s); %d row(s) or part(s) are left out by the plan",
        job.rows,
        len(job.missing),
        repeated,
    )
    for part in job.missing[:20]:
        logger.info("  %s: %d row(s)", part.path, part.rows)
    rate = last_rate(job.layout)
    if rate is not None:
        minutes = job.rows / rate / 60
        logger.info("at the %g posts/s of the last run, that takes %.1f minute(s)", rate, minutes)
    return {
        "dry_run": True,
        "posts": job.rows,
        "tagged": 0,
        "rejected": 0,
        "parts": len(job.missing),
        "skipped_parts": len(job.plan.parts) - len(job.missing) - len(job.unselected),
        "model_version": job.model.version,
        "seconds": 0.0,
        "posts_per_second": 0.0,
        "unselected_parts": len(job.unselected),
        "estimated_seconds": None if rate is None else round(job.rows / rate, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
