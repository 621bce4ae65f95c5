"""The middle of `prepare`: from the index of all posts to who goes where, the vocabulary and the content hash.

Pure: it reads small columns and gives arrays; nothing is written.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hashtag_core.config import SplitSection, VocabularySection
from hashtag_core.data.dataset import SPLITS
from hashtag_core.data.splits import (
    NO_CODE,
    OUT,
    TEST,
    TRAIN,
    PostColumns,
    cut_by_hash,
    cut_by_time,
    group_labels,
    later_ones,
    near_duplicate_labels,
    superseded_ids,
    wanted_sides,
)
from hashtag_core.data.vocabulary import Vocabulary, build_vocabulary
from hashtag_core.errors import ConfigError

logger = logging.getLogger(__name__)

KEPT = ""
REPEATED_ID = "repeated post_id"
REASONS: dict[str, str] = {
    "lacks_required": "no picture, caption or hashtag, which archive.require asks for",
    "other_letters": "an emoji or a letter beyond A-Z, and archive.letters = 'english'",
    "caption_too_short": "the cleaned caption has fewer words than captions.min_words",
    "near_duplicate": "an earlier post has the same image and caption (without image: the same caption)",
    "in_test_archive": "a post of the test archive has the same id, image or caption",
    "undated": "split.kind = 'by_time' and no created_at",
    "repeats_across_border": "an earlier post with the same image or caption is in another split",
    "no_hashtag": "a train post without a hashtag",
    "too_few_hashtags": "a train post with fewer hashtags than vocabulary.min_tags_per_post",
}
"""Why a valid post is in no split."""


_WHY = (KEPT, REPEATED_ID, *REASONS)


@dataclass
class Partition:
    """`split_of` of each row of the index (int8; OUT or an index of SPLITS), and why those that are OUT are."""

    split_of: np.ndarray
    reason_codes: np.ndarray
    """int8, for `reasons`: a string each would be eight bytes a post."""
    vocabulary: Vocabulary
    notes: list[str] = field(default_factory=list)

    def reasons(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Why each of these rows is in no split: a key of REASONS, or REPEATED_ID for one that is rejected; KEPT if it is in one."""
        return [_WHY[code] for code in self.reason_codes[np.asarray(rows, np.int64)]]

    @property
    def posts(self) -> dict[str, int]:
        """Posts of each split."""
        return {name: int((self.split_of == index).sum()) for index, name in enumerate(SPLITS)}

    @property
    def left_out(self) -> dict[str, int]:
        """Valid posts in no split, by reason."""
        counts = dict(zip(_WHY, np.bincount(self.reason_codes, minlength=len(_WHY)).tolist(), strict=True))
        return {name: counts[name] for name in REASONS if counts[name]}


