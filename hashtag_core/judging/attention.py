"""Where on their pictures a model's attention lies, for the posts that the gallery shows."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from hashtag_core.data.batches import collate
from hashtag_core.data.feature_cache import cache_root
from hashtag_core.data.model_files import read_description
from hashtag_core.evaluation.ground_truth import Truth
from hashtag_core.models.base import TagModel
from hashtag_core.models.registry import family
from hashtag_core.recommend.read_posts import READ
from hashtag_core.recommend.recommender import Recommender

LEVELS = 9


def looks(folder: Path, truth: Truth, rows: Sequence[int]) -> dict[int, str]:
    """Row -> a digit for each cell of the grid, line by line: 9 for the cell that gets most of the post's attention, 0 for none.

    Empty for a family (or options) without attention over the cells of a grid; a post without a picture is left out.
    """
    if family(str(read_description(folder)["family"])).looks_at is TagModel.looks_at:
        return {}  # most do not look, and need not be loaded for that
    recommender = Recommender.load(str(folder))
    if recommender.encoders.boxes is None:
        return {}
    found: dict[int, str] = {}
    for places, weights_nR in _weights(recommender, truth, rows):
        if weights_nR is None:
            return {}
        shares_nR = weights_nR / np.maximum(weights_nR.max(axis=1, keepdims=True), 1e-12)
        for row, shares_R in zip(places, np.rint(LEVELS * shares_nR).astype(int).tolist(), strict=True):
            found[row] = "".join(map(str, shares_R))
    return found


def _weights(
    recommender: Recommender, truth: Truth, rows: Sequence[int]
) -> Iterator[tuple[list[int], np.ndarray | None]]:
    """Rows with a picture, and their weights."""
    wanted = np.zeros(len(truth.tags), bool)
    wanted[list(rows)] = True
    encoders, model, options = recommender.encoders, recommender.loaded.model, recommender.loaded.options
    cache = encoders.open_cache(cache_root(truth.dataset.uri, encoders.section))
    start = 0
    for table in truth.dataset.read(truth.split, READ.names, recommender.batch_size):
        inside = np.flatnonzero(wanted[start : start + len(table)])
        if len(inside):
            posts = recommender.featurize(recommender.open_posts(table.take(pa.array(inside)), cached=cache), cache)
            batch = collate(posts, recommender.needs, recommender.loaded.tokenizer, options.inputs, None)
            with torch.inference_mode():
                weights_BR = model.looks_at(batch.to(recommender.device))
            seen = np.flatnonzero(posts.image_present)
            weights = None if weights_BR is None else weights_BR.float().cpu().numpy()[seen]
            yield (start + inside[seen]).tolist(), weights
        start += len(table)
