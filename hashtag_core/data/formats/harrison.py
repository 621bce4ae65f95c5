"""`harrison`: HARRISON (Park, Li, Kim 2016, https://arxiv.org/abs/1605.05054), the folder that its authors give out.

    data_list.txt                       a line a picture: `instagram_dataset/<tag searched>/<file>.jpg`, below this folder
    tag_list.txt                        the same line's hashtags, separated by spaces; the line may be empty
    vocab_index.txt                     its 997 tags, numbered: not read, the vocabulary is decided on train
    instagram_dataset/<tag>/<file>.jpg

Checked against public code that reads the data set (how lines pair, what they hold, the names of files and folder), not
against the data set itself. There are neither captions nor users nor dates: split `random`. `post_id` is the path
without `instagram_dataset/` and the ending.

The lists decide what the archive is: a picture that is missing leaves its post without image (`image_uri` says where it
should be), and one that is put there later does not make the archive another one.
"""

from collections.abc import Iterator

from hashtag_core.data.formats.base import (
    ArchiveFormat,
    ArchivePart,
    Columns,
    Fault,
    Post,
    batches,
    problem_in,
    selection_of,
    with_images,
)
from hashtag_core.data.formats.line_lists import (
    line_parts,
    lists_and_pictures,
    lists_etag,
    read_lines,
    required_list,
)
from hashtag_core.data.list_parts import Listing
from hashtag_core.data.parquet_rows import PartBatch
from hashtag_core.data.reading_options import Reading
from hashtag_core.storage import FileInfo

PICTURES, TAGS = "data_list.txt", "tag_list.txt"
FOLDER = "instagram_dataset/"


def survey(archive_uri: str, reading: Reading) -> Listing[ArchivePart]:
    """Runs of lines of the two lists; ArchiveError where one is missing or they differ in length."""
    lists = [required_list(archive_uri, [name]) for name in (PICTURES, TAGS)]
    return lists_and_pictures(
        archive_uri, lists, line_parts(lists, {"archive": archive_uri, "encoding": reading.encoding})
    )


def problem(part: FileInfo) -> str | None:
    """Why no post can come from these lines, told by the first; None if one can."""
    return problem_in(_read(part, 8))


def _read(part: FileInfo, batch_rows: int, columns: Columns = None) -> Iterator[PartBatch]:
    chosen = selection_of(part)
    yield from batches(
        part.path, with_images(_rows(part), chosen["archive"], columns), chosen["begin"], batch_rows, columns
    )


def _rows(part: FileInfo) -> Iterator[Post | Fault]:
    for picture, tags in read_lines(part):
        path = picture.strip().replace("\\", "/")
        name = path.removeprefix(FOLDER).rpartition(".")[0]
        if name.rpartition("/")[2]:
            yield {"post_id": name, "hashtags": tags.split(), "image_uri": path}
        else:
            yield Fault(f"{PICTURES}: expected the path of a picture, found {picture[:80]!r}")


HARRISON = ArchiveFormat("harrison", f"{PICTURES}, {TAGS} and {FOLDER} beside them", survey, problem, _read, lists_etag)
