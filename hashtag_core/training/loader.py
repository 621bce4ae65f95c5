"""The order in which posts are read: a function of (seed, epoch) alone, the same on every machine and after every stop.

An epoch is one permutation of all posts, cut into `steps` global batches whose sizes differ by at most one; rank r of w
takes every w-th post of each, beginning at the r-th. So no post is dropped or doubled, every rank takes the same number
of steps and always has a post, no batch is a tiny remainder, and one worker or four see the same global batches.
A position is (epoch, step): starting there repeats nothing and skips nothing.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from hashtag_core.config import TrainingSection
from hashtag_core.data.batches import FeaturizedPosts, PostBatch, Targets, Tokenizer, collate, make_targets
from hashtag_core.errors import TrainingError

T = TypeVar("T")
U = TypeVar("U")

_MODALITY_STREAM = 1
_LABEL_STREAM = 2
_SHARE_STREAM = 3

PREFETCH_BATCHES = 3
FIT_BATCH_POSTS = 256


class PostTable(Protocol):
    """What is trained on: `hashtag_core.data.features.FeatureTable`, or anything row-aligned like it."""

    def __len__(self) -> int: ...

    @property
    def tags(self) -> Sequence[Sequence[int]]:
        """Vocabulary indices of each row's tags, in the author's order."""
        ...

    def rows(self, indices: np.ndarray) -> FeaturizedPosts:
        """The features of those rows, in that order."""
        ...


class Share:
    """A share of a table's posts, drawn by the seed; that of a smaller share is part of that of a larger one."""

    def __init__(self, table: PostTable, share: float, seed: int) -> None:
        drawn = np.random.default_rng([seed, _SHARE_STREAM]).permutation(len(table))
        self.table = table
        self.kept = np.sort(drawn[: max(1, round(share * len(table)))])
        """Rows of the whole table."""
        self.tags: Sequence[Sequence[int]] = [table.tags[int(row)] for row in self.kept]

    def __len__(self) -> int:
        return len(self.kept)

    def rows(self, indices: np.ndarray) -> FeaturizedPosts:
        """The features of those rows of the share."""
        return self.table.rows(self.kept[indices])


@dataclass(frozen=True)
class Reading:
    """How rows become batches: what the family reads, and the tokenizer it reads captions with."""

    vocabulary_size: int
    needs: frozenset[str]
    inputs: tuple[str, ...] = ("image", "caption", "history")
    tokenizer: Tokenizer | None = None

    def batch(self, posts: FeaturizedPosts) -> PostBatch:
        """Model inputs of those posts."""
        return collate(posts, self.needs, self.tokenizer, self.inputs)


@dataclass(frozen=True)
class TrainBatch:
    """One rank's part of a global batch."""

    step: int
    """Index in the epoch."""
    rows: np.ndarray
    posts: PostBatch
    targets: Targets
    weight: float
    """What the mean loss of these posts is multiplied by, so that the average over all ranks of the summed gradients
    of an accumulation group is the gradient of the mean over all posts of the group."""
    group_posts: int
    """Posts of the accumulation group, all ranks together."""
    last_of_group: bool
    """The optimizer steps after this one."""


