"""Archive -> dataset: clean posts, vocabulary, splits.

    python jobs/prepare.py --archive URI --dataset URI [--format posts] [--test-archive URI] [--recipe FILE]
    python jobs/prepare.py --archive URI --format csv --convert OUT     # the same posts as Parquet parts

With no argument the sample archive becomes ./demo/dataset. A second run with the same archive and recipe changes nothing.
"""

import argparse
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hashtag_core.config import Recipe
from hashtag_core.preparation.first_look import look_at_first
from hashtag_core.preparation.plan import PreparePlan, plan_prepare
from hashtag_core.preparation.report import files_of
from jobs.archive_flags import add_archive_flags, add_missing_images_flag, recipe_with_archive
from jobs.common import JobParser, add_common_arguments, run

logger = logging.getLogger("hashtag_core.jobs")

SAMPLE_ARCHIVE = ROOT / "jobs" / "sample"
SAMPLE_DATASET = Path("demo") / "dataset"


def build_parser() -> JobParser:
    """The flags of this job."""
    parser = JobParser(prog="prepare", description=__doc__)
    parser.add_argument(
        "--archive", metavar="URI", help="folder of parts, local or s3:// (default: the sample archive)"
    )
    parser.add_argument(
        "--dataset", metavar="URI", help="folder to write (default: ./demo/dataset, for the sample only)"
    )
    add_archive_flags(parser)
    add_missing_images_flag(parser)
    parser.add_argument(
        "--test-archive", metavar="URI", help="archive whose every post is test; the other gives train and validation"
    )
    parser.add_argument(
        "--convert",
        metavar="OUT",
        help="write the archive as Parquet parts in the POST schema to this folder, and make no dataset",
    )
    add_common_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; its exit code."""
    return run(build_parser(), _prepare, argv)


def _prepare(arguments: argparse.Namespace) -> Mapping[str, object]:
    recipe = recipe_with_archive(arguments)
    if arguments.convert is not None:
        return _convert(arguments, recipe)
    archive, dataset = _places(arguments)
    plan = plan_prepare(recipe, archive, dataset, arguments.test_archive)
    if arguments.dry_run:
        return _dry_run(plan, recipe)
    began = time.monotonic()
    if plan.finished is not None and plan.is_done:
        logger.info("%s is there already, of this archive and this recipe: nothing to do", dataset)
        info = plan.finished.info
    else:
        from hashtag_core.distributed.prepare import prepare  # Ray, which takes seconds to import

        info = prepare(plan)
    return {
        "dataset": dataset,
        "posts": info.posts,
        "vocabulary": info.vocabulary,
        "rejected": info.rejected,
        "left_out": info.left_out,
        "rows": info.rows,
        "pictures": info.pictures,
        "captions": info.captions,
        "pictures_missing": info.pictures_missing,
        "picture_hosts": {host: counts.model_dump() for host, counts in info.picture_hosts.items()},
        "pictures_unreadable": info.pictures_unreadable,
        "files": info.archive_files.model_dump() if info.archive_files else None,
        "content_hash": info.content_hash,
        "unchanged": plan.finished is not None,
        "seconds": round(time.monotonic() - began, 1),
    }


def _convert(arguments: argparse.Namespace, recipe: Recipe) -> Mapping[str, object]:
    if arguments.dataset is not None or arguments.test_archive is not None:
        build_parser().error("--convert writes posts and no dataset: leave --dataset and --test-archive out")
    from hashtag_core.preparation.convert import convert, plan_conversion

    plan = plan_conversion(arguments.archive or str(SAMPLE_ARCHIVE), arguments.convert, recipe)
    return plan.described() if arguments.dry_run else convert(plan).model_dump()


def _places(arguments: argparse.Namespace) -> tuple[str, str]:
    if arguments.archive is None and arguments.dataset is None:
        logger.info("no --archive and no --dataset: the sample archive %s into %s", SAMPLE_ARCHIVE, SAMPLE_DATASET)
    if arguments.dataset is None and arguments.archive is not None:
        build_parser().error("--archive needs --dataset, the folder to write")
    return arguments.archive or str(SAMPLE_ARCHIVE), arguments.dataset or str(SAMPLE_DATASET)


def _dry_run(plan: PreparePlan, recipe: Recipe) -> Mapping[str, object]:
    megabytes = sum(part.size for part in plan.parts) / 1e6
    state = "is there already" if plan.is_done else f"would be written, split {recipe.split.kind}"
    for opened in plan.archives:
        opened.tell()
        look = look_at_first(opened)
        if look is not None:
            look.tell(opened.uri)
    logger.info("%d part(s) of %.1f MB; %s %s", len(plan.parts), megabytes, plan.dataset, state)
    return {
        "dataset": plan.dataset,
        "dry_run": True,
        "parts": len(plan.parts),
        "bytes": sum(part.size for part in plan.parts),
        "files": files_of(plan.archives).model_dump(),
        "unchanged": plan.is_done,
    }


if __name__ == "__main__":
    sys.exit(main())