def partition_posts(
    index: pa.Table,
    from_test: np.ndarray,
    split: SplitSection,
    vocabulary: VocabularySection,
    min_words: int,
    deny: frozenset[str],
) -> Partition:
    """Decide on every row of the index; `from_test` marks those of the test archive, all of which are test.

    ConfigError where a split that was asked for, or the vocabulary, comes out empty; it says the counts and what to change.
    """
    columns = PostColumns.of(index)
    split_of = np.full(len(columns), OUT, dtype=np.int8)
    reason = np.zeros(len(columns), dtype=np.int8)
    main, test = np.flatnonzero(~from_test), np.flatnonzero(from_test)

    def leave_out(rows: np.ndarray, lost: np.ndarray, why: str) -> np.ndarray:
        reason[rows[lost]] = _WHY.index(why)
        return np.asarray(rows[~lost])

    too_short = index["words"].to_numpy() < min_words
    main = leave_out(main, superseded_ids(columns, main), REPEATED_ID)
    test = leave_out(test, superseded_ids(columns, test), REPEATED_ID)
    for why in ("lacks_required", "other_letters"):
        if index["unfit"].null_count == len(columns):
            break
        unfit = pc.fill_null(pc.equal(index["unfit"], why), False).to_numpy()
        main, test = leave_out(main, unfit[main], why), leave_out(test, unfit[test], why)
    main = leave_out(main, too_short[main], "caption_too_short")
    test = leave_out(test, too_short[test], "caption_too_short")

    both = np.concatenate([main, test])
    repeats = np.full(len(columns), NO_CODE, dtype=np.int64)
    repeats[both] = near_duplicate_labels(columns.take(both), split.near_duplicate_bits)
    rank = columns.earliest_first()
    main = leave_out(main, _shared_with(columns, repeats, main, test), "in_test_archive")
    test = leave_out(test, later_ones(repeats[test], rank[test]), "near_duplicate")
    main = leave_out(main, later_ones(repeats[main], rank[main]), "near_duplicate")
    del rank, both

    kept_columns = columns.take(main)
    del columns
    shares = wanted_sides(split, test_is_given=bool(from_test.any()))
    labels = group_labels(kept_columns, repeats[main], by_user=split.kind == "by_user")
    sides = (
        cut_by_time(kept_columns, labels, shares)
        if split.kind == "by_time"
        else cut_by_hash(kept_columns, labels, split, shares)
    )
    split_of[main], split_of[test] = sides.split_of, TEST
    leave_out(main, sides.split_of == OUT, "undated")
    leave_out(main, sides.repeats_across_border, "repeats_across_border")
    del kept_columns, labels, repeats

    tags = index["hashtags"]
    train = np.flatnonzero(split_of == TRAIN)
    train = leave_out(train, _tag_counts(tags, train) == 0, "no_hashtag")
    if vocabulary.min_tags_counted == "before_cut":
        train = leave_out(train, _tag_counts(tags, train) < vocabulary.min_tags_per_post, "too_few_hashtags")
    built = build_vocabulary(_lists(tags, train), vocabulary, deny)
    if vocabulary.min_tags_counted == "after_cut" and vocabulary.min_tags_per_post:
        known = np.fromiter((len(built.encode(row)) for row in _lists(tags, train)), np.int64, len(train))
        train = leave_out(train, known < vocabulary.min_tags_per_post, "too_few_hashtags")
        built = _recounted(built, _lists(tags, train))
    split_of[(split_of == TRAIN) & (reason != _WHY.index(KEPT))] = OUT
    partition = Partition(split_of, reason, built, sides.notes)
    _check(partition, [TRAIN, *shares, *([TEST] if from_test.any() else [])], split, vocabulary, index, deny)
    return partition