def global_batches(posts: int, batch_size: int, world: int, *, seed: int, epoch: int) -> list[np.ndarray]:
    """The epoch's permutation of `range(posts)`, cut into nearly equal batches of about `batch_size`.

    A batch exceeds `batch_size` only where it would otherwise leave a rank without a post.
    """
    if posts < world:
        raise TrainingError(f"{posts} train posts cannot be spread over {world} workers")
    steps = min(-(-posts // batch_size), posts // world)
    permutation = np.random.default_rng([seed, epoch]).permutation(posts)
    return np.array_split(permutation, steps)


class BatchLoader:
    """Batches of the train split for one rank, collated ahead of time in a background thread."""

    def __init__(
        self,
        table: PostTable,
        reading: Reading,
        settings: TrainingSection,
        *,
        rank: int = 0,
        world: int = 1,
        pin_memory: bool = False,
    ) -> None:
        self.table, self.reading, self.settings = table, reading, settings
        self.rank, self.world, self.pin_memory = rank, world, pin_memory
        self.steps = len(self._global_batches(0))
        """Forward passes of each rank in an epoch."""
        self.updates = -(-self.steps // settings.accumulate)
        """Optimizer steps in an epoch."""

    def _global_batches(self, epoch: int) -> list[np.ndarray]:
        return global_batches(
            len(self.table), self.settings.batch_size, self.world, seed=self.settings.seed, epoch=epoch
        )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[TrainBatch]:
        """This rank's batches of the epoch from step `start` on."""
        batches = self._global_batches(epoch)
        hidden = self._hidden(epoch)
        every = self.settings.accumulate

        def make(step: int) -> TrainBatch:
            group = step // every * every
            group_posts = sum(len(rows) for rows in batches[group : group + every])
            rows = batches[step][self.rank :: self.world]
            posts = self.reading.batch(_hide(self.table.rows(rows), hidden, rows))
            targets = make_targets(
                [self._ordered(int(row), epoch) for row in rows], self.reading.vocabulary_size, self.settings.max_tags
            )
            if self.pin_memory:
                posts, targets = posts.pin_memory(), targets.pin_memory()
            return TrainBatch(
                step=step,
                rows=rows,
                posts=posts,
                targets=targets,
                weight=len(rows) * self.world / group_posts,
                group_posts=group_posts,
                last_of_group=(step + 1) % every == 0 or step + 1 == len(batches),
            )

        return prefetch(make, range(start, len(batches)))

    def _hidden(self, epoch: int) -> np.ndarray | None:
        """[posts, 2] bool: whose image, whose caption is hidden in this epoch."""
        if self.settings.modality_dropout == 0:
            return None
        chance = np.random.default_rng([self.settings.seed, epoch, _MODALITY_STREAM]).random(
            (len(self.table), 2), dtype=np.float32
        )
        return chance < self.settings.modality_dropout

    def _ordered(self, row: int, epoch: int) -> list[int]:
        tags = list(dict.fromkeys(self.table.tags[row]))
        match self.settings.label_order:
            case "frequent_first":
                return sorted(tags)
            case "shuffled":
                order = np.random.default_rng([self.settings.seed, epoch, _LABEL_STREAM, row]).permutation(len(tags))
                return [tags[i] for i in order]
            case _:
                return tags


def in_order(
    table: PostTable, reading: Reading, batch_size: int, *, rank: int = 0, world: int = 1
) -> Iterator[tuple[np.ndarray, PostBatch]]:
    """Row numbers and inputs of a rank's share of a table, every `world`-th row, nothing hidden or shuffled."""
    rows = np.arange(rank, len(table), world)
    chunks = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    return prefetch(lambda chunk: (chunk, reading.batch(table.rows(chunk))), chunks)


class TableFitSource:
    """The train split as `FittedModel.fit` reads it."""

    def __init__(self, table: PostTable, reading: Reading) -> None:
        self.table, self.reading = table, reading
        self.vocabulary_size = reading.vocabulary_size
        self.posts = len(table)

    def batches(self, batch_size: int = FIT_BATCH_POSTS) -> Iterator[tuple[PostBatch, list[list[int]]]]:
        """Inputs and vocabulary indices, in row order, the same at every pass."""
        for rows, posts in in_order(self.table, self.reading, batch_size):
            yield posts, [list(self.table.tags[int(row)]) for row in rows]


def prefetch(make: Callable[[T], U], items: Iterable[T], depth: int = PREFETCH_BATCHES) -> Iterator[U]:
    """`map(make, items)`, computed up to `depth` items ahead in one thread; an exception surfaces at its item."""
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        pending: deque[Future[U]] = deque()
        for item in items:
            pending.append(pool.submit(make, item))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _hide(posts: FeaturizedPosts, hidden: np.ndarray | None, rows: np.ndarray) -> FeaturizedPosts:
    if hidden is None:
        return posts
    return dataclasses.replace(
        posts,
        image_present=np.asarray(posts.image_present) & ~hidden[rows, 0],
        text_present=np.asarray(posts.text_present) & ~hidden[rows, 1],
    )
