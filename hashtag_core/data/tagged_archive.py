"""The archive that is tagged, whatever its layout: its parts, what a look at one tells, and its posts part by part.

A Parquet part is a file, read by row groups. A part of another layout is a file or a folder of a listing, which some layouts cut
into pieces: here it is one part again, named by its path, read from its start.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import pyarrow as pa

from hashtag_core import storage
from hashtag_core.config import ArchiveSection
from hashtag_core.data.formats.base import ArchivePart
from hashtag_core.data.open_archive import Archive, open_archive
from hashtag_core.data.parquet_rows import PartBatch, PartFooter, iter_post_batches, part_footer
from hashtag_core.data.reading_options import Reading
from hashtag_core.storage import FileInfo


@dataclass(frozen=True)
class Source:
    """An archive and how it is to be read; cheap to make, listed when it is first asked for more than one Parquet part."""

    uri: str
    section: ArchiveSection = field(default_factory=ArchiveSection)

    @property
    def is_parquet(self) -> bool:
        """Whether parts have footers and row groups."""
        return self.section.format == "posts"

    @cached_property
    def reading(self) -> Reading:
        """What was said of its columns."""
        return Reading.of(self.section)

    @cached_property
    def archive(self) -> Archive:
        """Listed, by one spelling of its place: parts of some layouts are versions of where they lie too. NotFoundError or
        ArchiveError where it is none."""
        return open_archive(storage.absolute(self.uri), self.section)

    @property
    def root(self) -> str:
        """The folder that relative paths of pictures begin at."""
        return self.archive.root if not self.is_parquet else self.uri

    def parts(self) -> list[FileInfo]:
        """Its parts, each path once, in UTF-8, sorted."""
        if self.is_parquet:
            return [_named_in_utf8(_plain(part)) for part in self.archive.parts]
        return sorted((_joined(pieces) for pieces in self._pieces.values()), key=lambda part: part.path)

    def tell(self) -> None:
        """Log what the listing tells: files left out and why, columns that are not understood."""
        self.archive.tell_listing()

    def tell_types(self, parts: Sequence[FileInfo]) -> None:
        """Log the columns of the first readable one of these parts whose type rejects every row."""
        for first in parts if self.is_parquet else []:
            footer = self.footer(first)
            if footer.problem is None:
                listed = next(part for part in self.archive.parts if part.uri == first.uri)
                self.archive.tell_types(listed, footer.schema)
                break

    def footer(self, part: FileInfo) -> PartFooter:
        """Rows of each row group, columns, and why no post can come from the part; of other layouts the last alone."""
        if self.is_parquet:
            return part_footer(part, self.reading)
        problems = [self.archive.problem(piece) for piece in self._pieces[part.path]]
        problem = None if not all(problems) else problems[0]
        return PartFooter(problem, [], pa.schema([]))

    def batches(self, part: FileInfo, batch_rows: int, columns: Sequence[str]) -> Iterator[PartBatch]:
        """The part's posts, at least those columns of POST, in the order of rows, which go on from piece to piece."""
        if self.is_parquet:
            yield from iter_post_batches(part, batch_rows, columns, reading=self.reading)
            return
        for piece in self._pieces[part.path]:
            yield from self.archive.read(piece, batch_rows)

    def etag(self, part: FileInfo) -> str:
        """Its version now."""
        if self.is_parquet:
            return storage.file_info(part.uri).etag
        return _joined([replace(piece, etag=self.archive.etag(piece)) for piece in self._pieces[part.path]]).etag

    @cached_property
    def _pieces(self) -> dict[str, list[FileInfo]]:
        found: defaultdict[str, list[FileInfo]] = defaultdict(list)
        for part in self.archive.parts:
            found[_named_in_utf8(part).path].append(part)
        return dict(found)


def _joined(pieces: Sequence[FileInfo]) -> FileInfo:
    """One part of all its pieces."""
    first = _named_in_utf8(pieces[0])
    identity = "\n".join(dict.fromkeys(map(_version, pieces)))
    etag = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    size, modified = sum(piece.size for piece in pieces), max(piece.modified for piece in pieces)
    return FileInfo(first.uri, first.path, size, etag, modified)


def _version(piece: FileInfo) -> str:
    """Its version: of what it is made of, and of the folder in which its pictures were found. Not of how it was cut and looked at,
    which another release does in another way, nor of where the archive lies."""
    selection = piece.selection if isinstance(piece, ArchivePart) else ""
    pictures = json.loads(selection).get("pictures", "") if selection else ""
    return f"{piece.path} {piece.etag} {pictures}"


def _plain(part: FileInfo) -> FileInfo:
    return FileInfo(part.uri, part.path, part.size, part.etag, part.modified)


def _named_in_utf8(part: FileInfo) -> FileInfo:
    """A local file's name may be any bytes; those that are no UTF-8 are told as `\\xff`, and the part is then refused."""
    return replace(part, path=part.path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))
