"""A model ranks the tags of a split's posts: the work of an evaluation, chunk by chunk, wherever it is done.

    split -> chunks with fixed borders -> RankSplit (the model, loaded once a process) -> RankedChunk -> put together by row

Borders and batches are the same for one process and for many, so that figures do not hang on how many there are. What comes
back of a post is a few numbers: its list, its status, and its part of the sums of `PairCalibration`.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa

from hashtag_core.data.dataset import Dataset, Split
from hashtag_core.data.feature_cache import FeatureCache
from hashtag_core.data.history_batch import History, open_history
from hashtag_core.data.model_files import local_model
from hashtag_core.evaluation.score_curves import PairCalibration
from hashtag_core.judging.attention import look_at
from hashtag_core.recommend.read_posts import READ
from hashtag_core.recommend.recommender import Recommender
from hashtag_core.storage.node_local import open_root
from hashtag_core.training.job import node_lock

CHUNK_POSTS = 1024
"""Posts of a chunk, to the next multiple of `RankWork.batch_rows` below (or one batch, if that is larger)."""


@dataclass(frozen=True)
class RankWork:
    """What is the same for all chunks; it crosses to other processes by pickle."""

    dataset: Dataset
    cache: FeatureCache | None
    """None for a model that reads no feature; what is lacking in it is encoded on the way."""
    model_folder: str
    model_version: str
    """That of the folder, by its content: what a copy on another node is known by."""
    name: str
    version: str
    """What the model is called in messages."""
    diversity: float
    top_k: int
    batch_rows: int
    threads: int | None = None


@dataclass(frozen=True)
class RankTask:
    """Rows `begin` to `end` of one file of the dataset; `start`: row of the first among all of the split."""

    split: Split
    uri: str
    begin: int
    end: int
    start: int
    pairs: bool = True
    """Whether all pairs of post and tag are to be calibrated."""
    looks: tuple[int, ...] = ()
    """Rows of the split whose attention over their picture is told, where the model has one."""


@dataclass
class RankedChunk:
    """N posts in their order. `indices_NK`: of the model's own vocabulary, best first; fewer than `top_k` where it has no more."""

    start: int
    indices_NK: np.ndarray
    scores_NK: np.ndarray
    has_image: np.ndarray
    statuses: list[str]
    parameters: int
    """Numbers in the model, buffers included."""
    seconds: float = 0.0
    """From rows to lists, without what `pairs` took."""
    pairs: PairCalibration = field(default_factory=PairCalibration)
    looks: dict[int, str] = field(default_factory=dict)
    """Row of the split -> digits (`attention.look_at`)."""


def rank_tasks(
    dataset: Dataset, split: Split, batch_rows: int, *, pairs: bool = True, looks: Sequence[int] = ()
) -> list[RankTask]:
    """The chunks of a split, in its order."""
    size = batch_rows * max(1, CHUNK_POSTS // batch_rows)
    rows_of = {uri: rows for uri, rows in zip(dataset.files(split), dataset.file_rows(split), strict=True) if rows}
    wanted = np.sort(np.asarray(looks, dtype=np.int64))
    tasks: list[RankTask] = []
    start = 0
    for uri, rows in rows_of.items():
        for begin in range(0, rows, size):
            end = min(begin + size, rows)
            inside = wanted[(wanted >= start) & (wanted < start + end - begin)]
            tasks.append(RankTask(split, uri, begin, end, start, pairs, tuple(inside.tolist())))
            start += end - begin
    return tasks


class RankSplit:
    """Ranks the chunks it is given. `model_files`: the model's files, where its folder is not on this node."""

    def __init__(self, work: RankWork, model_files: dict[str, bytes] | None = None) -> None:
        self.work = work
        self._model_files = model_files
        self._histories: dict[Split, History] = {}

    @cached_property
    def recommender(self) -> Recommender:
        """The model, loaded once."""
        work = self.work
        folder = local_model(work.model_folder, work.model_version, self._model_files)
        self._model_files = None
        return Recommender.load(
            str(folder), name=work.name, version=work.version, threads=work.threads, diversity=work.diversity
        )

    @cached_property
    def _parameters(self) -> int:
        return sum(tensor.numel() for tensor in self.recommender.loaded.model.state_dict().values())

    def __call__(self, task: RankTask) -> Iterator[RankedChunk]:
        """The one chunk of a task. ScoreError for a score that is not finite, and whatever loading the model raises."""
        recommender, work = self.recommender, self.work
        past = self._history(task.split)
        began = time.monotonic()
        columns = {tag: index for index, tag in enumerate(recommender.tags)}
        found: list[tuple[np.ndarray, np.ndarray]] = []
        chunk = RankedChunk(task.start, np.zeros(0), np.zeros(0), np.zeros(0, bool), [], self._parameters)
        has_image: list[bool] = []
        names = [*READ.names, "hashtags"]
        for table in work.dataset.read_rows(task.uri, task.begin, task.end, names, work.batch_rows):
            at = task.start + len(chunk.statuses)
            opened = recommender.open_posts(table.select(READ.names), cached=work.cache)
            features = recommender.featurize(opened, work.cache)
            observe = _observer(chunk.pairs, columns, table["hashtags"]) if task.pairs else None
            history = past.select(slice(at, at + len(opened))) if past is not None else None
            found.append(recommender.rank(features, work.top_k, history, observe))
            has_image += [p is not None or k is not None for p, k in zip(opened.images, opened.image_keys, strict=True)]
            chunk.statuses += opened.statuses
            wanted = [row for row in task.looks if at <= row < at + len(opened)]
            chunk.looks |= look_at(recommender, work.cache, table.select(READ.names), at, wanted)
        chunk.indices_NK = np.concatenate([indices for indices, _ in found])
        chunk.scores_NK = np.concatenate([scores for _, scores in found])
        chunk.has_image = np.array(has_image, dtype=bool)
        chunk.seconds = time.monotonic() - began - chunk.pairs.seconds
        yield chunk

    def _history(self, split: Split) -> History | None:
        """The histories of a split's posts, opened once; None for a model that reads none."""
        loaded, tables = self.recommender.loaded, open_root("tables")
        if loaded.history is None:
            return None
        if split not in self._histories:
            with node_lock(tables):
                self._histories[split] = open_history(
                    self.work.dataset, split, loaded.history, self.work.cache, loaded.vocabulary, tables
                )
        return self._histories[split]


def _observer(pairs: PairCalibration, columns: dict[str, int], tags: pa.ChunkedArray) -> Callable[[np.ndarray], None]:
    """Gives `pairs` the scores of posts that come in turn, beside which of the model's tags each has."""
    waiting = iter(tags.to_pylist())

    def observe(scores_BV: np.ndarray) -> None:
        began = time.monotonic()
        true_BV, has_truth_B = np.zeros(scores_BV.shape, dtype=bool), np.zeros(len(scores_BV), dtype=bool)
        for row, own in zip(range(len(scores_BV)), waiting, strict=False):
            true_BV[row, [columns[tag] for tag in own or () if tag in columns]] = True
            has_truth_B[row] = bool(own)
        pairs.add(scores_BV, true_BV, has_truth_B)
        pairs.seconds += time.monotonic() - began

    return observe
