"""The steps of the demo, and how their results are shown. `jobs/demo.py` imports it when the demo is run: it brings Ray and torch."""

import argparse
import atexit
import gc
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import duckdb
from rich.console import Console
from rich.table import Table

from hashtag_core import storage
from hashtag_core.config import Recipe, read_recipe
from hashtag_core.data.dataset import Dataset
from hashtag_core.distributed.evaluate import evaluate
from hashtag_core.distributed.features import ensure_features
from hashtag_core.distributed.prepare import prepare
from hashtag_core.distributed.promote import plan_promote, promote
from hashtag_core.distributed.session import connect
from hashtag_core.distributed.tag import tag
from hashtag_core.distributed.train import train
from hashtag_core.errors import GateRefused
from hashtag_core.evaluation.report import leaderboard_table, rank_models
from hashtag_core.evaluation.report_record import EvaluationReport
from hashtag_core.preparation.plan import plan_prepare
from hashtag_core.redaction import redact
from hashtag_core.tagging.plan import plan_tagging
from hashtag_core.tagging.planned_work import TagRequest
from hashtag_core.tagging.report import report
from hashtag_core.tagging.run_page import write_run_page
from hashtag_core.tracking.registry import resolve_model
from hashtag_core.tracking.runs import tracking_uri
from hashtag_core.training.plan import plan_training
from jobs.common import as_called, recipe_of
from jobs.prepare import SAMPLE_ARCHIVE, SAMPLE_DATASET
from jobs.tag import SAMPLE_OUT

logger = logging.getLogger("hashtag_core.jobs")

RECIPES = Path(__file__).resolve().parent / "recipes"
FAMILIES = ("popularity", "linear", "amnn_small", "lxmert4hashtag_small")
REPORT = Path("demo") / "report"
SHOWN_POSTS = 12
SHOWN_TAGS = 5
CAPTION_CHARACTERS = 48
LOG_WIDTH = 150


def demo(arguments: argparse.Namespace) -> Mapping[str, object]:
    """Every step in its turn; what the job's summary says."""
    recipe = recipe_of(arguments, str(RECIPES / "sample.toml"))
    recipes = {name: read_recipe(RECIPES / f"{name}.toml", arguments.overrides) for name in FAMILIES}
    preparation = plan_prepare(recipe, str(SAMPLE_ARCHIVE), str(SAMPLE_DATASET), None)
    if arguments.dry_run:
        return {"dry_run": True, "families": list(FAMILIES), "dataset": str(SAMPLE_DATASET), "tagged": str(SAMPLE_OUT)}
    began = time.monotonic()
    with connect():
        with _step("prepare", "the sample archive becomes a dataset"):
            info = prepare(preparation)
        dataset = Dataset.open(str(SAMPLE_DATASET))
        with _step("encode", "pictures and captions, once for all families"):
            needs = [plan_training(family_recipe, dataset.uri).needs for family_recipe in recipes.values()]
            ensure_features(dataset, recipe.encoders, frozenset().union(*needs))
        models = {}
        for name, family_recipe in recipes.items():
            with _step("train", name):
                models[name] = train(family_recipe, str(SAMPLE_DATASET)).model
        with _step("evaluate", "all of them, on posts that none has seen"):
            leaderboard = evaluate(str(SAMPLE_DATASET), list(models.values()), str(REPORT), recipe)
        with _step("promote", "each challenges the champion in turn"):
            board = storage.read_json(storage.join(leaderboard["report"], "leaderboard.json"))
            champion = _promote_each(models, recipe, board)
        with _step("tag", f"{champion} tags the archive"):
            job = plan_tagging(TagRequest(recipe, str(SAMPLE_ARCHIVE), str(SAMPLE_OUT), resolve_model(champion)))
            summary = tag(job)
            if summary.run is not None and summary.tagged:
                report(job.layout.out, summary.run, recipe.tracking.experiment)
                write_run_page(job.layout.out, summary.run)
    _print(leaderboard_table(board, _console().width))
    _show_posts(dataset, champion)
    _show_what_next({**asdict(summary), "run": summary.run})
    return {
        "posts": info.posts,
        "models": models,
        "champion": champion,
        "report": leaderboard["report"],
        "tag": asdict(summary),
        "seconds": round(time.monotonic() - began, 1),
    }


@contextmanager
def _step(name: str, what: str) -> Iterator[None]:
    began = time.monotonic()
    logger.info("━━ %s: %s", name, what)
    yield
    logger.info("━━ %s took %.0f s", name, time.monotonic() - began)


