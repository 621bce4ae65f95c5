"""The layouts that an archive can have. A layout is one file in this folder and one line in `FORMATS`.

Whatever the layout, what comes out are batches of posts in the POST schema and the rows that are none.
"""

from hashtag_core.config import nearest
from hashtag_core.data.formats.base import ArchiveFormat
from hashtag_core.data.formats.csv_table import CSV
from hashtag_core.data.formats.harrison import HARRISON
from hashtag_core.data.formats.instacities import INSTACITIES
from hashtag_core.data.formats.instaloader import INSTALOADER
from hashtag_core.data.formats.jsonl import JSONL
from hashtag_core.data.formats.mm_ins import MM_INS
from hashtag_core.data.formats.nus_wide import NUS_WIDE
from hashtag_core.data.formats.posts import POSTS
from hashtag_core.errors import ConfigError

FORMATS = {layout.name: layout for layout in (POSTS, JSONL, CSV, HARRISON, INSTACITIES, INSTALOADER, MM_INS, NUS_WIDE)}

__all__ = ["FORMATS", "ArchiveFormat", "archive_format"]


def archive_format(name: str) -> ArchiveFormat:
    """The layout of that name; ConfigError offers the nearest one."""
    try:
        return FORMATS[name]
    except KeyError:
        known = ", ".join(sorted(FORMATS))
        raise ConfigError(f"archive.format: no format {name!r}{nearest(name, FORMATS)}; there are {known}") from None
