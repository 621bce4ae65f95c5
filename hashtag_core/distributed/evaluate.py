"""Judge models on a split of a dataset, through the `Recommender` that tagging uses.

    truth of the split, once -> for each model: features (cached, else encoded) -> ranked lists -> metrics -> report, MLflow

Posts are read and ranked a batch at a time in this process; what stays is a few numbers a post. Ray is used where
features are missing from the cache, and started only then.

The report folder: `ranked/<model>.parquet` (every post's list, scores and hits), `leaderboard.md`, `report.html` (for people:
figures, curves, a gallery of posts), `leaderboard.json` (written last).
"""

import logging
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from hashtag_core import storage
from hashtag_core.config import Recipe
from hashtag_core.data.dataset import SPLITS, Dataset, Split
from hashtag_core.data.feature_cache import FeatureCache, cache_root
from hashtag_core.data.history_batch import open_history
from hashtag_core.data.hub_folder import SCHEME as HUB
from hashtag_core.distributed.features import ensure_features, tables_folder
from hashtag_core.distributed.session import connect
from hashtag_core.errors import ConfigError, NotFoundError
from hashtag_core.evaluation.ground_truth import Ranked, Truth, read_truths, slices_of, write_ranked
from hashtag_core.evaluation.metrics import (
    PROTOCOLS,
    Integers,
    Judged,
    bleu,
    index_metrics,
    judge,
)
from hashtag_core.evaluation.report import leaderboard_markdown, leaderboard_table, main_figures, main_k
from hashtag_core.evaluation.report_record import Figures, ModelRecord, ThresholdedRecord
from hashtag_core.evaluation.score_curves import PairCalibration
from hashtag_core.evaluation.significance import intervals
from hashtag_core.evaluation.slices import slice_metrics, tag_slices
from hashtag_core.evaluation.thresholds import choose_threshold, threshold_metrics
from hashtag_core.judging.page import evaluation_page, learning, score_figures
from hashtag_core.judging.predictions import TABLE, predictions
from hashtag_core.judging.report import EvaluateSummary, Evaluation, report_of, summary_of
from hashtag_core.progress_bar import ProgressBar
from hashtag_core.recommend.read_posts import READ
from hashtag_core.recommend.recommender import Recommender
from hashtag_core.tracking.registry import ResolvedModel, find_version, resolve_model, set_version_tags
from hashtag_core.tracking.runs import start_run, version_label
from hashtag_core.tracking.splits import log_split

logger = logging.getLogger(__name__)

DEFAULT_BLEU_K = 5
NARROW = 80
"""Width of what is printed where there is no terminal."""

MOST_LOGGED_CHARACTERS = 8_000_000
"""Size of `report.html` up to which every model's run in MLflow gets a copy."""

ENCODED_IN_PLACE = 256
"""Posts without cached features that are encoded by the evaluating process itself."""


