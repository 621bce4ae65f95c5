"""Which posts make the history of a post: up to H others of its user, found from small columns in one sort.

Shape legend: N posts, H posts of a history. Rows are numbers of posts in the columns given; -1 fills a short history.

What holds, whatever the order (MODELS.md, DESIGN):

- a history is of one user; a post without a user has none and stands in none;
- never the post itself, nor one that repeats its content;
- `earlier`: strictly earlier by `created_at`, so that posts of one moment are not in each other's, and a post without a
  date has none and stands in none; a repeat has the same image and the same caption;
- `other`: any other post of the user, taken from those that stand before it when the user's posts are put in a circle by
  date (undated first) and a hash of the id, so that all of them are used alike; a repeat has the same image or the same caption;
- across splits: train posts have train posts, validation posts those of train and validation, test posts those of all.

One million posts of 20,000 users, of whom one has 254,000, on one core: 4.7 s to hash the columns, 2.7 s to sort them and
find 5 posts each (13 s for 50); 40 bytes a post for the columns, some 150 while they are sorted, 4 H for the result.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, Self, TypedDict

import numpy as np
import pyarrow as pa

from hashtag_core.config import HistorySection, Section
from hashtag_core.data.dataset import SPLITS, Dataset, Split
from hashtag_core.schema import PREPARED

NO_HASH = 0
"""Code of an absent value."""

UNDATED = np.iinfo(np.int64).min
"""`created_at` of a post that has none, in microseconds: earlier than all others."""
BLOCK_POSTS = 65_536
POOLED = {"image": "image_vector", "caption": "text_vector"}
"""What of a history post is read, by modality: its pooled vector."""

DEFAULT_POSTS = 5


class HistoryRecord(TypedDict):
    """A `HistoryRule`, as it is written down."""

    order: Literal["earlier", "other"]
    posts: int
    reads: tuple[str, ...]


@dataclass(frozen=True)
class HistoryRule:
    """What a model reads as the history of a post; saved in `model.json`."""

    order: Literal["earlier", "other"] = "earlier"
    posts: int = DEFAULT_POSTS
    """H."""
    reads: tuple[str, ...] = ()
    """Of `image_vector` and `text_vector`, those that are read of the history's posts beside their tags."""

    @classmethod
    def of(cls, needs: frozenset[str], options: Section, section: HistorySection) -> Self | None:
        """The rule for a family's needs and options (`inputs`, `history_posts`); None for a model that reads no history."""
        inputs: list[str] = getattr(options, "inputs", [])
        posts = int(getattr(options, "history_posts", DEFAULT_POSTS))
        if "history" not in needs or "history" not in inputs or not posts:
            return None
        reads = tuple(kind for modality, kind in POOLED.items() if kind in needs and modality in inputs)
        return cls(section.order, posts, reads)

    @classmethod
    def from_json(cls, value: HistoryRecord | None) -> Self | None:
        """What `dataclasses.asdict` gave, read back from JSON."""
        return None if value is None else cls(value["order"], value["posts"], tuple(value["reads"]))

    def as_record(self) -> HistoryRecord:
        """As `model.json` and reports hold it."""
        return {"order": self.order, "posts": self.posts, "reads": self.reads}

    def describe(self) -> str:
        """In words, for reports."""
        which = "strictly earlier by created_at" if self.order == "earlier" else "other posts of the user, at any time"
        return f"up to {self.posts} posts, {which} ({self.order})"


@dataclass(frozen=True)
class HistoryColumns:
    """What decides, [N] each: 64-bit hashes, NO_HASH where there is no value, and microseconds since 1970.

    Two users of one hash would share a history: 3e-8 that there is such a pair among a million users.
    """

    user: np.ndarray
    post: np.ndarray
    created_us: np.ndarray
    """UNDATED where there is no date."""
    image: np.ndarray
    caption: np.ndarray

    @classmethod
    def of(cls, table: pa.Table) -> Self:
        """From a table with `COLUMNS`; the keys may be any strings that are equal where the content is."""
        created = table["created_at"].cast(pa.int64()).fill_null(UNDATED)
        return cls(
            user=hash_strings(table["user_id"]),
            post=hash_strings(table["post_id"]),
            created_us=created.to_numpy(),
            image=hash_strings(table["image_key"]),
            caption=hash_strings(table["caption_key"]),
        )

    @classmethod
    def concatenate(cls, pieces: Sequence["HistoryColumns"]) -> Self:
        """One after the other."""
        nothing = cls.of(PREPARED.empty_table())
        return cls(**{f.name: np.concatenate([getattr(p, f.name) for p in (nothing, *pieces)]) for f in fields(cls)})

    def __len__(self) -> int:
        return len(self.user)


COLUMNS = ("user_id", "post_id", "created_at", "image_key", "caption_key")
"""What the history of a dataset's posts is found from."""


