"""Dataset + recipe -> checkpoints, an MLflow run, a model version.

    python jobs/train.py --recipe FILE --dataset URI [--workers N] [--resume RUN]

With no argument the sample recipe is trained on the sample archive, which is prepared into ./demo/dataset first.
`--resume` takes a run's name or its MLflow id; its own recipe and dataset are taken where none is named.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hashtag_core import storage
from hashtag_core.config import Recipe
from hashtag_core.distributed.prepare_plan import plan_prepare
from jobs.common import JobParser, add_common_arguments, recipe_of, run
from jobs.prepare import SAMPLE_ARCHIVE, SAMPLE_DATASET

logger = logging.getLogger("hashtag_core.jobs")

SAMPLE_RECIPE = ROOT / "jobs" / "recipes" / "sample.toml"


def build_parser() -> JobParser:
    """The flags of this job."""
    parser = JobParser(prog="train", description=__doc__)
    parser.add_argument(
        "--dataset", metavar="URI", help="what jobs/prepare.py wrote (default: the sample archive, prepared)"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="training processes; the same as --set training.workers=N"
    )
    parser.add_argument("--resume", metavar="RUN", help="go on with this run (its name or its MLflow id)")
    add_common_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; its exit code."""
    return run(build_parser(), _train, argv)


def _train(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.workers is not None:
        arguments.overrides.append(f"training.workers={arguments.workers}")
    recipe = _recipe(arguments)
    dataset = arguments.dataset
    if dataset is None and not arguments.resume:
        dataset = str(SAMPLE_DATASET)
        if not storage.exists(storage.join(dataset, "dataset.json")):
            return _train_sample(arguments, recipe)
    from hashtag_core.distributed.train_plan import describe_training, plan_training  # torch and Ray: seconds to import

    plan = plan_training(recipe, dataset, arguments.resume)
    if arguments.dry_run:
        return describe_training(plan)
    from hashtag_core.distributed.session import connect
    from hashtag_core.distributed.train import train

    with connect():
        return vars(train(recipe, dataset, arguments.resume))


def _recipe(arguments: argparse.Namespace) -> Recipe | None:
    """The recipe that is asked for; None where a resumed run's own is to be taken."""
    if arguments.resume and not arguments.recipe and not arguments.overrides:
        return None
    return recipe_of(arguments, str(SAMPLE_RECIPE))


def _train_sample(arguments: argparse.Namespace, recipe: Recipe | None) -> dict[str, Any]:
    """Prepare the sample archive, then train on it."""
    recipe = recipe or Recipe()
    logger.info("no --dataset: the sample archive %s into %s", SAMPLE_ARCHIVE, SAMPLE_DATASET)
    preparation = plan_prepare(recipe, str(SAMPLE_ARCHIVE), str(SAMPLE_DATASET), None)
    if arguments.dry_run:
        return {
            "dry_run": True,
            "family": recipe.model.family,
            "dataset": str(SAMPLE_DATASET),
            "prepare": str(SAMPLE_ARCHIVE),
        }
    from hashtag_core.distributed.prepare import prepare
    from hashtag_core.distributed.session import connect
    from hashtag_core.distributed.train import train

    with connect():
        prepare(preparation)
        return vars(train(recipe, str(SAMPLE_DATASET)))


if __name__ == "__main__":
    sys.exit(main())
