"""From posts to rows of a dataset: what one batch needs to be looked at (INDEX) and to be written (PREPARED)."""

import functools
import hashlib
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hashtag_core import storage
from hashtag_core.config import ArchiveSection, CaptionsSection
from hashtag_core.data.captions import clean_caption, count_words, has_english_letters, normalised_caption
from hashtag_core.data.dataset import ROW_GROUP_ROWS, DatasetFile
from hashtag_core.data.formats.base import Post
from hashtag_core.data.hashtags import find_hashtags, normalise_hashtags
from hashtag_core.data.images import image_key, perceptual_hash
from hashtag_core.data.vocabulary import TagRules
from hashtag_core.schema import POST, PREPARED, TIMESTAMP

MAX_HELD_BYTES = 64 << 20

INDEX = pa.schema(
    [
        pa.field("part", pa.int32(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("post_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string()),
        pa.field("created_at", TIMESTAMP),
        pa.field("hashtags", pa.list_(pa.string()), nullable=False),
        pa.field("words", pa.int32(), nullable=False),
        pa.field("unfit", pa.string()),
        pa.field("caption_key", pa.binary(32)),
        pa.field("caption_hash", pa.int64()),
        pa.field("caption_words", pa.int32(), nullable=False),
        pa.field("image_key", pa.binary(32)),
        pa.field("image_hash", pa.uint64()),
        pa.field("image_too_large", pa.bool_(), nullable=False),
        pa.field("image_missing", pa.bool_(), nullable=False),
        pa.field("content_hash", pa.binary(32), nullable=False),
    ]
)
"""One post without its image: `words` of the cleaned caption; `unfit` is why `[archive]` leaves it out; `caption_hash` (8 bytes of SHA-256) and `caption_words` of the
normalised one; the keys are SHA-256; `image_missing`: a picture is named and could not be had. About 300 bytes a post, which is what the driver holds."""


@dataclass(frozen=True)
class PostRules:
    """Everything that decides how a post is read."""

    captions: CaptionsSection
    tags: TagRules
    archive: ArchiveSection

    def hashtags_of(self, written: list[str] | None, caption: str | None) -> list[str]:
        """The column's hashtags, or where it has none those in the caption; normalised, synonyms replaced."""
        return self.tags.apply(written or find_hashtags(caption or "", self.archive.hashtag_rules))

    def caption_of(self, caption: str | None, written: list[str] | None) -> str | None:
        """The caption as a model reads it: none of the post's hashtags is left in it."""
        return clean_caption(caption, self.captions, normalise_hashtags(written or []))


def lean_index(table: pa.Table) -> pa.Table:
    """The index of a part as the driver holds it: of keys that most posts may lack no room for those that are absent, of the
    hash that orders posts of one id 16 bytes, and of a field that all posts of the part lack no room at all."""
    columns = {"content_hash": pc.binary_slice(table["content_hash"], 0, 16).cast(pa.binary(16))}
    for field in table.schema:
        column, is_key = table[field.name], field.name in ("caption_key", "image_key")
        if len(column) and column.null_count == len(column):
            kind = pa.binary() if is_key else field.type
            columns[field.name] = pa.chunked_array([_nulls(kind, 1 << len(column).bit_length())[: len(column)]])
        elif is_key:
            columns[field.name] = _without_room(column)
    for name, column in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at).with_type(column.type), column)
    return table


@functools.lru_cache(maxsize=64)
def _nulls(kind: pa.DataType, length: int) -> pa.Array:
    """One array for the parts of all archives, which take slices of it."""
    return pa.nulls(length, kind)


def _without_room(keys: pa.ChunkedArray) -> pa.ChunkedArray:
    """As binary of any length; a cast alone keeps 32 bytes for what is absent."""
    return pa.chunked_array(
        [
            pa.array(chunk.to_pylist(), pa.binary()) if chunk.null_count else chunk.cast(pa.binary())
            for chunk in keys.chunks
        ],
        pa.binary(),
    )


def index_posts(posts: pa.Table, rows: pa.Array, part: int, rules: PostRules) -> pa.Table:
    """INDEX rows of posts (POST schema); `rows` are their numbers in the part."""
    indexed = [_index_post(post, rules) for post in posts.to_pylist()]
    columns = {name: [post[name] for post in indexed] for name in INDEX.names if name in _COMPUTED}
    fixed = {
        "part": pa.array([part] * posts.num_rows, pa.int32()),
        "row": rows,
        **{name: posts[name] for name in ("post_id", "user_id", "created_at")},
    }
    return pa.table({**fixed, **columns}, schema=INDEX)


_COMPUTED = frozenset(INDEX.names) - {"part", "row", "post_id", "user_id", "created_at"}


def _index_post(post: Post, rules: PostRules) -> dict[str, object]:
    """The columns of INDEX that are computed."""
    tags = rules.hashtags_of(post["hashtags"], post["caption"])
    cleaned = rules.caption_of(post["caption"], post["hashtags"])
    normalised = normalised_caption(post["caption"])
    too_large = post["image"] is not None and len(post["image"]) > rules.archive.max_image_bytes
    image = None if too_large else post["image"]
    key = None if image is None else bytes.fromhex(image_key(image))
    image_hash = None if image is None else perceptual_hash(image)
    others = [post[name] for name in POST.names if name not in ("post_id", "image")]
    return {
        "hashtags": tags,
        "words": count_words(cleaned),
        "unfit": _unfit(rules.archive, post["caption"], tags, {"image": image_hash, "caption": count_words(cleaned)}),
        "caption_key": None if cleaned is None else hashlib.sha256(cleaned.encode()).digest(),
        "caption_hash": int.from_bytes(hashlib.sha256(normalised.encode()).digest()[:8], "big", signed=True)
        if normalised
        else None,
        "caption_words": count_words(normalised),
        "image_key": key,
        "image_hash": image_hash,
        "image_too_large": too_large,
        "image_missing": post["image"] is None and bool((post["image_uri"] or "").strip()),
        "content_hash": hashlib.sha256(repr((others, key)).encode()).digest(),
    }


def _unfit(section: ArchiveSection, caption: str | None, tags: list[str], present: dict[str, int | None]) -> str | None:
    """Why `[archive]` leaves the post out, a key of `decide_splits.REASONS`; `present` is None or 0 for what the post lacks."""
    has = {"image": present["image"] is not None, "caption": bool(present["caption"]), "hashtags": bool(tags)}
    if not all(has[name] for name in section.require):
        return "lacks_required"
    if section.letters == "english" and not all(map(has_english_letters, [caption or "", *tags])):
        return "other_letters"
    return None


def prepare_posts(posts: pa.Table, rows: list[int], part_path: str, rules: PostRules) -> pa.Table:
    """PREPARED rows of posts (POST schema); `rows` are their numbers in the part."""
    captions = posts["caption"].to_pylist()
    written = posts["hashtags"].to_pylist()
    cleaned = [rules.caption_of(caption, tags) for caption, tags in zip(captions, written, strict=True)]
    small = pc.less_equal(pc.binary_length(posts["image"]), rules.archive.max_image_bytes)
    images = pc.if_else(pc.fill_null(small, False), posts["image"], pa.scalar(None, pa.binary()))
    computed = {
        "caption": cleaned,
        "hashtags": [rules.hashtags_of(tags, caption) for tags, caption in zip(written, captions, strict=True)],
        "image": images,
        "image_key": [None if image is None else image_key(image.as_py()) for image in _values(images)],
        "caption_key": [None if text is None else hashlib.sha256(text.encode()).hexdigest() for text in cleaned],
        "source": [f"{part_path}#{row}" for row in rows],
    }
    columns = {name: computed.get(name, posts[name] if name in POST.names else None) for name in PREPARED.names}
    return pa.table(columns, schema=PREPARED)


def _values(column: pa.ChunkedArray) -> list[pa.Scalar | None]:
    return [value if value.is_valid else None for value in column]


class SplitWriter:
    """Writes PREPARED rows to one file of a dataset in row groups of ROW_GROUP_ROWS rows or less; no rows, no file.

    The file appears under its name when `close` succeeds.
    """

    def __init__(self, dataset: str, path: str) -> None:
        self.path = path
        self.rows = 0
        self._uri = storage.join(dataset, path)
        self._stack = ExitStack()
        self._writer: pq.ParquetWriter | None = None
        self._held: list[pa.Table] = []

    def add(self, posts: pa.Table) -> None:
        """Take rows; they are written once there are enough for a row group."""
        self._held.append(posts)
        if (
            sum(table.num_rows for table in self._held) >= ROW_GROUP_ROWS
            or sum(t.nbytes for t in self._held) >= MAX_HELD_BYTES
        ):
            self._flush()

    def close(self) -> DatasetFile | None:
        """Publish the file: its path and rows, or None if there were no rows."""
        self._flush()
        self._stack.close()
        return DatasetFile(path=self.path, rows=self.rows) if self.rows else None

    def abandon(self) -> None:
        """Drop what was written."""
        with suppress(_Abandoned), self._stack:
            raise _Abandoned

    def _flush(self) -> None:
        if not self._held:
            return
        if self._writer is None:
            sink = self._stack.enter_context(storage.open_output(self._uri))
            options = {
                "compression": "zstd",
                "use_dictionary": ["user_id"],
                "write_statistics": ["post_id", "created_at"],
            }
            self._writer = self._stack.enter_context(pq.ParquetWriter(sink, PREPARED, **options))
        table = pa.concat_tables(self._held)
        self._held = []
        self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        self.rows += table.num_rows


class _Abandoned(Exception):  # noqa: N818  (no error: it unwinds a stack)
    """The file is not to appear."""
