"""What a person says of an archive where its own words do not say it: names of columns, dates, encoding, delimiter."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from hashtag_core.config import ArchiveSection, nearest
from hashtag_core.errors import ConfigError
from hashtag_core.schema import POST
from hashtag_core.storage import web


class ReadingRecord(TypedDict):
    """A `Reading`, as parts carry it."""

    columns: dict[str, str]
    date_format: str | None
    encoding: str | None
    delimiter: str | None


@dataclass(frozen=True)
class Reading:
    """How an archive is to be read; the default: as it says itself.

    `columns`: field of POST -> the column (or key) that holds it. `date_format`: as `strptime` has it, or `unix`, `unix_ms`
    for numbers since 1970. `encoding` and `delimiter`: of tables and lines; None where each file tells its own.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    date_format: str | None = None
    encoding: str | None = None
    delimiter: str | None = None

    @classmethod
    def of(cls, section: ArchiveSection) -> "Reading":
        """What `[archive]` of a recipe says. ConfigError for a field that POST does not have and a
        host that is none."""
        for name, column in section.map.items():
            if name not in POST.names:
                known = ", ".join(POST.names)
                meant = f" (did you mean '{column}={name}'?)" if column in POST.names else nearest(name, POST.names)
                if name.lower() in _MEANT:
                    meant = f" (did you mean {_MEANT[name.lower()]!r}?)"
                raise ConfigError(f"archive.map: no field {name!r}{meant}; there are {known}")
        for entry in section.image_hosts:
            web.Host.of(entry)
        delimiter = _SPOKEN.get(section.delimiter or "", section.delimiter)
        if delimiter is not None and len(delimiter) != 1:
            raise ConfigError(f"archive.delimiter: expected one character, or tab, found {delimiter!r}")
        return cls(dict(section.map), section.date_format, section.encoding, delimiter)

    def column_of(self, field_name: str, names: Sequence[str]) -> str | None:
        """Which of these columns holds a field: the one that was named, else that of the field's name, else the only one that
        differs from it in case alone (Snowflake writes all in capitals); None where none does."""
        wanted = self.columns.get(field_name, field_name)
        if wanted in names:
            return wanted
        alike = [name for name in names if name.lower() == wanted.lower()]
        return alike[0] if len(alike) == 1 else None

    def absent(self, names: Iterable[str]) -> str | None:
        """Why a table with these columns is not the one that was spoken of; None if it is."""
        present = list(names)
        gone = [(name, column) for name, column in self.columns.items() if column not in present]
        if not gone:
            return None
        name, column = gone[0]
        return f"--map {name}={column}: no such column{nearest(column, present)}, found {listed(present)}"

    def to_json(self) -> ReadingRecord:
        """What `Reading(**value)` takes."""
        return {
            "columns": dict(self.columns),
            "date_format": self.date_format,
            "encoding": self.encoding,
            "delimiter": self.delimiter,
        }


_MEANT = {
    **dict.fromkeys(("text", "body", "message", "title", "description"), "caption"),
    **dict.fromkeys(("file", "filename", "picture", "photo", "path", "img"), "image"),
    **dict.fromkeys(("url", "uri", "link"), "image_uri"),
    **dict.fromkeys(("user", "author", "username", "owner"), "user_id"),
    **dict.fromkeys(("date", "time", "timestamp", "created"), "created_at"),
    **dict.fromkeys(("tags", "tag", "labels"), "hashtags"),
    "id": "post_id",
}
"""What people call a field of POST."""

_SPOKEN = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "space": " ", "pipe": "|"}

AS_IT_IS = Reading()
"""Nothing is said of the archive."""


def listed(names: Iterable[str]) -> str:
    """Names of columns for a message; pandas' index has none where nobody gave it one."""
    return ", ".join(name if name.strip() else "(a column without a name)" for name in names)[:200] or "no column"


def missing_column(field_name: str, names: Iterable[str]) -> str:
    """What is wrong where a field that must be there has no column, and the flag that helps."""
    present = list(names)
    example = next((name for name in present if name.lower().endswith("id")), "COLUMN")
    return (
        f"{field_name}: column missing, found {listed(present)} (--map {field_name}={example} says which one it is)"
        if present
        else f"{field_name}: column missing, found no column"
    )


def unread_note(path: str, names: Iterable[str], columns: Iterable[str]) -> list[str]:
    """A sentence that names the columns that were not understood; empty where all were."""
    known = set(columns)
    unread = [name for name in names if name.strip() and name not in known]
    if not unread:
        return []
    return [f"{path}: column(s) not read: {listed(unread)} (--map FIELD=COLUMN says what one holds)"]
