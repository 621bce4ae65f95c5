"""Judge models on a split of a dataset, through the `Recommender` that tagging uses.

    truth of the split, once -> for each model: features (cached, else encoded) -> ranked lists -> metrics -> report, MLflow

Posts are read and ranked by the workers of the cluster of `RAY_ADDRESS`, a chunk at a time (`judging.rank_split`); what stays here is
a few numbers a post. Without a cluster they are ranked here, and Ray is started only where features are missing from the cache.

The report folder: `ranked/<model>.parquet` (every post's list, scores and hits), `leaderboard.md`, `report.html` (for people:
figures, curves, a gallery of posts), `leaderboard.json` (written last).
"""

import logging
import os
import re
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Any

from rich.console import Console

from hashtag_core import storage
from hashtag_core.config import Recipe
from hashtag_core.data.dataset import SPLITS, Dataset, Split
from hashtag_core.data.feature_cache import FeatureCache, cache_root
from hashtag_core.distributed.features import ensure_features
from hashtag_core.distributed.place import received_model, results_of, sent_model, workers
from hashtag_core.distributed.session import connect, joined
from hashtag_core.evaluation.gallery import shown_rows
from hashtag_core.evaluation.ground_truth import Truth, read_truths, write_ranked
from hashtag_core.evaluation.report import leaderboard_markdown, leaderboard_table
from hashtag_core.evaluation.report_record import ThresholdedRecord
from hashtag_core.evaluation.thresholds import choose_threshold, threshold_metrics
from hashtag_core.judging.attention import may_look
from hashtag_core.judging.check import check_evaluation
from hashtag_core.judging.log_evaluation import log_evaluation
from hashtag_core.judging.page import evaluation_page
from hashtag_core.judging.rank_split import RankSplit, RankWork, rank_tasks
from hashtag_core.judging.ranked_split import RankedSplit, model_record
from hashtag_core.judging.report import EvaluateSummary, Evaluation, report_of, summary_of
from hashtag_core.progress_bar import ProgressBar
from hashtag_core.recommend.described import DescribedModel, describe_model
from hashtag_core.tracking.registry import ResolvedModel, resolve_model

logger = logging.getLogger(__name__)

NARROW = 80
"""Width of what is printed where there is no terminal."""

MOST_LOGGED_CHARACTERS = 8_000_000
"""Size of `report.html` up to which every model's run in MLflow gets a copy."""

ENCODED_IN_PLACE = 256
"""Posts without cached features that are encoded by who ranks them."""

IN_PLACE_POSTS = 20_000
"""Posts of all splits that are ranked in this process where its machine is all of the cluster: actors take as long to start."""


def evaluate(dataset_uri: str, models: Sequence[str], report_uri: str, recipe: Recipe) -> EvaluateSummary:
    """Judge the models, write the report, log each to MLflow; returns `{"models": [...], "report": report_uri}`.

    Every model's row has `model`, `metrics` (protocol headline), `papers` and `floor`. Raises UsageError before anything
    is computed, IntegrityError for a broken model, StorageError where the report or MLflow cannot be written.
    """
    dataset, uris = check_evaluation(dataset_uri, models, recipe)
    console = Console(stderr=True, width=None if sys.stderr.isatty() else NARROW)
    evaluations = []
    used: set[str] = set()
    truth, validation = read_truths(dataset, recipe)
    with joined():
        for uri in uris:
            evaluation = evaluate_model(uri, truth, validation, recipe)
            evaluations.append(evaluation)
            name = _file_name(evaluation.model, used)
            write_ranked(storage.join(report_uri, "ranked", f"{name}.parquet"), evaluation.ranked, truth)
    report = report_of(evaluations, truth, recipe)
    markdown = leaderboard_markdown(report)
    by_uri = {evaluation.row["model"]: (evaluation.ranked, evaluation.looks) for evaluation in evaluations}
    page = evaluation_page(report, by_uri, truth, recipe)
    for evaluation in evaluations:
        texts = {"leaderboard.md": markdown, "report.html": page}
        if len(page) > MOST_LOGGED_CHARACTERS and evaluation is not evaluations[0]:
            del texts["report.html"]  # one copy of a large page is enough
        log_evaluation(evaluation, truth, recipe, texts)
    storage.write_bytes(storage.join(report_uri, "leaderboard.md"), markdown.encode())
    storage.write_bytes(storage.join(report_uri, "report.html"), page.encode("utf-8", "replace"))
    storage.write_json(storage.join(report_uri, "leaderboard.json"), report)
    console.print(leaderboard_table(report, console.width))
    logger.info("figures, curves and posts to look at: %s", storage.join(report_uri, "report.html"))
    return {"models": [summary_of(evaluation.row) for evaluation in evaluations], "report": report_uri}


