"""Where on their pictures a model's attention lies, for the posts that the gallery shows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from hashtag_core.data.batches import collate
from hashtag_core.data.feature_cache import FeatureCache, cache_root
from hashtag_core.data.model_files import read_description
from hashtag_core.evaluation.ground_truth import Truth
from hashtag_core.models.base import TagModel
from hashtag_core.models.registry import family
from hashtag_core.recommend.read_posts import READ
from hashtag_core.recommend.recommender import Recommender

LEVELS = 9


def looks(folder: Path, truth: Truth, rows: Sequence[int]) -> dict[int, str]:
    """Row -> digits as of `look_at`, with the model of a folder. A family without attention is not loaded for that."""
    if not may_look(folder):
        return {}
    recommender = Recommender.load(str(folder))
    encoders = recommender.encoders
    cache = encoders.open_cache(cache_root(truth.dataset.uri, encoders.section))
    found: dict[int, str] = {}
    start = 0
    for table in truth.dataset.read(truth.split, READ.names, recommender.batch_size):
        found |= look_at(recommender, cache, table, start, [row for row in rows if start <= row < start + len(table)])
        start += len(table)
    return found


def may_look(folder: Path) -> bool:
    """Whether the family of a model folder has attention over the cells of a grid, with some options at least."""
    return family(str(read_description(folder)["family"])).looks_at is not TagModel.looks_at


def look_at(
    recommender: Recommender, cache: FeatureCache | None, table: pa.Table, start: int, rows: Sequence[int]
) -> dict[int, str]:
    """Row of the split -> a digit for each cell of the grid, line by line: 9 for the cell that gets most of the post's attention,
    0 for none. `rows` are those wanted of a table (the columns of `READ`) that begins at row `start` of the split.

    Empty for a family (or options) without attention over the cells of a grid; a post without a picture is left out.
    """
    model = recommender.loaded.model
    if not rows or type(model).looks_at is TagModel.looks_at or recommender.encoders.boxes is None:
        return {}
    inside = np.asarray(rows, dtype=np.int64) - start
    found: dict[int, str] = {}
    for piece in np.array_split(inside, -(-len(inside) // recommender.batch_size)):
        posts = recommender.featurize(recommender.open_posts(table.take(pa.array(piece)), cached=cache), cache)
        inputs = recommender.loaded.options.inputs
        batch = collate(posts, recommender.needs, recommender.loaded.tokenizer, inputs, None)
        with torch.inference_mode():
            weights_BR = model.looks_at(batch.to(recommender.device))
        if weights_BR is None:
            return {}
        seen = np.flatnonzero(posts.image_present)
        weights_nR = weights_BR.float().cpu().numpy()[seen]
        shares_nR = weights_nR / np.maximum(weights_nR.max(axis=1, keepdims=True), 1e-12)
        for row, shares_R in zip(piece[seen].tolist(), np.rint(LEVELS * shares_nR).astype(int).tolist(), strict=True):
            found[start + row] = "".join(map(str, shares_R))
    return found