def check_evaluation(dataset_uri: str, models: Sequence[str], recipe: Recipe) -> tuple[Dataset, list[str]]:
    """Open the dataset and look every model up, without downloading one or writing anything.

    Returns the models with aliases resolved, each once. Raises UsageError for what is not there or cannot be evaluated.
    """
    dataset = Dataset.open(dataset_uri)
    settings = recipe.evaluation
    if not settings.ks or min(settings.ks) < 1:
        raise ConfigError(f"evaluation.ks: expected places from 1 on, found {settings.ks}")
    if not dataset.info.posts.get(settings.split, 0):
        raise ConfigError(
            f"{dataset_uri}: its {settings.split} split has no posts (evaluation.split names another one)"
        )
    if not models:
        raise ConfigError("no model to evaluate")
    found = []
    for model in models:
        if model.startswith("models:"):
            name, version, _ = find_version(model)
            found.append(f"models:/{name}/{version}")
        elif model.startswith(HUB) or storage.exists(storage.join(model, "model.json")):
            found.append(model)
        else:
            raise NotFoundError(
                f"no model at {model} (MODEL is models:/NAME/VERSION, models:/NAME@ALIAS or a model folder)"
            )
    return dataset, list(dict.fromkeys(found))


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
    for uri in uris:
        evaluation = evaluate_model(uri, truth, validation, recipe)
        evaluations.append(evaluation)
        name = _file_name(evaluation.model, used)
        write_ranked(storage.join(report_uri, "ranked", f"{name}.parquet"), evaluation.ranked, truth)
    report = report_of(evaluations, truth, recipe)
    markdown = leaderboard_markdown(report)
    by_uri = {evaluation.row["model"]: (evaluation.ranked, evaluation.model.folder) for evaluation in evaluations}
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
    dataset, settings = truth.dataset, recipe.evaluation
    resolved = resolve_model(model, patient=True)  # it was there when the models were looked up
    diversity = recipe.recommend.diversity
    recommender = Recommender.load(
        str(resolved.folder), name=resolved.name, version=resolved.version, diversity=diversity
    )
    cache = _features(dataset, recommender, [truth.split, *([validation.split] if validation else [])])
    width = max(settings.ks)
    ranking = time.monotonic()
    pairs = PairCalibration()
    ranked = _rank(recommender, truth, cache, width, settings.batch_rows, resolved.uri, pairs)
    posts_per_second = len(truth.tags) / max(time.monotonic() - ranking - pairs.seconds, 1e-6)
    loaded, vocabulary, info = recommender.loaded, dataset.vocabulary, recommender.loaded.info
    shares = vocabulary.counts / max(vocabulary.posts, 1)
    figures = {
        protocol: index_metrics(ranked.judged, settings.ks, protocol, truth.users, shares) for protocol in PROTOCOLS
    }
    bleu_scores = _bleu(recommender, ranked.judged, truth, int(info.get("k") or DEFAULT_BLEU_K))
    figures["headline"] |= {name: value for name, value in bleu_scores.items() if name != "k"}
    slices, tags = _slices(ranked, truth, recipe)
    scores = score_figures(ranked, truth, main_k(settings.ks))
    thresholded: ThresholdedRecord = {}
    if validation is not None:
        trial = _rank(recommender, validation, cache, width, settings.batch_rows, f"{resolved.uri} (validation)")
        threshold = choose_threshold(trial.judged, trial.scores_NK, "headline")
        cut = threshold_metrics(ranked.judged, ranked.scores_NK, threshold, "headline")
        thresholded = cut.as_record("headline")
    trained_on = info.get("dataset", {}).get("content_hash")
    if trained_on != dataset.info.content_hash:
        logger.warning(
            "%s was trained on dataset %s, not on this one (%s): posts of this split may be among those it learned from",
            resolved.uri,
            (trained_on or "unknown")[:12],
            dataset.info.content_hash[:12],
        )
    row: ModelRecord = {
        "model": resolved.uri,
        "name": resolved.name,
        "version": resolved.version,
        "family": loaded.family,
        "options": loaded.options.model_dump(mode="json"),
        "k": info.get("k"),
        "diversity": diversity,
        "history": loaded.history.as_record() if loaded.history else None,
        "posts_per_second": round(posts_per_second, 1),
        "megabytes": sum(path.stat().st_size for path in Path(resolved.folder).iterdir()) / 1e6,
        "parameters": sum(tensor.numel() for tensor in loaded.model.state_dict().values()),
        "metrics": figures["headline"],
        "papers": figures["papers"],
        "floor": figures["floor"],
        "bleu": bleu_scores,
        "intervals": intervals(ranked.judged, truth.users, settings.ks, settings.bootstrap_samples, settings.seed),
        "slices": slices,
        "tags": tags,
        "thresholded": thresholded,
        **scores,
        "calibration_error": {"first": scores["calibration"]["error"], "all": pairs.error},
        "learning": learning(resolved),
        "statuses": dict(Counter(ranked.statuses)),
        "seconds": round(time.monotonic() - started, 2),
        "trained_on": trained_on,
    }
    return Evaluation(resolved, row, ranked, trained_on, recommender.encoders.identity)


def log_evaluation(evaluation: Evaluation, truth: Truth, recipe: Recipe, texts: Mapping[str, str]) -> str:
    """A run in MLflow, below the one that made the model, with the figures of all protocols, a table of what some posts were
    given and, on a registered version, a tag that leads to it.

    Returns the run's id.
    """
    model, row, split, dataset = evaluation.model, evaluation.row, truth.split, truth.dataset
    labels = {
        "kind": "evaluation",
        "model": model.uri,
        "model_name": model.name,
        "model_version": model.version,
        "family": row["family"],
        "dataset": dataset.uri,
        "dataset_hash": dataset.info.content_hash,
        "split": split,
    }
    title = f"evaluate {version_label(model.version)} on {split}, {model.name}"
    known = model.tags is not None  # from a server that was there when the judging began
    with start_run(recipe.tracking.experiment, title, tags=labels, parent=model.run_id, patient=known) as run:
        log_split(run, dataset, split)
        run.log_metrics(
            {f"main/{name}": value for name, value in main_figures(row["metrics"], recipe.evaluation.ks).items()}
        )
        for protocol, figures in (("headline", row["metrics"]), ("papers", row["papers"]), ("floor", row["floor"])):
            run.log_metrics({f"{split}_{protocol}.{metric}": value for metric, value in figures.items()})
        run.log_params({"evaluation": recipe.evaluation.model_dump(mode="json"), "encoders": evaluation.encoders})
        run.log_json(row, "evaluation.json")
        if recipe.evaluation.gallery_posts:
            run.log_table(predictions(evaluation.ranked, truth, recipe.evaluation.gallery_posts), TABLE)
        for name, text in texts.items():
            run.log_text(text, name)
    if known:
        f1 = f"f1_at_{main_k(recipe.evaluation.ks)}"
        short = dataset.info.content_hash[:12]
        tag = f"run {run.run_id}: {f1} headline {row['metrics'][f1]:.4f}, papers {row['papers'][f1]:.4f}, floor {row['floor'][f1]:.4f}"
        set_version_tags(model.name, model.version, {f"evaluation.{split}.{short}": tag})
    return run.run_id


