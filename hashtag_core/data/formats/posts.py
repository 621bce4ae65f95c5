"""`posts`: a folder of Parquet parts in the POST schema, at any depth."""

import json
from collections.abc import Iterator
from typing import Any

from hashtag_core.data.formats.base import MAX_BATCH_BYTES, ArchiveFormat, ArchivePart, Columns
from hashtag_core.data.list_parts import Listing, list_parquet
from hashtag_core.data.parquet_rows import PartBatch, iter_post_batches, part_problem
from hashtag_core.data.reading_options import AS_IT_IS, Reading
from hashtag_core.storage import FileInfo


def survey(archive_uri: str, reading: Reading) -> Listing[Any]:
    """The Parquet parts; a part knows how it is to be read where somebody said so."""
    listing: Listing[Any] = list_parquet(archive_uri)
    if reading != AS_IT_IS:
        selection_text = json.dumps(reading.to_json())
        listing.parts = [ArchivePart(**vars(part), selection=selection_text) for part in listing.parts]
    return listing


def reading_of(part: FileInfo) -> Reading:
    """What was said of the archive that the part is of."""
    return Reading(**json.loads(part.selection)) if isinstance(part, ArchivePart) and part.selection else AS_IT_IS


def _problem(part: FileInfo) -> str | None:
    return part_problem(part, reading_of(part))


def _read(part: FileInfo, batch_rows: int, columns: Columns = None) -> Iterator[PartBatch]:
    return iter_post_batches(part, batch_rows, columns, MAX_BATCH_BYTES, reading_of(part))


POSTS = ArchiveFormat("posts", "Parquet at any depth, columns of the POST schema", survey, _problem, _read)
