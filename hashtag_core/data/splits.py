"""Which posts are one, which belong together, and which split each goes to.

Pure functions of small columns. Every decision rests on what a post holds, never on where it stands: the same posts give
the same splits on every machine, in every order of parts.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hashtag_core.config import SplitSection
from hashtag_core.data.dataset import SPLITS
from hashtag_core.errors import ConfigError

TRAIN, VALIDATION, TEST = range(3)
OUT = -1
"""Side of a post that is in no split; the others index `SPLITS`."""

REPOST_WORDS = 5
"""Posts without an image are one if they share a caption of at least this many words."""

RARE_CAPTION_USERS = 10
RARE_SHORT_CAPTION_USERS = 3
"""Users who may share a caption (of REPOST_WORDS words, or shorter) and be held together by it. What more of them write is a
greeting or a slogan: through a few of these, half of an archive's users would become one group."""

NO_CODE = -1
"""Code of an absent value."""

NO_DATE_US = np.iinfo(np.int64).max


@dataclass
class PostColumns:
    """What the decisions read, row-aligned. Codes are arbitrary non-negative integers, equal for equal values; NO_CODE: absent."""

    post_ids: pa.ChunkedArray
    post: np.ndarray
    """uint64, a hash of the id: equal for equal ids, and now and then for others."""
    user: np.ndarray
    created_us: np.ndarray
    """Microseconds since 1970; NO_DATE_US without a date."""
    image: np.ndarray
    """Code of the image's bytes."""
    caption: np.ndarray
    """Code of the normalised caption."""
    caption_words: np.ndarray
    image_hash: np.ndarray
    """uint64, the perceptual hash."""
    image_hashed: np.ndarray
    """bool: whether there is one."""
    content: pa.ChunkedArray
    """Hash of everything in the post, to order posts that share id and date."""
    users: pa.ChunkedArray

    @classmethod
    def of(cls, index: pa.Table) -> "PostColumns":
        """From a table in the INDEX schema of `hashtag_core.data.dataset_rows`."""

        def codes(name: str) -> np.ndarray:
            if index[name].null_count == len(index):
                return _everywhere(NO_CODE, len(index))
            encoded = pc.dictionary_encode(index[name])
            return np.concatenate(
                [np.asarray(pc.fill_null(chunk.indices, NO_CODE), np.int64) for chunk in encoded.chunks]
            )

        def numbers(name: str, absent: int) -> np.ndarray:
            if index[name].null_count == len(index):
                return _everywhere(absent, len(index))
            stored = index[name].cast(pa.int64()) if name == "created_at" else index[name]
            return np.asarray(pc.fill_null(stored, pa.scalar(absent, stored.type)).to_numpy())

        return cls(
            post_ids=index["post_id"],
            post=_id_hashes(index["post_id"]),
            user=codes("user_id"),
            created_us=numbers("created_at", NO_DATE_US),
            image=_digest_codes(index["image_key"]),
            caption=_caption_codes(index["caption_hash"]),
            caption_words=index["caption_words"].to_numpy(),
            image_hash=numbers("image_hash", 0).view(np.uint64),
            image_hashed=index["image_hash"].is_valid().to_numpy(),
            content=index["content_hash"],
            users=index["user_id"],
        )

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: np.ndarray) -> "PostColumns":
        """Those rows, in that order."""
        if len(rows) == len(self) and np.array_equal(rows, np.arange(len(self))):
            return self
        taken = pa.array(rows)

        def of(column: np.ndarray | pa.ChunkedArray) -> np.ndarray | pa.ChunkedArray:
            if not isinstance(column, np.ndarray):
                return column.take(taken)
            is_everywhere = column.strides == (0,)
            return column[: len(rows)] if is_everywhere else column[rows]

        return PostColumns(**{item.name: of(getattr(self, item.name)) for item in fields(self)})

    def earliest_first(self) -> np.ndarray:
        """Rank of each post by date (undated last), then by id, then by content."""
        order = pc.sort_indices(
            pa.table({"created": self.created_us, "id": self.post_ids, "content": self.content}),
            sort_keys=[("created", "ascending"), ("id", "ascending"), ("content", "ascending")],
        ).to_numpy()
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        return rank


@dataclass
class SplitCut:
    """`split_of` of each post (int8: OUT or an index of `SPLITS`), and what a person should know about the cut."""

    split_of: np.ndarray
    repeats_across_border: np.ndarray
    """bool: left out because an earlier post of the same group is in another split."""
    notes: list[str] = field(default_factory=list)


