"""What histories are found from in an archive: its small columns, read alone. Images are never touched.

An archive has no content keys, and hashing its images would mean reading all of it: two posts of a user hold the same
content where their `image_uri` (or none) and their captions are equal, to the letter, and the caption has at least
`REPEAT_WORDS` words: the rule by which `prepare` knows a repost without an image.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hashtag_core.data.hashtags import find_hashtags, normalise_hashtag
from hashtag_core.data.history import NO_HASH, UNDATED, HistoryColumns
from hashtag_core.data.vocabulary import Vocabulary

READ = ("post_id", "user_id", "created_at", "caption", "hashtags", "image_uri")
"""The columns of POST that are read."""

REPEAT_WORDS = 5


class TagFinder:
    """The hashtags of posts as `prepare` finds them, as indices of a vocabulary: the column's, or where it has none those
    in the caption, normalised, synonyms replaced."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._index = vocabulary.index
        self._synonyms: dict[str, str] = vocabulary.config.get("synonyms", {})
        self._known: dict[str, int] = {}
        """Index of every spelling seen, -1 where it is not in the vocabulary."""

    def find(self, written: list[str] | None, caption: str | None) -> list[int]:
        """Indices in the author's order, each once."""
        found = (self._find(tag) for tag in written or find_hashtags(caption or ""))
        return list(dict.fromkeys(index for index in found if index >= 0))

    def _find(self, tag: str) -> int:
        if tag not in self._known:
            normalised = normalise_hashtag(tag)
            self._known[tag] = self._index.get(self._synonyms.get(normalised, normalised), -1)
        return self._known[tag]


@dataclass
class ArchivePosts:
    """Posts of an archive, one piece after the other: what decides on histories, and the tags."""

    tags: TagFinder
    _columns: list[HistoryColumns] = field(default_factory=list)
    _lengths: list[np.ndarray] = field(default_factory=list)
    _indices: list[np.ndarray] = field(default_factory=list)

    def add(self, posts: pa.Table, places: np.ndarray | None = None, rows: int | None = None) -> None:
        """Take posts (at least the columns of `READ`, normalised).

        `places` puts them into a piece of `rows` rows, those at other places are no posts: nobody's, without tags.
        """
        n = posts.num_rows if rows is None else rows
        at = np.arange(n) if places is None else places
        columns = columns_of(posts)
        spread = {name: np.zeros(n, values.dtype) for name, values in vars(columns).items()}
        spread["created_us"][:] = UNDATED
        for name, values in vars(columns).items():
            spread[name][at] = values
        self._columns.append(HistoryColumns(**spread))
        found = [self.tags.find(*post) for post in zip(*self._texts(posts), strict=True)]
        lengths = np.zeros(n, np.int64)
        lengths[at] = [len(tags) for tags in found]
        self._lengths.append(lengths)
        self._indices.append(np.array([index for tags in found for index in tags], dtype=np.int32))

    def columns(self) -> HistoryColumns:
        """Of all posts."""
        return HistoryColumns.concatenate(self._columns)

    def tag_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Offsets [N + 1] and indices of the tags of all posts; see `history_batch.ArrayPosts`."""
        return np.concatenate([[0], *self._lengths]).cumsum(), np.concatenate([np.zeros(0, np.int32), *self._indices])

    @staticmethod
    def _texts(posts: pa.Table) -> Iterator[list[object]]:
        """The columns that tags are found in; a caption only where there is no other place for them."""
        written = pc.fill_null(pc.list_value_length(posts["hashtags"]), 0)
        yield posts["hashtags"].to_pylist()
        yield pc.if_else(pc.equal(written, 0), posts["caption"], pa.scalar(None, pa.string())).to_pylist()


def columns_of(posts: pa.Table) -> HistoryColumns:
    """Of posts in (part of) the POST schema."""
    long = pc.greater_equal(pc.count_substring(posts["caption"], " "), REPEAT_WORDS - 1)
    captions = pc.if_else(pc.fill_null(long, False), posts["caption"], pa.scalar(None, pa.string()))
    keys = posts.append_column("caption_key", captions).append_column("image_key", posts["image_uri"])
    return HistoryColumns.of(keys)


def only_last(columns: HistoryColumns) -> None:
    """Of posts with one id the last one alone stands in histories and has one; the others become nobody's."""
    _, last = np.unique(columns.post[::-1], return_index=True)
    earlier = np.ones(len(columns), dtype=bool)
    earlier[len(columns) - 1 - last] = False
    columns.user[earlier] = NO_HASH
