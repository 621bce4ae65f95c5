"""The commands of jobs/tag.py that tag nothing: `verify`, `forget`, `migrate`."""

import argparse
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hashtag_core.errors import HashtagError, IntegrityError
from jobs.common import JobParser, add_common_arguments

if TYPE_CHECKING:
    from hashtag_core.output.forget_users.forget_list import ForgetList

logger = logging.getLogger("hashtag_core.jobs")

Work = Callable[[argparse.Namespace], Mapping[str, Any]]


def verify_parser(sample_out: str) -> JobParser:
    """The flags of `verify`."""
    parser = JobParser(
        prog="tag verify",
        description="Re-read an output and prove it whole; exit code 1 if anything is wrong with it.\n"
        "Do it when no run is at work. Nothing is changed.",
    )
    parser.add_argument(
        "--out", default=sample_out, metavar="URI", help="the tagged output (default: that of the sample)"
    )
    parser.add_argument("--archive", metavar="URI", help="look for every post of this archive as well")
    parser.add_argument(
        "--keep-history",
        nargs="?",
        const=1.0,
        type=float,
        metavar="HOURS",
        help="files that no snapshot names any more are kept on purpose, and are no fault",
    )
    add_common_arguments(parser)
    return parser


def _verify(arguments: argparse.Namespace) -> Mapping[str, object]:
    from hashtag_core.output.verify import SHOWN_PROBLEMS, verify_output

    found = verify_output(arguments.out, arguments.archive, keeps_history=arguments.keep_history is not None)
    for problem in found.problems[:SHOWN_PROBLEMS]:
        logger.error("%s", problem)
    summary = {"verified": not found.problems, **asdict(found), "problems": len(found.problems)}
    if found.problems:
        error = IntegrityError(f"{len(found.problems)} fault(s) in the output: {found.problems[0]}")
        error.summary = {**summary, "found": found.problems[:SHOWN_PROBLEMS]}  # type: ignore[attr-defined]
        raise error
    return summary


def forget_parser(sample_out: str) -> JobParser:
    """The flags of `forget`."""
    parser = JobParser(
        prog="tag forget",
        description="Delete users' posts, or posts by their ids, from an output, of all models and versions, older snapshots\n"
        "included, and prove it; no later run tags them again. Killed, the same command goes on. Archives are not changed.",
    )
    parser.add_argument("--out", metavar="URI", help="the tagged output")
    parser.add_argument("--users", metavar="FILE", help="ids of users, one a line")
    parser.add_argument("--posts", metavar="FILE", help="ids of posts, one a line")
    parser.add_argument(
        "--archive",
        metavar="URI",
        help="where to look up whose posts are which, if not in the archives that were tagged",
    )
    for flag, what in (
        ("--dataset", "datasets of jobs/prepare.py: their rows go too, and models that were trained on them are told"),
        ("--features", "caches of features: what was encoded of posts of those datasets, and of no other post in them"),
        ("--report", "reports of jobs/evaluate.py and jobs/leaderboard.py: rows of their ranked lists"),
        ("--model-folder", "model folders: whether they keep vectors of the posts is told; nothing in them is changed"),
    ):
        parser.add_argument(flag, nargs="+", default=[], metavar="URI", help=what)
    add_common_arguments(parser)
    return parser


def _forget(arguments: argparse.Namespace) -> Mapping[str, object]:
    from hashtag_core.output.forget_users.delete import forget
    from hashtag_core.output.forget_users.forget_list import ForgetList, read_names
    from hashtag_core.output.layout import absolute_output

    if arguments.out is None:
        forget_parser("").error("--out is missing: the tagged output to change")
    if arguments.users is None and arguments.posts is None:
        forget_parser("").error("--users or --posts is missing: a file of ids, one a line")
    users = set() if arguments.users is None else read_names(arguments.users, "ids of users")
    posts = set() if arguments.posts is None else read_names(arguments.posts, "ids of posts")
    try:
        summary, error = asdict(forget(arguments.out, users, posts, arguments.archive, dry_run=arguments.dry_run)), None
    except IntegrityError as unproven:
        summary, error = dict(unproven.summary), unproven  # type: ignore[attr-defined]
    known = ForgetList.load(absolute_output(arguments.out)) or ForgetList.new()
    summary |= _forget_training(arguments, known.grown(users, posts) if arguments.dry_run else known)
    if error is not None:
        error.summary = summary  # type: ignore[attr-defined]
        raise error
    return summary


def _forget_training(arguments: argparse.Namespace, forgotten: "ForgetList") -> Mapping[str, object]:
    """What was made for training of the posts; nothing where nothing of it is named."""
    from hashtag_core.output.forget_users.training_data import check_model, forget_training
    from hashtag_core.tracking.trained_on import versions_trained_on

    if not (arguments.dataset or arguments.report or arguments.model_folder):
        return {}
    result, hashes = forget_training(
        forgotten, arguments.dataset, arguments.features, arguments.report, dry_run=arguments.dry_run
    )
    for folder in arguments.model_folder:
        trained, keeps = check_model(folder, hashes)
        result.trained_on += [folder] if trained else []
        result.keep_vectors += [folder] if keeps and (trained or not arguments.dataset) else []
    try:
        result.trained_on += versions_trained_on(hashes) if hashes else []
    except HashtagError as error:
        logger.warning("which registered models were trained on the posts is not known: %s", error)
    for model in result.trained_on:
        logger.warning("%s was trained on posts that are forgotten: retire it, or train anew", model)
    for model in result.keep_vectors:
        logger.warning("%s keeps the vectors and tags of its train posts: remove it, or train anew", model)
    return asdict(result)


def migrate_parser(sample_out: str) -> JobParser:
    """The flags of `migrate`."""
    parser = JobParser(
        prog="tag migrate",
        description="Take an output from before the Delta table over, of all models and versions; nothing is tagged again.\n"
        "Killed, the same command goes on. Between its commits and its end a glob gives rows twice.",
    )
    parser.add_argument("--out", default=sample_out, metavar="URI", help="the old output (default: that of the sample)")
    parser.add_argument(
        "--archive",
        metavar="URI",
        help="where its parts are, if not in the archive that was tagged: users, dates and content of posts are looked up there",
    )
    add_common_arguments(parser)
    return parser


def _migrate(arguments: argparse.Namespace) -> Mapping[str, object]:
    from hashtag_core.output.migrate import migrate

    return asdict(migrate(arguments.out, arguments.archive, dry_run=arguments.dry_run))


COMMANDS: dict[str, tuple[Callable[[str], JobParser], Work]] = {
    "verify": (verify_parser, _verify),
    "forget": (forget_parser, _forget),
    "migrate": (migrate_parser, _migrate),
}
"""Name -> the parser, for an output that is taken where none is named, and the work."""