def _features(dataset: Dataset, recommender: Recommender, splits: Sequence[Split]) -> FeatureCache | None:
    """The cache of this model's encoders; None for a model that needs no features.

    Where much is missing, Ray encodes it into the cache first; a little is left to the recommender, which is done before
    Ray has started. What is read of histories is in the cache for all posts that may stand in one.
    """
    section, rule = recommender.encoders.section, recommender.loaded.history
    cache = recommender.encoders.open_cache(cache_root(dataset.uri, section))
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
                return ensure_features(dataset, section, recommender.needs, splits)
    return cache if cache.kinds else None


def _rank(
    recommender: Recommender,
    truth: Truth,
    cache: FeatureCache | None,
    width: int,
    batch_rows: int,
    label: str,
    pairs: PairCalibration | None = None,
) -> Ranked:
    """The first `width` tags of every post, in the ids of `truth`. `pairs` sees the scores of all tags."""
    ids_V = np.array([truth.ids.setdefault(tag, len(truth.ids)) for tag in recommender.tags], dtype=np.int64)
    lists: list[Integers] = []
    scores: list[np.ndarray] = []
    has_image: list[bool] = []
    statuses: list[str] = []
    rule, vocabulary = recommender.loaded.history, recommender.loaded.vocabulary
    past = open_history(truth.dataset, truth.split, rule, cache, vocabulary, tables_folder()) if rule else None
    observe = None if pairs is None else _observer(pairs, ids_V, truth.tags)
    with ProgressBar(len(truth.tags), f"evaluating {label}") as progress:
        for table in truth.dataset.read(truth.split, READ.names, batch_rows):
            opened = recommender.open_posts(table, cached=cache)
            begin = len(statuses)
            history = past.select(slice(begin, begin + len(opened))) if past is not None else None
            indices_NK, scores_NK = recommender.rank(recommender.featurize(opened, cache), width, history, observe)
            lists.append(ids_V[indices_NK] if len(ids_V) else indices_NK)
            scores.append(scores_NK)
            has_image += [p is not None or k is not None for p, k in zip(opened.images, opened.image_keys, strict=True)]
            statuses += opened.statuses
            progress.add(len(opened))
    judged = judge(np.concatenate(lists), truth.tags, len(truth.dataset.vocabulary)).widened(width)
    found = np.concatenate(scores)
    found = np.pad(found, ((0, 0), (0, width - found.shape[1])))
    return Ranked(judged, found, np.array(has_image, dtype=bool), statuses)


def _observer(pairs: PairCalibration, ids_V: Integers, tags: Sequence[Sequence[int]]) -> Callable[[np.ndarray], None]:
    """Gives `pairs` the scores of posts that come in turn, beside which of the model's tags (`ids_V`) each has."""
    column = {int(tag): index for index, tag in enumerate(ids_V)}
    waiting = iter(tags)

    def observe(scores_BV: np.ndarray) -> None:
        began = time.monotonic()
        true_BV, has_truth_B = np.zeros(scores_BV.shape, dtype=bool), np.zeros(len(scores_BV), dtype=bool)
        for row, own in zip(range(len(scores_BV)), waiting, strict=False):
            true_BV[row, [column[tag] for tag in own if tag in column]] = True
            has_truth_B[row] = bool(own)
        pairs.add(scores_BV, true_BV, has_truth_B)
        pairs.seconds += time.monotonic() - began

    return observe


def _bleu(recommender: Recommender, judged: Judged, truth: Truth, k: int) -> dict[str, float]:
    """BLEU of a sequence family's first k tags, else nothing."""
    if getattr(type(recommender.loaded.model), "objective", None) != "sequence":
        return {}
    names = [str(number) for number in range(len(truth.ids))]
    ours = [[names[tag] for tag in row if tag >= 0] for row in judged.widened(k).ranked_NK.tolist()]
    return {**bleu(ours, [[names[tag] for tag in tags] for tags in truth.tags]), "k": k}


def _slices(ranked: Ranked, truth: Truth, recipe: Recipe) -> tuple[dict[str, Figures], dict[str, Figures]]:
    ks = recipe.evaluation.ks
    return (
        slice_metrics(ranked.judged, slices_of(truth, ranked.has_image, recipe.history.order), ks, "headline"),
        tag_slices(ranked.judged, truth.tags, truth.dataset.vocabulary.counts, ks),
    )


def _file_name(model: ResolvedModel, used: set[str]) -> str:
    name = re.sub(r"[^\w.=-]+", "_", f"{model.name}-{model.version}")
    while name in used:
        name += "_"
    used.add(name)
    return name
