"""What the posts of a split were tagged with, and a model's ranked lists beside it, row by row: in memory, and as Parquet."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hashtag_core import storage
from hashtag_core.config import Recipe
from hashtag_core.data.dataset import Dataset, Split
from hashtag_core.data.history import HistoryRule, dataset_history
from hashtag_core.evaluation.metrics import Booleans, Judged
from hashtag_core.evaluation.slices import post_slices
from hashtag_core.schema import RANKED

SLICED_HISTORY = 5
"""Posts of a history up to which the slices tell."""


@dataclass
class Truth:
    """What the posts of a split were tagged with. Ids from V on are tags outside the dataset's vocabulary."""

    dataset: Dataset
    split: Split
    ids: dict[str, int]
    users: list[str | None] = field(default_factory=list)
    caption_words: list[int] = field(default_factory=list)
    tags: list[list[int]] = field(default_factory=list)

    @classmethod
    def read(cls, dataset: Dataset, split: Split, ids: dict[str, int]) -> "Truth":
        """Read the small columns; `ids` grows by the tags that it does not know."""
        truth = cls(dataset, split, ids)
        for table in dataset.read(split, ["user_id", "caption", "hashtags"]):
            truth.users += table["user_id"].to_pylist()
            truth.caption_words += [len(caption.split()) if caption else 0 for caption in table["caption"].to_pylist()]
            for tags in table["hashtags"].to_pylist():
                truth.tags.append([ids.setdefault(tag, len(ids)) for tag in dict.fromkeys(tags or ())])
        return truth


def image_mask(truth: Truth) -> Booleans:
    """[N]: which posts of the split have a picture."""
    tables = truth.dataset.read(truth.split, ["image_key"])
    return np.array([key is not None for table in tables for key in table["image_key"].to_pylist()], bool)


@dataclass
class Ranked:
    """A model's lists for a split, row-aligned with its `Truth`."""

    judged: Judged
    scores_NK: np.ndarray
    has_image: np.ndarray
    statuses: list[str]


def read_truths(dataset: Dataset, recipe: Recipe) -> tuple[Truth, Truth | None]:
    """The truth of the split to judge on, and of validation where a threshold can be chosen there."""
    ids = dict(dataset.vocabulary.index)
    truth = Truth.read(dataset, recipe.evaluation.split, ids)
    apart = recipe.evaluation.split != "validation" and dataset.info.posts.get("validation", 0) > 0
    return truth, Truth.read(dataset, "validation", ids) if apart else None


def slices_of(
    truth: Truth, has_image: np.ndarray, order: Literal["earlier", "other"] = "earlier"
) -> dict[str, Booleans]:
    """Which posts of `truth` are in which slice; see `post_slices`. `order` says which posts make a history."""
    rows_NH, _ = dataset_history(truth.dataset, truth.split, HistoryRule(order, SLICED_HISTORY))
    return post_slices(truth.caption_words, has_image, (rows_NH >= 0).sum(axis=1))


def write_ranked(uri: str, ranked: Ranked, truth: Truth) -> None:
    """Every post's list as Parquet in the schema RANKED, row-aligned with `truth`."""
    names = pa.array(list(truth.ids), pa.string())
    start = 0
    with storage.open_output(uri) as file, pq.ParquetWriter(file, RANKED) as writer:
        for table in truth.dataset.read(truth.split, ["post_id", "user_id"]):
            end = start + len(table)
            lists = ranked.judged.ranked_NK[start:end]
            kept = lists >= 0
            lengths = kept.sum(axis=1)
            offsets = pa.array(np.concatenate([[0], lengths.cumsum()]).astype(np.int32))
            true = truth.tags[start:end]
            true_offsets = pa.array(np.cumsum([0, *map(len, true)], dtype=np.int32))
            true_ids = pa.array([tag for tags in true for tag in tags], pa.int64())
            columns = [
                table["post_id"].combine_chunks(),
                table["user_id"].combine_chunks(),
                pa.ListArray.from_arrays(true_offsets, names.take(true_ids)),
                pa.ListArray.from_arrays(offsets, names.take(pa.array(lists[kept]))),
                pa.ListArray.from_arrays(offsets, pa.array(ranked.scores_NK[start:end][kept], pa.float32())),
                pa.ListArray.from_arrays(offsets, pa.array(ranked.judged.hits_NK[start:end][kept])),
                pa.array(ranked.statuses[start:end], pa.string()),
            ]
            writer.write_table(pa.Table.from_arrays(columns, names=RANKED.names).cast(RANKED))
            start = end
