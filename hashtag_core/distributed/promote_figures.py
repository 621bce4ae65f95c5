"""What the gates rest on, measured: duels of two models on the same posts, calibration, speed, golden outputs, floors."""

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hashtag_core.config import EncodersSection, GatesSection, ModelSection, Recipe
from hashtag_core.data.dataset import Dataset, Split
from hashtag_core.data.feature_cache import FeatureCache, cache_root
from hashtag_core.data.model_files import check_model_files
from hashtag_core.distributed.evaluate import evaluate_model
from hashtag_core.distributed.features import ensure_features
from hashtag_core.distributed.place import build_folder, received_model, results_of, sent_model, workers
from hashtag_core.distributed.session import connect
from hashtag_core.distributed.train import make_job
from hashtag_core.encoders import load_encoders
from hashtag_core.evaluation.calibration import calibration_error
from hashtag_core.evaluation.ground_truth import Truth, slices_of
from hashtag_core.evaluation.metrics import post_scores, with_f1
from hashtag_core.evaluation.report import main_k
from hashtag_core.evaluation.significance import Difference, paired_difference
from hashtag_core.evaluation.slices import tail_recall
from hashtag_core.judging.finish_training import FitFloor, model_info
from hashtag_core.judging.measure import Measured, MeasureTask, measured
from hashtag_core.judging.report import Evaluation
from hashtag_core.promotion.gates import FLOORS, Contender, Duel
from hashtag_core.tracking.mlflow_model import GOLDEN
from hashtag_core.tracking.registry import download_version_file, version_signature
from hashtag_core.training.plan import plan_training

logger = logging.getLogger(__name__)

JUDGED_SLICES = ("caption absent", "caption of 1-4 words", "without image", "history of 0 posts")
TAIL = "tail tags"


def duel(first: Evaluation, second: Evaluation, truth: Truth, recipe: Recipe) -> Duel:
    """First minus second by `gates.metric`, on all posts and on each slice that the gates look at."""
    gates, k = recipe.gates, main_k(recipe.evaluation.ks)
    judged = [one.ranked.judged for one in (first, second)]
    chosen = judged[0].selected(gates.protocol)
    users = [user for user, kept in zip(truth.users, chosen, strict=True) if kept]
    scores = [post_scores(one, recipe.evaluation.ks, gates.protocol) for one in judged]
    metric = gates.metric if gates.metric in with_f1(dict.fromkeys(scores[0], 0.0)) else f"f1_at_{k}"
    slices: dict[str, tuple[int, Difference]] = {}
    masks = slices_of(truth, first.ranked.has_image, recipe.history.order)
    for name in JUDGED_SLICES:
        mask = masks[name][chosen]
        if found := _difference(
            [{key: each[mask] for key, each in one.items()} for one in scores],
            _kept(users, mask),
            metric,
            gates,
            recipe,
        ):
            slices[name] = int(mask.sum()), found
    counts = truth.dataset.vocabulary.counts
    recalls = [tail_recall(one, truth.tags, counts, k) for one in judged]
    mask = np.isfinite(recalls[0])
    tail_users = _kept(truth.users, mask)
    if found := _difference([{"recall": each[mask]} for each in recalls], tail_users, "recall", gates, recipe):
        slices[TAIL] = int(mask.sum()), found
    whole = _difference(scores, users, metric, gates, recipe) if metric == gates.metric else None
    return Duel(second.row["model"], whole, slices)


def contender(evaluation: Evaluation, recipe: Recipe, speed: float = 0.0, golden: float | None = None) -> Contender:
    """One side, from its evaluation."""
    row, gates = evaluation.row, recipe.gates
    k = main_k(recipe.evaluation.ks)
    return Contender(
        uri=row["model"],
        figures={"headline": row["metrics"], "papers": row["papers"], "floor": row["floor"]},
        trained_on=evaluation.trained_on,
        family=row["family"],
        calibration=calibration_error(evaluation.ranked.judged, evaluation.ranked.scores_NK, gates.protocol, k),
        posts_per_second=speed,
        encodes=bool(evaluation.encoders),
        signature=version_signature(row["model"]) if evaluation.model.tags is not None else None,
        golden=golden,
    )