def superseded_ids(columns: PostColumns, rows: np.ndarray) -> np.ndarray:
    """bool for each of `rows`: posts whose id occurs again in a post that wins: the latest, undated before dated, then by
    content hash."""
    lost = np.zeros(len(rows), dtype=bool)
    hashes = np.sort(columns.post[rows])
    twice = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    repeated = np.flatnonzero(np.isin(columns.post[rows], twice)) if len(twice) else twice
    if not len(repeated):
        return lost
    among = rows[repeated]
    created = columns.created_us[among]
    frame = pd.DataFrame(
        {
            "id": pc.dictionary_encode(columns.post_ids.take(pa.array(among)).combine_chunks()).indices.to_numpy(),
            "created": np.where(created == NO_DATE_US, np.iinfo(np.int64).min, created),
            "content": pc.rank(columns.content.take(pa.array(among)), "ascending", tiebreaker="dense").to_numpy(),
        }
    )
    ordered = frame.sort_values(["id", "created", "content"], kind="stable")
    lost[repeated[ordered.index[ordered.duplicated("id", keep="last")]]] = True
    return lost


def near_duplicate_labels(columns: PostColumns, bits: int) -> np.ndarray:
    """Equal labels for posts that are one: same image (bytes, or perceptual hashes at most `bits` apart) and same
    normalised caption (none counts as one); without image the same caption of `REPOST_WORDS` words."""
    pictured, textual = columns.image != NO_CODE, (columns.image == NO_CODE) & (columns.caption != NO_CODE)
    hashed = columns.image_hashed & pictured
    links = [
        _links(np.stack([columns.image, columns.caption]), pictured),
        _links(np.stack([columns.image_hash.view(np.int64), columns.caption]), hashed),
        _links(columns.caption[None], textual & (columns.caption_words >= REPOST_WORDS)),
    ]
    if bits:
        links.append(_close_hashes(columns, np.flatnonzero(hashed), bits))
    return _components(len(columns), links)


def group_labels(columns: PostColumns, near_duplicates: np.ndarray, *, by_user: bool) -> np.ndarray:
    """Equal labels for posts that no border may part: near-duplicates, a shared image, a shared normalised caption and,
    `by_user`, one user. Where users are held together a caption holds only if it is rare (RARE_CAPTION_USERS)."""
    codes = [near_duplicates, columns.image, columns.caption]
    if by_user:
        codes = [near_duplicates, columns.image, np.where(_is_rare(columns), columns.caption, NO_CODE), columns.user]
    return _components(len(columns), [_links(code[None], code != NO_CODE) for code in codes])


def _is_rare(columns: PostColumns) -> np.ndarray:
    """bool: posts whose caption few users have; a post without a user counts as one."""
    rare = np.asarray(columns.caption != NO_CODE)
    rows = np.flatnonzero(rare)
    author = np.where(columns.user[rows] == NO_CODE, -2 - rows, columns.user[rows])
    users = pd.Series(author).groupby(columns.caption[rows]).transform("nunique").to_numpy()
    most = np.where(columns.caption_words[rows] >= REPOST_WORDS, RARE_CAPTION_USERS, RARE_SHORT_CAPTION_USERS)
    rare[rows] = users <= most
    return rare


