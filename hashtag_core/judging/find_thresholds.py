"""The thresholds of a trained model's tags, chosen on the validation split."""

import logging
from collections.abc import Iterator

import numpy as np
import torch

from hashtag_core.errors import TrainingError
from hashtag_core.evaluation.tag_thresholds import choose_tag_thresholds
from hashtag_core.judging.validation import score_table
from hashtag_core.models.base import TagModel
from hashtag_core.training.job import TrainJob

logger = logging.getLogger(__name__)


def find_thresholds(job: TrainJob, model: TagModel, device: torch.device | str = "cpu") -> dict[str, float]:
    """Tag -> least score, for each tag that a validation post has; see `evaluation.tag_thresholds`.

    The scores are those that tagging compares. A post without any tag does not count: nobody said what it is not about.
    TrainingError for a score that is not finite.
    """
    table, settings, names = job.table("validation"), job.recipe.training, job.dataset.vocabulary.tags
    reading = job.reading()
    tagged_N = (job.outside > 0) | np.fromiter((bool(tags) for tags in table.tags), bool, len(table))

    def scored() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for rows, scores_BV in score_table(model, table, reading, device):
            if not torch.isfinite(scores_BV).all():
                raise TrainingError("a score of a validation post is not finite: no thresholds can be chosen")
            kept = tagged_N[rows]
            yield rows[kept], scores_BV.clamp(0.0, 1.0).cpu().numpy()[kept]

    found = choose_tag_thresholds(scored, table.tags, len(names), settings.tag_thresholds_fbr)
    known = np.flatnonzero(~np.isnan(found.least_V))
    logger.info(
        "thresholds for %d of %d tags, %d of them at the tag's highest validation score; no validation post has the others",
        len(known),
        len(names),
        found.raised_V.sum(),
    )
    return {names[tag]: float(found.least_V[tag]) for tag in known}
