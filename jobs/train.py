"""Dataset + recipe -> checkpoints, an MLflow run, a model version.

    python jobs/train.py --recipe FILE --dataset URI [--workers N] [--resume RUN]

With no argument the sample recipe is trained on the sample archive, which is prepared into ./demo/dataset first.
`--resume` takes a run's name or its MLflow id; its own recipe and dataset are taken where none is named.
"""

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hashtag_core import storage
from hashtag_core.config import Recipe
from hashtag_core.errors import NotFoundError
from hashtag_core.preparation.plan import plan_prepare
from jobs.common import RECIPES, JobParser, add_common_arguments, recipe_of, run
from jobs.prepare import SAMPLE_ARCHIVE, SAMPLE_DATASET

if TYPE_CHECKING:
    from hashtag_core.training.plan import TrainPlan
    from hashtag_core.training.record import TrainSummary

logger = logging.getLogger("hashtag_core.jobs")

SHOWN = {"f1": "F1", "precision": "precision", "recall": "recall", "hit_rate": "hit rate"}
KEPT = {"posts", "mean_average_precision", "coverage"}
"""Figures of the summary beside those at a few K; MLflow and the model's card have them all."""

FEW_TAGS, FEW_POSTS = 5, 50

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


def _train(arguments: argparse.Namespace) -> Mapping[str, object]:
    if arguments.workers is not None:
        arguments.overrides.append(f"training.workers={arguments.workers}")
    recipe = _recipe(arguments)
    dataset = arguments.dataset
    if dataset is None and not arguments.resume:
        dataset = str(SAMPLE_DATASET)
        if arguments.recipe or arguments.overrides:
            logger.warning(
                "no --dataset: the SAMPLE archive is trained on, not your posts; --dataset URI names what jobs/prepare.py wrote"
            )
        if not storage.exists(storage.join(dataset, "dataset.json")):
            return _train_sample(arguments, recipe)
    from hashtag_core.training.plan import describe_training, plan_training  # torch and Ray: seconds to import

    plan = plan_training(recipe, dataset, arguments.resume)
    _warn(plan)
    if arguments.dry_run:
        return describe_training(plan)
    from hashtag_core.distributed.session import connect
    from hashtag_core.distributed.train import run_training
    from hashtag_core.tracking.mlflow_import import import_meanwhile

    import_meanwhile()
    with _small_one_named(arguments.recipe), connect():
        return _summary(run_training(plan), plan.dataset.uri)


def _warn(plan: "TrainPlan") -> None:
    """A word on what is allowed and hardly meant: more workers than cores, and data that nothing can be learned from."""
    cores, workers = os.cpu_count() or 1, plan.recipe.training.workers
    if workers > cores and not os.environ.get("RAY_ADDRESS") and not plan.fitted:
        logger.warning(
            "training.workers = %d on a machine of %d cores: they share them, and are slower than %d",
            workers,
            cores,
            cores,
        )
    info = plan.dataset.info
    if info.vocabulary < FEW_TAGS:
        logger.warning(
            "the vocabulary has %d hashtag(s): rarer ones are taken with `--set vocabulary.min_count=1` at jobs/prepare.py",
            info.vocabulary,
        )
    if info.posts.get("train", 0) < FEW_POSTS:
        logger.warning("%d posts to learn from: expect little", info.posts.get("train", 0))


@contextmanager
def _small_one_named(recipe: str | None) -> Iterator[None]:
    """What a recipe of a paper's sizes needs and is not here (weights): its small sister is named."""
    try:
        yield
    except NotFoundError as error:
        name = Path(recipe or "").stem
        if recipe is None or not (RECIPES / f"{name}_small.toml").is_file():
            raise
        raise NotFoundError(
            f"{error}. The recipe {name}_small needs no weights but those of the sample extra"
        ) from None


def _summary(summary: "TrainSummary", dataset: str) -> Mapping[str, object]:
    """The result in words on stderr, with what to do next; what stdout gets, with the figures that matter alone."""
    from hashtag_core.evaluation.report import main_k

    figures = summary.metrics
    ks = sorted({int(name.rpartition("_")[2]) for name in figures if name.startswith("f1_at_") and name[6:].isdigit()})
    if ks:
        k = main_k(ks)
        shown = "  ".join(f"{label} {figures[f'{name}_at_{k}']:.3f}" for name, label in SHOWN.items())
        logger.info("validation, %d posts, at K = %d (protocol headline):  %s", figures.get("posts", 0), k, shown)
    epochs = f", epoch {summary.best_epoch} of {summary.epochs} is the best" if summary.best_epoch else ""
    logger.info("%s in %.0f s%s", summary.model, summary.seconds, epochs)
    logger.info("see it:       python jobs/evaluate.py --dataset %s --model %s --report report", dataset, summary.model)
    logger.info("let it tag:   python jobs/promote.py --dataset %s --challenger %s", dataset, summary.model)
    logger.info("ask it now:   python jobs/recommend.py --model %s --caption TEXT photo.jpg", summary.model)
    wanted = {f"{name}_at_{k}" for name in (*SHOWN, "ndcg") for k in {1, 5, 10, *([main_k(ks)] if ks else [])}}
    kept = {name: value for name, value in figures.items() if name in wanted | KEPT}
    return {**vars(summary), "metrics": kept}


def _recipe(arguments: argparse.Namespace) -> Recipe | None:
    """The recipe that is asked for; None where a resumed run's own is to be taken."""
    if arguments.resume and not arguments.recipe and not arguments.overrides:
        return None
    return recipe_of(arguments, str(SAMPLE_RECIPE))


def _train_sample(arguments: argparse.Namespace, recipe: Recipe | None) -> Mapping[str, object]:
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
        return _summary(train(recipe, str(SAMPLE_DATASET)), str(SAMPLE_DATASET))


if __name__ == "__main__":
    sys.exit(main())