def measure(evaluations: Sequence[Evaluation], truth: Truth, gates: GatesSection) -> Measured:
    """How fast the models are, side by side in one process, and how far the first one is from its golden outputs."""
    first = evaluations[0].model
    text = download_version_file(first.uri, GOLDEN) if first.tags is not None else None
    models = tuple((str(one.model.folder), check_model_files(one.model.folder).version) for one in evaluations)
    task = MeasureTask(
        models, truth.dataset, truth.split, gates.speed_posts, None if text is None else json.loads(text)
    )
    with workers(1, few=True) as (pool, _):
        sent = [sent_model(folder) if pool else [] for folder, _ in models]
        return next(found for _, found in results_of("measuring", [task], partial(_measurer, sent), pool))


def _measurer(sent: list[list[Any]]) -> Callable[[MeasureTask], Iterator[Measured]]:
    """Where it is measured."""

    def work(task: MeasureTask) -> Iterator[Measured]:
        yield measured(task, [received_model(one, *model) for one, model in zip(sent, task.models, strict=True)])

    return work


@contextmanager
def judged_floors(challenger: Evaluation, truth: Truth, recipe: Recipe) -> Iterator[list[Evaluation]]:
    """The floors that a first champion must beat, fitted on the dataset's train posts here and now, and judged.

    Those of the challenger's own family are left out: nothing beats itself. Their folders go with the block.
    """
    wanted = [name for name in FLOORS if name != challenger.row["family"]]
    with tempfile.TemporaryDirectory(prefix="hashtag-floors-") as folder:
        evaluations = []
        for name in wanted:
            logger.info("no champion yet: fitting %s, which the first one must beat", name)
            path = Path(folder, name)
            fit_floor(name, truth.dataset, challenger, path)
            evaluations.append(evaluate_model(str(path), truth, None, recipe))
            evaluations[-1].row["model"] = name
        yield evaluations


def fit_floor(family: str, dataset: Dataset, challenger: Evaluation, folder: Path) -> None:
    """Fit a closed-form family with its defaults, on the features that the challenger reads, into a model folder."""
    trained = json.loads((challenger.model.folder / "model.json").read_text(encoding="utf-8")).get("recipe", {})
    recipe = Recipe(
        model=ModelSection(family=family),
        encoders=EncodersSection(**{**trained.get("encoders", {}), "finetune": "none"}),
    )
    plan = plan_training(recipe, dataset.uri)
    encoders = load_encoders(recipe.encoders, plan.needs, "cpu")
    splits: tuple[Split, ...] = ("train", "validation")
    cache = encoders.open_cache(cache_root(dataset.uri, recipe.encoders))
    with connect() if _lacks_features(dataset, cache, splits) else nullcontext():
        cache = ensure_features(dataset, recipe.encoders, plan.needs, splits)
    job = make_job(plan, encoders, cache)
    info = model_info(plan, encoders.identity, "")
    with workers(1, few=True) as (pool, _):
        build_folder(f"fitting {family}", FitFloor(job, {**info, "name": family}), folder, pool)


def _lacks_features(dataset: Dataset, cache: FeatureCache, splits: Sequence[Split]) -> bool:
    return any(
        len(cache.missing(name, table[f"{kind.of}_key"].to_pylist()))
        for split in splits
        for table in (dataset.read(split, ["image_key", "caption_key"]) if cache.kinds else ())
        for name, kind in cache.kinds.items()
    )


def _difference(
    scores: Sequence[dict[str, np.ndarray]],
    users: Sequence[str | None],
    metric: str,
    gates: GatesSection,
    recipe: Recipe,
) -> Difference | None:
    found = paired_difference(scores[0], scores[1], users, gates.bootstrap_samples, recipe.evaluation.seed)
    return found.get(metric)


def _kept(users: Sequence[str | None], mask: np.ndarray) -> list[str | None]:
    return [user for user, kept in zip(users, mask, strict=True) if kept]
