"""Settings of one recipe, tried out: dataset + recipe with a [search] -> the best recipe, on the validation split alone.

    python jobs/tune.py --recipe FILE --dataset URI [--trials N] [--at-once N] [--out FILE]

The first trial is the recipe as it is written. MLflow has a run for the whole, and one a trial below it. FILE (default: tuned.toml) is a
recipe that jobs/train.py takes.
"""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hashtag_core.errors import UsageError
from jobs.common import JobParser, add_common_arguments, recipe_of, run
from jobs.prepare import SAMPLE_DATASET

logger = logging.getLogger("hashtag_core.jobs")

TRIALS = 12


def build_parser() -> JobParser:
    """The flags of this job."""
    parser = JobParser(prog="tune", description=__doc__)
    parser.add_argument("--dataset", metavar="URI", help="what jobs/prepare.py wrote (default: the sample archive's)")
    parser.add_argument("--trials", type=int, metavar="N", default=TRIALS, help=f"settings to try (default: {TRIALS})")
    parser.add_argument(
        "--at-once", type=int, metavar="N", help="trials side by side (default: as many as there is room for)"
    )
    parser.add_argument(
        "--out", metavar="FILE", default="tuned.toml", help="where the best recipe goes (default: tuned.toml)"
    )
    add_common_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; its exit code."""
    return run(build_parser(), _tune, argv)


def _tune(arguments: argparse.Namespace) -> Mapping[str, object]:
    for flag, value in (("--trials", arguments.trials), ("--at-once", arguments.at_once)):
        if value is not None and value < 1:
            raise UsageError(f"{flag} {value}: expected 1 or more")
    recipe = recipe_of(arguments)
    dataset = arguments.dataset or str(SAMPLE_DATASET)
    from hashtag_core.leaderboard.tuning import plan_tuning  # torch: seconds to import

    plan = plan_tuning(recipe, dataset)
    if arguments.dry_run:
        return {
            "dry_run": True,
            "family": recipe.model.family,
            "dataset": plan.dataset.uri,
            "trials": arguments.trials,
            "search": recipe.model_dump(mode="json")["search"],
            "out": arguments.out,
        }
    from hashtag_core.distributed.session import connect
    from hashtag_core.distributed.tune import tune
    from hashtag_core.tracking.mlflow_import import import_meanwhile

    import_meanwhile()
    with connect():
        summary = tune(plan, arguments.trials, arguments.out, arguments.at_once)
    logger.info("train it:     python jobs/train.py --dataset %s --recipe %s", dataset, summary.recipe)
    return dict(vars(summary))


if __name__ == "__main__":
    sys.exit(main())
