"""`posts`: a folder of Parquet parts in the POST schema, at any depth."""

from collections.abc import Iterator

from hashtag_core.data.formats.base import MAX_BATCH_BYTES, ArchiveFormat
from hashtag_core.data.posts import PartBatch, iter_post_batches, list_parts, part_problem
from hashtag_core.storage import FileInfo


def _read(part: FileInfo, batch_rows: int) -> Iterator[PartBatch]:
    return iter_post_batches(part, batch_rows, max_batch_bytes=MAX_BATCH_BYTES)


POSTS = ArchiveFormat("posts", "*.parquet at any depth, columns of the POST schema", list_parts, part_problem, _read)