def hash_strings(column: pa.ChunkedArray) -> np.ndarray:
    """uint64 of each string, the same on every machine; NO_HASH where it is null."""
    import pandas as pd  # here: a model without a history answers without it

    values = column.to_numpy() if len(column) else np.zeros(0, dtype=object)
    hashes = pd.util.hash_array(values, categorize=True) if len(column) else np.zeros(0, np.uint64)
    hashes = np.where(hashes == NO_HASH, np.uint64(1), hashes)
    return np.where(column.is_null().to_numpy(), np.uint64(NO_HASH), hashes)


def find_history(columns: HistoryColumns, rule: HistoryRule, first: int = 0) -> np.ndarray:
    """Rows of the history of each post from row `first` on: int32 [N - first, H], newest first, filled with -1.

    The posts before `first` are those of earlier splits: they stand in histories and are not asked for.
    """
    if len(columns) > np.iinfo(np.int32).max:
        raise ValueError(f"{len(columns)} posts are more than int32 can count")
    found = np.full((len(columns) - first, rule.posts), -1, dtype=np.int32)
    has_place = columns.user != NO_HASH
    if rule.order == "earlier":
        has_place &= columns.created_us != UNDATED
    rows = np.flatnonzero(has_place)
    order = rows[np.lexsort((columns.post[rows], columns.created_us[rows], columns.user[rows]))].astype(np.int32)
    line = _Line(columns, order, rule)
    asked = np.flatnonzero(order >= first)
    for start in range(0, len(asked), BLOCK_POSTS):
        places = asked[start : start + BLOCK_POSTS]
        found[order[places] - first] = line.before(places, rule.posts)
    return found


def dataset_history(dataset: Dataset, split: Split, rule: HistoryRule) -> tuple[np.ndarray, list[Split]]:
    """`find_history` for the posts of a split, and the splits whose rows, one after the other, it counts in."""
    splits = list(SPLITS[: SPLITS.index(split) + 1])
    pieces = [
        HistoryColumns.of(table) for name in splits for table in dataset.read(name, COLUMNS, batch_rows=BLOCK_POSTS)
    ]
    columns = HistoryColumns.concatenate(pieces)
    return find_history(columns, rule, len(columns) - dataset.info.posts.get(split, 0)), splits


class _Line:
    """All posts that have a place in histories, in order of user, date and id: arrays by place in that line."""

    def __init__(self, columns: HistoryColumns, order: np.ndarray, rule: HistoryRule) -> None:
        self.order, self.other = order, rule.order == "other"
        user, self.image, self.caption = (values[order] for values in (columns.user, columns.image, columns.caption))
        rank = np.arange(len(order))
        self.begin = _run_begins(user)
        self.size = np.bincount(self.begin, minlength=len(order))[self.begin]
        self.moment = _run_begins(user, columns.created_us[order])
        # How many places back from here, this one included, hold the same thing: a search jumps over them at once.
        self.same_image = rank - _run_begins(user, self.image) + 1
        self.same_caption = rank - _run_begins(user, self.caption) + 1
        self.same_both = rank - _run_begins(user, self.image, self.caption) + 1

    def before(self, places: np.ndarray, posts: int) -> np.ndarray:
        """Rows [n, posts] of the histories of the posts at those places."""
        found = np.full((len(places), posts), -1, dtype=np.int32)
        at = places - 1 if self.other else self.moment[places] - 1
        last = places - self.size[places] + 1 if self.other else self.begin[places]
        for h in range(posts):
            searching = np.flatnonzero(at >= last)
            while len(searching):
                jump = self._repeated(places[searching], self._around(places[searching], at[searching]))
                at[searching] -= jump
                searching = searching[jump > 0]
                searching = searching[at[searching] >= last[searching]]
            earlier = np.flatnonzero(at >= last)
            if not len(earlier):
                break
            found[earlier, h] = self.order[self._around(places[earlier], at[earlier])]
            at[earlier] -= 1
        return found

    def _around(self, places: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Before the user's first post comes the last one: the circle of order `other`."""
        return np.where(at < self.begin[places], at + self.size[places], at)

    def _repeated(self, places: np.ndarray, at: np.ndarray) -> np.ndarray:
        """How many places to go back because the posts there repeat the content of those at `places`; 0: none."""
        image = (self.image[places] == self.image[at]) & (self.image[at] != NO_HASH)
        caption = (self.caption[places] == self.caption[at]) & (self.caption[at] != NO_HASH)
        if self.other:
            return np.asarray(np.maximum(image * self.same_image[at], caption * self.same_caption[at]))
        alike = (self.image[places] == self.image[at]) & (self.caption[places] == self.caption[at])
        return np.asarray(((image | caption) & alike) * self.same_both[at])


def _run_begins(*keys: np.ndarray) -> np.ndarray:
    """For each place, where the run of places with its keys begins, int64."""
    if not len(keys[0]):
        return np.zeros(0, dtype=np.int64)
    changes = np.zeros(len(keys[0]), dtype=bool)
    changes[0] = True
    for key in keys:
        changes[1:] |= key[1:] != key[:-1]
    return np.maximum.accumulate(np.where(changes, np.arange(len(changes)), 0))