def content_hash(index: pa.Table, split_of: np.ndarray, config: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the configuration and of (split, id, hashtags, caption, image) of every post kept, sorted: equal for
    equal content, whatever the machine, the parts and their order."""
    kept = np.flatnonzero(split_of != OUT)
    whole = index if len(kept) == len(split_of) else index.select(["post_id"]).take(pa.array(kept))
    keys = pa.table({"side": split_of[kept], "post_id": whole["post_id"]})
    order = kept[pc.sort_indices(keys, [("side", "ascending"), ("post_id", "ascending")]).to_numpy()]
    del whole, keys
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, ensure_ascii=False).encode())
    names = ["post_id", "user_id", "created_at", "hashtags", "caption_key", "image_key"]
    columns = index.select(names)
    for begin in range(0, len(order), SOME):
        rows = order[begin : begin + SOME]
        batch = columns.take(pa.array(rows)).add_column(0, "side", pa.array(split_of[rows])).cast(_HASHED)
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            digest.update(repr(row).encode())
    return digest.hexdigest()


SOME = 65_536
"""Posts that are Python objects at once."""

_HASHED = pa.schema(
    [
        pa.field("side", pa.int8()),
        pa.field("post_id", pa.string()),
        pa.field("user_id", pa.string()),
        pa.field("created_at", pa.int64()),
        pa.field("hashtags", pa.list_(pa.string())),
        pa.field("caption_key", pa.binary(32)),
        pa.field("image_key", pa.binary(32)),
    ]
)


def _shared_with(columns: PostColumns, repeats: np.ndarray, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """bool for each of `rows`: whether one of `others` has its id, image or caption, or is a near-duplicate of it."""
    if not len(others):
        return np.zeros(len(rows), dtype=bool)
    shared = np.isin(repeats[rows], repeats[others])
    for codes in (columns.image, columns.caption):
        shared |= np.isin(codes[rows], codes[others][codes[others] != NO_CODE])
    ids = pc.is_in(columns.post_ids.take(pa.array(rows)), value_set=columns.post_ids.take(pa.array(others)))
    return np.asarray(shared | np.asarray(ids, dtype=bool))


def _tag_counts(tags: pa.ChunkedArray, rows: np.ndarray) -> np.ndarray:
    lengths = np.asarray(pc.list_value_length(tags), dtype=np.int32)
    return np.asarray(lengths[rows])


def _lists(tags: pa.ChunkedArray, rows: np.ndarray) -> Iterator[list[str]]:
    """The hashtags of those rows, which ascend; of which Python holds some at a time."""
    begin = 0
    for chunk in tags.chunks:
        for start in range(0, len(chunk), SOME):
            piece = chunk.slice(start, SOME)
            here = rows[np.searchsorted(rows, begin) : np.searchsorted(rows, begin + len(piece))] - begin
            yield from piece.take(pa.array(here)).to_pylist()
            begin += len(piece)


def _recounted(vocabulary: Vocabulary, train_tags: Iterable[list[str]]) -> Vocabulary:
    """The same tags, counted again in the posts that stayed; a tag that none of them has is dropped."""
    keep = VocabularySection(min_count=1, max_size=max(1, len(vocabulary)))
    known = ([tag for tag in tags if tag in vocabulary.index] for tags in train_tags)
    built = build_vocabulary(known, keep)
    return Vocabulary(built.tags, built.counts, built.posts, vocabulary.config)


def _remedy(partition: Partition, split: SplitSection) -> str:
    """What to do about a split without a post, by what is most likely the cause."""
    if partition.left_out.get("no_hashtag", 0) > len(partition.split_of) // 2:
        return "most posts have no hashtag: --map hashtags=COLUMN names the column that holds them"
    if split.kind != "random":
        other = "--set split.kind=random draws posts one by one"
        groups = "users (those who share pictures or captions count as one)" if split.kind == "by_user" else "times"
        return f"too few {groups}: give more posts, raise the share (split.validation, split.test), or {other}"
    return (
        "give more posts, raise the share (split.validation, split.test), or loosen captions.min_words and "
        "vocabulary.min_tags_per_post"
    )


def _check(
    partition: Partition,
    wanted: list[int],
    split: SplitSection,
    vocabulary: VocabularySection,
    index: pa.Table,
    deny: frozenset[str],
) -> None:
    if not pc.any(pc.greater(pc.list_value_length(index["hashtags"]), 0)).as_py():
        raise ConfigError(
            f"not one of {index.num_rows} posts has a hashtag, in a column of its own or in its caption: "
            "--map hashtags=COLUMN (or caption=COLUMN) says which column holds them"
        )
    counts = ", ".join(f"{name} {n}" for name, n in partition.posts.items())
    gone = ", ".join(f"{name} {n}" for name, n in partition.left_out.items())
    message = f"{counts} of {len(partition.split_of)} posts" + (f"; left out: {gone}" if gone else "")
    empty = [SPLITS[place] for place in wanted if not (partition.split_of == place).any()]
    if empty:
        raise ConfigError(
            f"split.kind = {split.kind!r} leaves {' and '.join(empty)} empty ({message}): {_remedy(partition, split)}"
        )
    if not len(partition.vocabulary):
        train = np.flatnonzero(partition.split_of == TRAIN)
        top = build_vocabulary(_lists(index["hashtags"], train), VocabularySection(min_count=1, max_size=1), deny)
        used = (
            f"the most used hashtag {top.tags[0]!r} has {top.counts[0]} train post(s)" if len(top) else "all are denied"
        )
        raise ConfigError(
            f"the vocabulary is empty ({message}): {used}, vocabulary.min_count is {vocabulary.min_count}: lower it"
        )
