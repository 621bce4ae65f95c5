"""Every family on one archive: prepares, encodes once, trains each small recipe, evaluates, writes one report.

    python jobs/leaderboard.py [--archive URI] [--name NAME] [--out DIR] [--split by_user] [--families a,b]
                               [--recipes FILE ...] [--learning-curve A,B] [--pairs FILE] [--publish DIR]
                               [--seeds N] [--trials N] [--folds N] [--history-posts N] [--control SYSTEM]

With no argument the sample archive is taken. What is done is kept in DIR, so a run can be stopped and started again; a
family that fails is reported and the others go on. `--recipe` and `--set` say how the archive is prepared and judged;
`--set` holds for the recipes of all families too.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hashtag_core import storage
from jobs.common import JobParser, add_common_arguments, recipe_of, run
from jobs.prepare import SAMPLE_ARCHIVE

RECIPES = ROOT / "jobs" / "recipes"
PAIRS = ROOT / "jobs" / "leaderboard.toml"
OUT = Path("leaderboard")
HISTORY_POSTS = 50
"""A user's posts that all families see alike: who sees more of them is not the better for it."""


def build_parser() -> JobParser:
    """The flags of this job."""
    parser = JobParser(prog="leaderboard", description=__doc__)
    parser.add_argument("--archive", metavar="URI", help="folder of parts (default: the sample archive)")
    parser.add_argument("--name", metavar="NAME", help="what the report is called (default: the archive's folder)")
    parser.add_argument("--out", metavar="DIR", help="where everything goes (default: ./leaderboard/NAME)")
    parser.add_argument("--split", choices=["by_user", "by_time", "random"], help="the same as --set split.kind=...")
    parser.add_argument("--families", metavar="A,B", help="these families alone (default: all)")
    parser.add_argument(
        "--recipes", metavar="FILE", nargs="+", default=[], help="more systems, each a recipe of any family"
    )
    parser.add_argument(
        "--pairs",
        metavar="FILE",
        default=str(PAIRS),
        help="TOML of the pairs of systems whose difference is reported (default: jobs/leaderboard.toml)",
    )
    parser.add_argument(
        "--learning-curve", metavar="A,B", default="", help="these systems from a quarter and half of the posts too"
    )
    parser.add_argument("--seeds", metavar="N", type=int, default=1, help="train each system with N seeds (default: 1)")
    parser.add_argument(
        "--trials",
        metavar="N",
        type=int,
        default=0,
        help="settings of each recipe's [search] that are tried out on the validation split, as many for each system, the recipe's own "
        "first (default: 0, the recipes as they are)",
    )
    parser.add_argument(
        "--folds",
        metavar="N",
        type=int,
        default=0,
        help="for a small archive: N splits by groups (users), each group in the test split of one, figures over all of them "
        "(default: 0, one split)",
    )
    parser.add_argument(
        "--history-posts",
        metavar="N",
        type=int,
        default=HISTORY_POSTS,
        help=f"posts of a user that every family reads that reads any; 0: as its recipe says (default: {HISTORY_POSTS})",
    )
    parser.add_argument(
        "--control",
        metavar="SYSTEM",
        help="the system that is to be compared with each other one, named before the board is made: its p-values are corrected for "
        "these comparisons alone (default: the first one is shown, corrected for every two systems)",
    )
    parser.add_argument("--publish", metavar="DIR", help="copy report.md, report.json and the pictures there too")
    add_common_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; its exit code."""
    return run(build_parser(), lambda arguments: _leaderboard(arguments, sys.argv[1:] if argv is None else argv), argv)


def _leaderboard(arguments: argparse.Namespace, argv: Sequence[str]) -> Mapping[str, object]:
    from hashtag_core.leaderboard.compare import with_control
    from hashtag_core.leaderboard.plan import describe_leaderboard, family_recipes, plan_leaderboard

    if arguments.split:
        arguments.overrides.append(f"split.kind={arguments.split!r}")
    recipe = recipe_of(arguments)
    archive = arguments.archive or str(SAMPLE_ARCHIVE)
    name = arguments.name or PurePosixPath(archive.rstrip("/")).name
    families = None if arguments.families is None else [part for part in arguments.families.split(",") if part]
    plan = plan_leaderboard(
        name,
        archive,
        arguments.out or storage.join(str(OUT), name),
        recipe,
        [*family_recipes(RECIPES, families), *map(Path, arguments.recipes)],
        arguments.overrides,
        arguments.pairs,
        arguments.publish,
        shlex.join(["python", "jobs/leaderboard.py", *argv]),
        [part for part in arguments.learning_curve.split(",") if part],
        arguments.seeds,
        arguments.history_posts or None,
        arguments.trials,
        arguments.folds,
    )
    plan = with_control(plan, arguments.control)
    if arguments.dry_run:
        return describe_leaderboard(plan)
    from hashtag_core.distributed.leaderboard import run_leaderboard  # Ray: seconds to import

    return run_leaderboard(plan)


if __name__ == "__main__":
    sys.exit(main())
