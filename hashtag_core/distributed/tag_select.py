"""Which parts of an archive a run does: those that are asked for, and those that are to be tagged again.

A part that is tagged again gets a new token, and so a new id: what it had published counts as rows of an older content,
and stands until the new ones are whole. Tokens are in `retag.json` beside the settings, with the parts that were to be
tagged again: as long as one of them is left, the same command goes on instead of beginning anew.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase

from hashtag_core import storage
from hashtag_core.errors import ConfigError, NotFoundError
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


@dataclass(frozen=True)
class Retagging:
    """What `retag.json` holds: the token of each part that was ever tagged again, and the parts of the last such order
    as long as it is not done."""

    tokens: Mapping[str, str] = field(default_factory=dict)
    open: Sequence[str] = ()

    @classmethod
    def load(cls, uri: str) -> "Retagging":
        """Nothing where there is no such file."""
        try:
            value = storage.read_json(uri)
            return cls(dict(value["tokens"]), tuple(value["open"]))
        except NotFoundError:
            return cls()

    def save(self, uri: str) -> None:
        """Write it, atomically."""
        storage.write_json(uri, {"tokens": dict(self.tokens), "open": list(self.open)})

    def ordered(self, paths: Iterable[str], *, anew: bool) -> "Retagging":
        """With those parts to be tagged again; unless `anew`, those of an order that is not done keep their tokens."""
        picked = set(paths)
        fresh = picked if anew else picked - set(self.open)
        token = uuid.uuid4().hex[:8]
        return Retagging({**self.tokens, **dict.fromkeys(sorted(fresh), token)}, tuple(sorted(picked | set(self.open))))

    def closed(self, left: Iterable[str]) -> "Retagging":
        """The order is done once none of its parts is among those that are left."""
        return self if set(self.open) & set(left) else Retagging(self.tokens)
