"""`mm-ins`: MM-INS, the posts of AMNN (article 003; https://github.com/w5688414/AMNN, doi:10.21227/j1rf-fa09).

    #beach/<date>_UTC.jpg, .txt, .json.xz      as instaloader brought it: a folder for each hashtag that was searched
    beach/<date>_UTC.jpg, .txt                 the authors' selection of it: posts with picture and text

Both are read as the layout `instaloader` reads them, but for the folder: it is a hashtag and says nothing of the user. Only
the metadata tells users and dates; without it, split `random`. A post that was found by several hashtags is one.

Checked against the authors' page and code (folders, names of files, captions with hashtags in them), not against the data itself.
The article's selection (picture and text, 1,000 most frequent hashtags, no stop words) is `jobs/recipes/prepare/amnn.toml`.

(Articles by number: docs/models.md.)
"""

from collections.abc import Iterator
from functools import partial

from hashtag_core.data.formats.base import (
    ArchiveFormat,
    Columns,
    batches,
    in_threads,
    problem_in,
    selection_of,
    wants_pictures,
)
from hashtag_core.data.formats.instaloader import files_etag, read_post, survey
from hashtag_core.data.parquet_rows import PartBatch
from hashtag_core.storage import FileInfo


def problem(part: FileInfo) -> str | None:
    """Why no post can come from these files, told by the first; None if one can."""
    return problem_in(_read(part, 8))


def _read(part: FileInfo, batch_rows: int, columns: Columns = None) -> Iterator[PartBatch]:
    chosen = selection_of(part)
    rows = in_threads(
        partial(read_post, chosen, user_of_folder=False, pictures=wants_pictures(columns)), chosen["posts"]
    )
    yield from batches(part.path, rows, chosen["begin"], batch_rows, columns)


MM_INS = ArchiveFormat(
    "mm-ins", "a folder a hashtag, posts in it as instaloader names them", survey, problem, _read, files_etag
)
