"""What a layout has to give."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hashtag_core.data.posts import PartBatch
from hashtag_core.storage import FileInfo


@dataclass(frozen=True)
class ArchiveFormat:
    """A layout: `description` says which folder it expects.

    `list_parts(uri)` gives the parts, sorted by path (ArchiveError where there is none); `problem(part)` says cheaply why
    no post can come from a part, None if one can; `read(part, batch_rows)` streams it.
    """

    name: str
    description: str
    list_parts: Callable[[str], list[FileInfo]]
    problem: Callable[[FileInfo], str | None]
    read: Callable[[FileInfo, int], Iterator[PartBatch]]