def later_ones(labels: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """bool: every post of a label but the one of lowest rank."""
    order = np.lexsort((rank, labels))
    later = np.zeros(len(labels), dtype=bool)
    later[order[1:]] = labels[order[1:]] == labels[order[:-1]]
    return later


def wanted_sides(split: SplitSection, *, test_is_given: bool) -> dict[int, float]:
    """Shares of the posts that go to validation and to test."""
    shares = {VALIDATION: split.validation}
    if split.test > 0 and not test_is_given:
        shares[TEST] = split.test
    return shares


def cut_by_hash(columns: PostColumns, labels: np.ndarray, split: SplitSection, shares: Mapping[int, float]) -> SplitCut:
    """A random split for whole groups, from a hash of (seed, smallest key of the group): adding posts moves no other group.

    The key is the user (`by_user`, where there is one) or the post id. A group larger than the share of a split would decide its
    figure alone and goes to train. A split that nothing falls to gets the group whose size is nearest to its share, but never the largest one.
    """
    sizes = np.bincount(labels)
    if not sizes.all():  # else they are numbered without a gap already
        labels = np.unique(labels, return_inverse=True)[1]
        sizes = np.bincount(labels)
    position = _positions(_smallest_keys(columns, labels, by_user=split.kind == "by_user"), split.seed)
    position = (position - split.fold * split.test) % 1.0  # the part in question comes first
    split_of = np.full(len(sizes), TRAIN, dtype=np.int8)
    begin, notes = 0.0, []
    for place in (TEST, VALIDATION):
        share = shares.get(place, 0.0)
        split_of[(position >= begin) & (position < begin + share)] = place
        begin += share
        large = (split_of == place) & (sizes > max(share * len(columns), 1))
        if large.any():
            split_of[large] = TRAIN
            notes.append(
                f"{large.sum()} group(s) larger than the {SPLITS[place]} share went to train, {sizes[large].max()} posts at most"
            )
    for place in (TEST, VALIDATION):
        free = np.flatnonzero(split_of == TRAIN)
        if place in shares and not (split_of == place).any() and len(free) > 1:
            free = np.delete(
                free, np.lexsort((position[free], -sizes[free]))[0]
            )  # of equal ones not the first that came
            chosen = free[np.lexsort((position[free], np.abs(sizes[free] - shares[place] * len(columns))))[0]]
            split_of[chosen] = place
            notes.append(
                f"no group fell to {SPLITS[place]}: it got the one nearest to its share, {sizes[chosen]} post(s)"
            )
    return SplitCut(split_of[labels], np.zeros(len(columns), dtype=bool), notes)


def cut_by_time(columns: PostColumns, labels: np.ndarray, shares: Mapping[int, float]) -> SplitCut:
    """Train strictly before validation strictly before test; posts without a date are OUT.

    Borders are dates that occur, as near to the shares as they come. Of a group that a border parts, the posts on
    another split than the earliest one's are OUT too.

    ConfigError where there are fewer distinct dates than splits.
    """
    created = columns.created_us
    dated = created != NO_DATE_US
    dates, counts = np.unique(created[dated], return_counts=True)
    places = [place for place in (TEST, VALIDATION) if place in shares]
    if len(dates) <= len(places):
        raise ConfigError(
            f"split.kind = 'by_time': {len(places) + 1} splits need as many distinct created_at, found {len(dates)} in "
            f"{dated.sum()} dated of {len(columns)} posts; use 'random' or 'by_user'"
        )
    split_of = np.where(dated, TRAIN, OUT).astype(np.int8)
    from_here = counts[::-1].cumsum()[::-1]
    share, end, notes = 0.0, len(dates), []
    for left, place in zip(range(len(places), 0, -1), places, strict=True):
        share += shares[place]
        candidates = np.arange(left, end)
        border = int(candidates[np.argmin(np.abs(from_here[left:end] - share * dated.sum()))])
        before = created < dates[end] if end < len(dates) else True
        split_of[dated & (created >= dates[border]) & before] = place
        end = border
        notes.append(
            f"{SPLITS[place]} begins at {pa.scalar(int(dates[border]), pa.timestamp('us', 'UTC')).as_py().isoformat()}"
        )
    rank = columns.earliest_first()
    first_split = pd.Series(split_of[np.argsort(rank)]).groupby(labels[np.argsort(rank)], sort=False).first()
    stray = dated & (split_of != first_split.loc[labels].to_numpy())
    split_of[stray] = OUT
    return SplitCut(split_of, stray, notes)


_POSITIVE = np.int64(np.iinfo(np.int64).max)


def _everywhere(value: int, count: int) -> np.ndarray:
    """int64, the same value for every post, without room for each: millions of posts may all lack a field. Read-only."""
    return np.broadcast_to(np.int64(value), (count,))


def _id_hashes(ids: pa.ChunkedArray) -> np.ndarray:
    """uint64 of each; in place of codes, for which every id would be held twice."""
    pieces = [pd.util.hash_array(chunk.to_numpy(zero_copy_only=False), categorize=False) for chunk in ids.chunks]
    return np.concatenate([np.zeros(0, np.uint64), *pieces])


def _caption_codes(hashes: pa.ChunkedArray) -> np.ndarray:
    """63 bits of each hash, NO_CODE where there is none."""
    if hashes.null_count == len(hashes):
        return _everywhere(NO_CODE, len(hashes))
    return np.where(hashes.is_valid().to_numpy(), pc.fill_null(hashes, 0).to_numpy() & _POSITIVE, NO_CODE)


def _digest_codes(digests: pa.ChunkedArray) -> np.ndarray:
    """63 bits of each SHA-256, NO_CODE where there is none: two of 10,000,000 are alike once in 200,000 archives."""
    if digests.null_count == len(digests):
        return _everywhere(NO_CODE, len(digests))
    codes = np.full(len(digests), NO_CODE, dtype=np.int64)
    begin = 0
    for chunk in digests.chunks:
        if chunk.null_count < len(chunk):
            first = pc.binary_slice(chunk.drop_null(), 0, 8).cast(pa.binary(8)).buffers()[1]
            valid = chunk.is_valid().to_numpy(zero_copy_only=False)
            codes[begin : begin + len(chunk)][valid] = np.frombuffer(first, np.int64, int(valid.sum())) & _POSITIVE
        begin += len(chunk)
    return codes


def _links(keys: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Pairs (row, first row with the same keys) for the rows `among` but those that are the first, int64 [2, m]; keys are [k, n]."""
    rows = np.flatnonzero(among)
    if not len(rows):
        return np.empty((2, 0), dtype=np.int64)
    order = rows[np.lexsort([key[rows] for key in keys])]  # stable: of equal keys the first row comes first
    new = np.ones(len(order), dtype=bool)
    new[1:] = False
    for key in keys:
        new[1:] |= key[order[1:]] != key[order[:-1]]
    if new.all():
        return np.empty((2, 0), dtype=np.int64)
    first = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]
    return np.stack([order[~new], first[~new]])


def _close_hashes(columns: PostColumns, rows: np.ndarray, bits: int) -> np.ndarray:
    """Pairs of posts of one caption whose perceptual hashes differ in at most `bits` bits."""
    import faiss  # it tells at length how it was loaded: only to those who search

    pairs: list[np.ndarray] = [np.empty((2, 0), dtype=np.int64)]
    _, of_caption, counts = np.unique(columns.caption[rows], return_inverse=True, return_counts=True)
    rows = rows[counts[of_caption] > 1]
    for _, same in pd.Series(rows).groupby(columns.caption[rows], sort=False):
        hashes, first = np.unique(columns.image_hash[same.to_numpy()], return_index=True)
        if len(hashes) < 2:
            continue
        codes = hashes.view(np.uint8).reshape(-1, 8)
        search = faiss.IndexBinaryFlat(64)
        search.add(codes)
        limits, _, found = search.range_search(codes, bits + 1)
        of = np.repeat(np.arange(len(hashes)), [int(end - begin) for begin, end in itertools.pairwise(limits)])
        pairs.append(same.to_numpy()[first[np.stack([of, found])]])
    return np.concatenate(pairs, axis=1)


def _components(n: int, links: Sequence[np.ndarray]) -> np.ndarray:
    left, right = np.concatenate([np.empty((2, 0), dtype=np.int64), *links], axis=1)
    graph = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def _smallest_keys(columns: PostColumns, labels: np.ndarray, *, by_user: bool) -> np.ndarray:
    """uint64 of each group: the smallest hash of a key in it."""
    keys = np.zeros(len(columns), dtype=np.uint64)
    with_user = (columns.user != NO_CODE) & by_user
    posts = columns.post_ids if not with_user.any() else columns.post_ids.filter(pa.array(~with_user))
    keys[~with_user] = _hashes((f"post:{post_id}" for post_id in _texts(posts)), len(posts))
    if with_user.any():
        users = pc.dictionary_encode(columns.users.filter(pa.array(with_user)).combine_chunks())
        of_users = _hashes((f"user:{user}" for user in _texts(users.dictionary)), len(users.dictionary))
        keys[with_user] = of_users[users.indices.to_numpy()]
    smallest = np.full(labels.max(initial=-1) + 1, np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(smallest, labels, keys)
    return smallest


def _positions(keys: np.ndarray, seed: int) -> np.ndarray:
    """Place of each key in [0, 1), uniform over seeds."""
    return _hashes((f"{seed}:{int(key):016x}" for key in keys), len(keys)) / 2.0**64


def _texts(array: pa.Array | pa.ChunkedArray) -> Iterator[str]:
    """The values, of which Python holds some at a time."""
    for begin in range(0, len(array), _SOME):
        yield from array.slice(begin, _SOME).to_pylist()


_SOME = 65_536


def _hashes(texts: Iterable[str], count: int) -> np.ndarray:
    digests = (int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") for text in texts)
    return np.fromiter(digests, dtype=np.uint64, count=count)
