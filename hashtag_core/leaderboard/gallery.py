"""The posts of a leaderboard's page: pictures, captions and what the best systems gave, for who may see them."""

import logging
from collections.abc import Sequence

import numpy as np
import pyarrow.parquet as pq

from hashtag_core import storage
from hashtag_core.errors import HashtagError
from hashtag_core.evaluation.gallery import Gallery, shown_rows
from hashtag_core.evaluation.ground_truth import Ranked, Truth, image_mask
from hashtag_core.evaluation.metrics import judge_tags
from hashtag_core.judging.attention import looks
from hashtag_core.judging.page import gallery_of
from hashtag_core.leaderboard.compare import Part
from hashtag_core.tracking.registry import resolve_model

logger = logging.getLogger(__name__)

MOST_SYSTEMS = 8
"""The best ones: more would neither fit a card nor the page's 25 MB."""


def systems_gallery(part: Part, order: Sequence[str]) -> Gallery | None:
    """The posts as the first systems of `order` ranked them, by their kept lists; None where posts are not to be shown
    (`evaluation.gallery_posts = 0`) or no system is done."""
    plan, truth = part.plan, part.truth
    if not plan.recipe.evaluation.gallery_posts or not order:
        return None
    by_name = {entry.name: entry for entry in plan.entries}
    seen = image_mask(truth)
    shown = [
        (
            name,
            _ranked(plan.ranked(by_name[name]), truth, seen),
            _looks(part.states[name].get("model"), truth, plan.recipe.evaluation.gallery_posts),
        )
        for name in order[:MOST_SYSTEMS]
    ]
    return gallery_of(shown, truth, plan.recipe)


def _ranked(uri: str, truth: Truth, has_image: np.ndarray) -> Ranked:
    """What `write_ranked` kept; a tag that `truth` does not know yet gets the next id."""
    with storage.open_input(uri) as source:
        table = pq.read_table(source, columns=["hashtags", "true_hashtags", "scores", "status"])
    lists = table["hashtags"].to_pylist()
    for tag in (tag for tags in lists for tag in tags):
        truth.ids.setdefault(tag, len(truth.ids))
    # Only the lists are read of it: what is known to the vocabulary is told by the gallery.
    judged = judge_tags(lists, table["true_hashtags"].to_pylist(), list(truth.ids))
    scores_NK = np.zeros(judged.ranked_NK.shape, np.float32)
    for row, scores in enumerate(table["scores"].to_pylist()):
        scores_NK[row, : len(scores)] = scores
    return Ranked(judged, scores_NK, has_image, table["status"].to_pylist())


def _looks(model: str | None, truth: Truth, most: int) -> dict[int, str]:
    """Where the system's model looks, of the posts that are shown; nothing where the model is no longer there."""
    try:
        return {} if model is None else looks(resolve_model(model).folder, truth, shown_rows(len(truth.tags), most))
    except HashtagError as error:
        logger.debug("the model is not asked where it looks: %s", error)
        return {}
