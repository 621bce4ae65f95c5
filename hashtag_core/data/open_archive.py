"""An archive, opened: one thing for every job, whatever its layout. Its parts, what was left out and why, and its posts in the
POST schema, part by part and streamed."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from hashtag_core.config import ArchiveSection
from hashtag_core.data.formats import ArchiveFormat, archive_format
from hashtag_core.data.formats.posts import POSTS, reading_of
from hashtag_core.data.list_parts import Listing, Tally
from hashtag_core.data.parquet_rows import PartBatch, part_footer, type_problems, unread_columns
from hashtag_core.data.reading_options import Reading
from hashtag_core.errors import ArchiveError
from hashtag_core.storage import FileInfo

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Archive:
    """A listed archive. A part holds all that reading it needs (`uri`, `path`, `size`, `etag`, `modified`, and for some layouts
    `selection`), so that it can be sent to another process and read there by `layout.read`."""

    uri: str
    layout: ArchiveFormat
    listing: Listing[Any]

    @property
    def parts(self) -> Sequence[FileInfo]:
        """Sorted by path; several may share a path, and a row's number goes on from one to the next."""
        return self.listing.parts

    @property
    def root(self) -> str:
        """The folder that relative paths of pictures begin at: the archive, or, where it is one file, that file's folder."""
        uri = self.uri.rstrip("/")
        return uri.rpartition("/")[0] or "." if self.parts and self.parts[0].uri == uri else self.uri

    @property
    def tally(self) -> Tally:
        """Every file, once: read, beside the parts, or left out for a reason."""
        return self.listing.tally

    def problem(self, part: FileInfo) -> str | None:
        """Why no post can come from a part, told cheaply; None if one can."""
        return self.layout.problem(part)

    def read(self, part: FileInfo, batch_rows: int, columns: Sequence[str] | None = None) -> Iterator[PartBatch]:
        """The part's batches: posts in the POST schema (or `columns` of it, `post_id` always; without `image` no picture is
        read), rows that are none, and the number of the first row."""
        return self.layout.read(part, batch_rows, columns)

    def etag(self, part: FileInfo) -> str:
        """The part's etag now: another one than `part.etag` where what it is made of has changed since."""
        return self.layout.etag(part)

    def first_readable(self) -> FileInfo:
        """The first part that posts can come from. ArchiveError, with the first part's reason, where there is none."""
        first = ""
        for part in self.parts:
            problem = self.problem(part)
            if problem is None:
                return part
            first = first or f"{part.path}: {problem}"
        raise ArchiveError(f"{self.uri}: none of {len(self.parts)} part(s) can be read as posts; {first}")

    def tell(self) -> None:
        """Log what a person should know before rows are read: files left out and why, columns that are not understood or
        whose type rejects every row."""
        self.tell_listing()
        for part in self.parts if self.layout is POSTS else []:
            footer = part_footer(part, reading_of(part))
            if footer.problem is None:
                self.tell_types(part, footer.schema)
                break

    def tell_listing(self) -> None:
        """Log what the listing tells; no part is opened."""
        self.tally.tell(self.uri)
        for note in self.listing.notes:
            logger.warning("%s", note)

    def tell_types(self, part: FileInfo, schema: pa.Schema) -> None:
        """Log the columns of a readable Parquet part that are not read, and those whose type rejects every row."""
        for note in unread_columns(part.path, schema.names, reading_of(part)):
            logger.warning("%s", note)
        for problem in type_problems(schema, reading_of(part)):
            logger.error("%s: EVERY ROW WITH A VALUE THERE IS REJECTED: %s", part.path, problem)


def open_archive(uri: str, section: ArchiveSection | None = None) -> Archive:
    """List an archive in the layout that `[archive]` names, with what it says of columns, dates, encoding and delimiter.

    NotFoundError where nothing is; ArchiveError where no part is, saying what is there instead; ConfigError for a layout or a
    field that does not exist.
    """
    section = section or ArchiveSection()
    layout = archive_format(section.format)
    listing = layout.survey(uri, Reading.of(section))
    listing.required_parts()
    return Archive(uri, layout, listing)