def evaluate_model(model: str, truth: Truth, validation: Truth | None, recipe: Recipe) -> Evaluation:
    """Every figure of one model on the split of `truth`."""
    started = time.monotonic()
    dataset = truth.dataset
    resolved = resolve_model(model, patient=True)  # it was there when the models were looked up
    described = describe_model(resolved.folder, resolved.uri)
    truths = [truth, *([validation] if validation is not None else [])]
    splits = _rank(resolved, described, truths, _features(dataset, described, [one.split for one in truths]), recipe)
    ranked = splits[0].ranked
    thresholded: ThresholdedRecord = {}
    if validation is not None:
        trial = splits[1].ranked
        threshold = choose_threshold(trial.judged, trial.scores_NK, "headline")
        thresholded = threshold_metrics(ranked.judged, ranked.scores_NK, threshold, "headline").as_record("headline")
    row = model_record(splits[0], ranked, resolved, described, thresholded, recipe)
    if row["trained_on"] != dataset.info.content_hash:
        logger.warning(
            "%s was trained on dataset %s, not on this one (%s): posts of this split may be among those it learned from",
            resolved.uri,
            (row["trained_on"] or "unknown")[:12],
            dataset.info.content_hash[:12],
        )
    row["seconds"] = round(time.monotonic() - started, 2)
    return Evaluation(resolved, row, ranked, row["trained_on"], described.encoders.identity, splits[0].looks)


def _features(dataset: Dataset, model: DescribedModel, splits: Sequence[Split]) -> FeatureCache | None:
    """The cache of this model's encoders; None for a model that needs no features.

    Where much is missing, Ray encodes it into the cache first; a little is left to who ranks, which is done before
    Ray has started. What is read of histories is in the cache for all posts that may stand in one.
    """
    section, rule = model.encoders.section, model.history
    cache = model.encoders.open_cache(cache_root(dataset.uri, section))
    few = ENCODED_IN_PLACE
    if rule is not None and rule.reads:
        splits, few = SPLITS[: max(SPLITS.index(split) for split in splits) + 1], 0
    missing = 0
    for table in (table for split in splits for table in dataset.read(split, ["image_key", "caption_key"])):
        missing += max(
            (len(cache.missing(name, table[f"{kind.of}_key"].to_pylist())) for name, kind in cache.kinds.items()),
            default=0,
        )
        if missing > few:
            with connect():
                return ensure_features(dataset, section, model.family.needs(model.options), splits)
    return cache if cache.kinds else None


def _rank(
    resolved: ResolvedModel,
    model: DescribedModel,
    truths: Sequence[Truth],
    cache: FeatureCache | None,
    recipe: Recipe,
) -> list[RankedSplit]:
    """The first tags of every post of each split, in the ids of the truths; all pairs, and looks, of the first split alone."""
    settings, posts = recipe.evaluation, sum(len(truth.tags) for truth in truths)
    looks: Sequence[int] = ()
    if settings.gallery_posts and may_look(model.folder):
        looks = shown_rows(len(truths[0].tags), settings.gallery_posts)
    rows, dataset = settings.batch_rows, truths[0].dataset
    tasks = rank_tasks(dataset, truths[0].split, rows, looks=looks)
    tasks += [task for truth in truths[1:] for task in rank_tasks(dataset, truth.split, rows, pairs=False)]
    found = [RankedSplit(truth, model.vocabulary.tags, max(settings.ks)) for truth in truths]
    of_split = {truth.split: one for truth, one in zip(truths, found, strict=True)}
    few = posts <= IN_PLACE_POSTS or not os.environ.get("RAY_ADDRESS")
    with workers(len(tasks), few) as (pool, threads):
        work = RankWork(
            dataset=dataset,
            cache=cache,
            model_folder=str(model.folder),
            model_version=model.version,
            name=resolved.name,
            version=resolved.version,
            diversity=recipe.recommend.diversity,
            top_k=max(settings.ks),
            batch_rows=rows,
            threads=threads,
        )
        make = partial(_ranker, work, sent_model(model.folder) if pool else [])
        with (
            ProgressBar(posts, f"evaluating {resolved.uri}") as progress,
            closing(results_of(f"evaluating {resolved.uri}", tasks, make, pool)) as results,
        ):
            for task, chunk in results:
                of_split[task.split].take(chunk)
                progress.add(task.end - task.begin)
    return found


def _ranker(work: RankWork, model_files: list[Any]) -> RankSplit:
    """Where the ranking is done. `model_files`: of `sent_model`."""
    return RankSplit(work, received_model(model_files, work.model_folder, work.model_version))


def _file_name(model: ResolvedModel, used: set[str]) -> str:
    name = re.sub(r"[^\w.=-]+", "_", f"{model.name}-{model.version}")
    while name in used:
        name += "_"
    used.add(name)
    return name
