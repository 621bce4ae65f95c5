"""What `report.html` needs beside the metrics: figures of scores, learning curves, the page itself."""

import logging
from collections.abc import Mapping, Sequence

from hashtag_core.config import Recipe
from hashtag_core.errors import HashtagError
from hashtag_core.evaluation.gallery import Gallery
from hashtag_core.evaluation.ground_truth import Ranked, Truth, slices_of
from hashtag_core.evaluation.report import main_k
from hashtag_core.evaluation.report_charts import labels
from hashtag_core.evaluation.report_page import report_page
from hashtag_core.evaluation.report_record import EvaluationReport, ScoreFigures
from hashtag_core.evaluation.score_curves import calibration, confused_tags, precision_recall
from hashtag_core.judging.gallery import read_gallery
from hashtag_core.recommend.image_uris import ImagePlaces
from hashtag_core.tracking.registry import ResolvedModel
from hashtag_core.tracking.runs import metric_history

logger = logging.getLogger(__name__)

Looks = Mapping[int, str]
"""Row -> where on its picture a model looked (`attention.look_at`)."""


def evaluation_page(
    report: EvaluationReport, by_uri: Mapping[str, tuple[Ranked, Looks]], truth: Truth, recipe: Recipe
) -> str:
    """`report.html`, the models in the order of the leaderboard; `by_uri`: lists and looks of each model of the report."""
    shown = [(name, *by_uri[uri]) for uri, name in labels(report).items()]
    return report_page(report, gallery_of(shown, truth, recipe) if recipe.evaluation.gallery_posts else None)


def gallery_of(models: Sequence[tuple[str, Ranked, Looks]], truth: Truth, recipe: Recipe) -> Gallery:
    """The posts as the models (label, lists, looks) ranked them; as many as the recipe says."""
    places = ImagePlaces.of(truth.dataset.info.archive, recipe)
    ranked = [(name, lists) for name, lists, _ in models]
    slices = slices_of(truth, ranked[0][1].has_image, recipe.history.order)
    k, most = main_k(recipe.evaluation.ks), recipe.evaluation.gallery_posts
    return read_gallery(truth, ranked, slices, k, most, places, [looked for _, _, looked in models])


def score_figures(ranked: Ranked, truth: Truth, k: int) -> ScoreFigures:
    """`precision_recall`, `calibration` (protocol headline) and `confused`: see `evaluation.score_curves`."""
    bins, error = calibration(ranked.judged, ranked.scores_NK, "headline")
    names = list(truth.ids)
    pairs = confused_tags(ranked.judged, truth.tags, k)
    return {
        "precision_recall": precision_recall(ranked.judged, ranked.scores_NK, "headline"),
        "calibration": {"error": error, "bins": [one.as_record() for one in bins]},
        "confused": [
            {"true": names[one], "given": names[other], "posts": posts, "lift": lift}
            for one, other, posts, lift in pairs
        ],
    }


def learning(model: ResolvedModel) -> dict[str, list[float]]:
    """Losses over the epochs of the run that made a registered model; nothing where MLflow does not tell."""
    if model.run_id is None:
        return {}
    try:
        return {name: metric_history(model.run_id, name) for name in ("train_loss", "validation_loss")}
    except HashtagError as error:
        logger.debug("no learning curve of %s: %s", model.uri, error)
        return {}