def _promote_each(models: Mapping[str, str], recipe: Recipe, leaderboard: EvaluationReport) -> str:
    """The champion after every model has challenged it.

    The first champion must beat `popularity` and `linear`, as far as it is not of that family; `linear` challenges first,
    since most models cannot be told from it on so few posts. Where none passes, the best one is promoted by force, and
    the record says so.
    """
    summary: Mapping[str, Any] = {"champion": None}
    for name in sorted(models, key=lambda family: family != "linear"):
        try:
            summary = promote(plan_promote(str(SAMPLE_DATASET), models[name], recipe))
        except GateRefused as refusal:
            summary = refusal.summary or summary
            logger.info("%s is refused: %s", name, refusal)
        else:
            logger.info("%s is promoted", name) if summary["promoted"] else logger.info("%s is champion already", name)
    if summary["champion"] is None:
        best = str(rank_models(leaderboard)[0]["model"])
        reason = "the demo shows how a champion tags; of its models, on its few posts, none passed the gates"
        summary = promote(plan_promote(str(SAMPLE_DATASET), best, recipe), reason)
        logger.warning("no model passed the gates: %s is champion by force", best)
    return str(summary["champion"])


def _show_posts(dataset: Dataset, champion: str) -> None:
    """Some test posts with what the champion recommends; tags that the author really used are marked."""
    truth = {
        row["post_id"]: row
        for table in dataset.read("test", ["post_id", "caption", "hashtags", "image_key"])
        for row in table.to_pylist()
        if row["hashtags"]
    }
    # DuckDB tells at length of what it calls leaked where a process ends without a last search for cycles, as jobs do.
    atexit.unregister(gc.freeze)
    tagged = dict(
        duckdb.execute(
            "SELECT post_id, hashtags FROM read_parquet(?, hive_partitioning = false) WHERE model_version = ?",
            [_glob(), champion.rpartition("/")[2]],
        ).fetchall()
    )
    table = Table(
        title="What the champion recommends for posts that it has not seen ([b green]✓[/] the author used it)"
    )
    for column in ("post", "image", "caption", "recommended", "the author's own"):
        table.add_column(column, no_wrap=column in ("post", "image"))
    for post_id in sorted(truth)[:: max(1, len(truth) // SHOWN_POSTS)][:SHOWN_POSTS]:
        row = truth[post_id]
        marked = [
            f"[b green]✓{tag}[/]" if tag in row["hashtags"] else tag for tag in tagged.get(post_id, [])[:SHOWN_TAGS]
        ]
        caption = row["caption"] or "-"
        if len(caption) > CAPTION_CHARACTERS:
            caption = caption[: CAPTION_CHARACTERS - 1] + "…"
        image = "yes" if row["image_key"] else "-"
        table.add_row(post_id, image, caption, "  ".join(marked), "  ".join(row["hashtags"]))
    _print(table)


def _print(table: Table) -> None:
    """On stderr, wide enough for the tables where that is no terminal."""
    _console().print(table)


def _console() -> Console:
    console = Console(stderr=True)
    if not console.is_terminal:
        console.width = LOG_WIDTH
    return console


def _glob() -> str:
    return storage.join(str(SAMPLE_OUT), "model=*/version=*/**/part-*.parquet")


def _show_what_next(tagged: Mapping[str, Any]) -> None:
    query = f"FROM read_parquet('{_glob()}') LIMIT 10"
    for line in (
        f"Tagged: {tagged['tagged']} posts ({tagged['rejected']} rejected) as Parquet in {SAMPLE_OUT}. Read them:",
        f'    .venv/bin/python -c "import duckdb; duckdb.sql(\\"{query}\\").show()"',
        f"The models and their posts, to look at in a browser: {REPORT}/report.html (figures as text: leaderboard.md)",
        *([f"The tagging run, to look at: {SAMPLE_OUT}/_state/runs/{tagged['run']}.html"] if tagged["run"] else []),
        "Ask the champion: .venv/bin/python jobs/recommend.py --caption 'lighthouse at dawn'",
        "Runs, curves, models and the champion are in MLflow. Open it:",
        f"    .venv/bin/mlflow ui --backend-store-uri {redact(tracking_uri())}",
        "Tag again (nothing is left to do): .venv/bin/python jobs/tag.py",
    ):
        print(as_called(line), file=sys.stderr)
