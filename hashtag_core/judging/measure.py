"""How fast models are, side by side in one process, and whether the first gives its golden outputs: for who has the memory for it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from hashtag_core.data.dataset import Dataset, Split
from hashtag_core.data.model_files import local_model
from hashtag_core.recommend.read_posts import READ
from hashtag_core.recommend.recommender import Recommender
from hashtag_core.recommend.served import GoldenOutputs, golden_difference

WARM_UP_POSTS = 8
ROUNDS = 2


@dataclass(frozen=True)
class MeasureTask:
    """What is measured; it crosses to other processes by pickle."""

    models: tuple[tuple[str, str], ...]
    """Folder and version, by its content, of each."""
    dataset: Dataset
    split: Split
    posts: int
    """Of the split's first ones, at most."""
    golden: GoldenOutputs | None
    """Of the first model."""


@dataclass(frozen=True)
class Measured:
    """What was found."""

    speeds: list[float]
    """Posts a second, of each model."""
    golden: float | None
    """How far the first model is from its golden outputs; None where none were recorded."""


def measured(task: MeasureTask, files: Sequence[dict[str, bytes] | None]) -> Measured:
    """Do it. `files`: of each model, where its folder is not on this node."""
    folders = [local_model(*model, given) for model, given in zip(task.models, files, strict=True)]
    recommenders = [Recommender.load(str(folder)) for folder in folders]
    golden = None if task.golden is None else golden_difference(recommenders[0], task.golden)
    return Measured(_speeds(recommenders, task), golden)


def _speeds(recommenders: Sequence[Recommender], task: MeasureTask) -> list[float]:
    """Posts a second from bytes and captions on: each model in turn, the best of `ROUNDS`.

    On a CPU, seconds are the process's own, so that what else the machine does counts for neither.
    """
    tables = task.dataset.read(task.split, READ.names, task.posts)
    posts = next(iter(tables), None)
    if posts is None or not len(posts):
        return [0.0 for _ in recommenders]
    best = [0.0 for _ in recommenders]
    for recommender in recommenders:
        recommender.tag(recommender.open_posts(posts.slice(0, WARM_UP_POSTS)), 5)
    for _ in range(ROUNDS):
        for index, recommender in enumerate(recommenders):
            clock = time.process_time if recommender.device.type == "cpu" else time.perf_counter
            started = clock()
            recommender.tag(recommender.open_posts(posts), 5)
            best[index] = max(best[index], len(posts) / max(clock() - started, 1e-9))
    return best
