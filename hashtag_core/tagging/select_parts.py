"""Which parts of an archive a run does: those that are asked for, and those that are to be tagged again.

A part that is tagged again gets a new token, which its record does not have yet: its rows stand until the new ones are
committed. Tokens are a record of the output, with the parts that were to be tagged again: as long as one of them is
left, the same command goes on instead of beginning anew.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase

from hashtag_core.errors import ConfigError, NotFoundError
from hashtag_core.output.records import RetagRecord
from hashtag_core.storage import FileInfo

SHOWN_PARTS = 3


@dataclass(frozen=True)
class Selection:
    """All parts, unless `globs` (one of them matches the path; `*` matches slashes too) or `since` (modified then or
    later) says which. `retag`: also those that are tagged already."""

    globs: Sequence[str] = ()
    since: datetime | None = None
    retag: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether it is of all parts."""
        return not self.globs and self.since is None

    def paths(self, files: Sequence[FileInfo]) -> set[str]:
        """The selected parts. NotFoundError for a glob that matches none."""
        for glob in self.globs:
            if not any(fnmatchcase(file.path, glob) for file in files):
                named = ", ".join(file.path for file in files[:SHOWN_PARTS])
                raise NotFoundError(f"--parts {glob!r}: none of {len(files)} part(s) is named so; there are {named}")
        return {
            file.path
            for file in files
            if (not self.globs or any(fnmatchcase(file.path, glob) for glob in self.globs))
            and (self.since is None or file.modified >= self.since)
        }


def parse_since(text: str) -> datetime:
    """An ISO date or time, without a zone: local. ConfigError for anything else."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise ConfigError(f"--since {text!r}: expected a date or time as 2026-01-31 or 2026-01-31T06:00") from None


def ordered_again(record: RetagRecord, paths: Iterable[str], *, anew: bool) -> RetagRecord:
    """With those parts to be tagged again; unless `anew`, those of an order that is not done keep their tokens."""
    picked = set(paths)
    fresh = picked if anew else picked - set(record.open)
    token = uuid.uuid4().hex[:8]
    tokens = {**record.tokens, **dict.fromkeys(sorted(fresh), token)}
    return RetagRecord(tokens=tokens, open=sorted(picked | set(record.open)))


def closed_order(record: RetagRecord, left: Iterable[str]) -> RetagRecord:
    """The order is done once none of its parts is among those that are left."""
    return record if set(record.open) & set(left) else RetagRecord(tokens=record.tokens)
