"""`nus-wide`: NUS-WIDE (Chua et al. 2009), its lists unpacked beside its pictures.

    ImageList/Imagelist.txt             a line a picture: `<folder>\\<number>_<photo id>.jpg`
    NUS_WID_Tags/All_Tags.txt           the same line's `<photo id> <tag> <tag> ...`: what the photographers wrote
    NUS_WID_Tags/AllTags1k.txt          where All_Tags.txt is missing: 0 or 1 for each line of TagList1k.txt beside it
    Flickr/<folder>/<number>_<photo id>.jpg

The lists may also lie in the folder itself or below `Low-Level-Features/`, the pictures below `images/Flickr/`, `images/`,
`image/` or the folder itself. The low-level features, the ground truth of the 81 concepts and the lists of train and test
are not read. Checked against the page of the data set, its official repository and public code that reads it, not against the data
set itself. There are neither captions nor users nor dates: split `random`. `post_id` is the Flickr photo id; a photo that
is listed twice is one post, the other row is rejected as a repeated id.

The lists decide what the archive is: a picture that is missing leaves its post without image (`image_uri` says where it
should be), and one that is put there later does not make the archive another one.
"""

import io
import itertools
import re
from collections.abc import Iterator

from hashtag_core import storage
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
    find_list,
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

PLACES = ("", "Low-Level-Features/")
PICTURES = [f"{place}{name}" for place in PLACES for name in ("ImageList/Imagelist.txt", "ImageList/ImageList.txt")]
PICTURES += ["Imagelist.txt", "ImageList.txt"]
TAGS, TAGS_1K, NAMES_1K = (
    [*(f"{place}NUS_WID_Tags/{name}" for place in PLACES), name]
    for name in ("All_Tags.txt", "AllTags1k.txt", "TagList1k.txt")
)
IMAGE_FOLDERS = ("Flickr", "images/Flickr", "images", "image", "")
LOOKED_AT = 20
"""Pictures that are looked for to find the folder they lie in."""

_PICTURE = re.compile(r"(\w[^/\\]*)[/\\](?:[^/\\]*_)?(\d+)\.\w+")


def survey(archive_uri: str, reading: Reading) -> Listing[ArchivePart]:
    """Runs of lines of the two lists; ArchiveError where one is missing or they differ in length."""
    pictures, names = required_list(archive_uri, PICTURES), None
    tags = find_list(archive_uri, TAGS)
    if tags is None and (tags := find_list(archive_uri, TAGS_1K)):
        names = required_list(archive_uri, NAMES_1K).uri
    tags = tags or required_list(archive_uri, TAGS)
    shared = {"archive": archive_uri, "names": names, "folder": _image_folder(archive_uri, pictures)}
    shared |= {"encoding": reading.encoding}
    return lists_and_pictures(archive_uri, [pictures, tags], line_parts([pictures, tags], shared))


def problem(part: FileInfo) -> str | None:
    """Why no post can come from these lines, told by the first; None if one can."""
    return problem_in(_read(part, 8))


def _image_folder(archive: str, pictures: FileInfo) -> str:
    """Where the first pictures that are there at all lie."""
    with storage.open_input(pictures.uri) as source:
        lines = [
            line.decode("utf-8", "replace").strip() for line in itertools.islice(io.BufferedReader(source), LOOKED_AT)
        ]
    paths = [line.replace("\\", "/") for line in lines if _PICTURE.fullmatch(line)]
    for path, folder in itertools.product(paths, IMAGE_FOLDERS):
        if storage.exists(storage.join(archive, folder, path)):
            return folder
    return IMAGE_FOLDERS[0]


def _read(part: FileInfo, batch_rows: int, columns: Columns = None) -> Iterator[PartBatch]:
    chosen = selection_of(part)
    names = storage.read_bytes(chosen["names"]).decode("utf-8-sig", "replace").split() if chosen["names"] else None
    rows = with_images(_rows(part, chosen["folder"], names), chosen["archive"], columns)
    yield from batches(part.path, rows, chosen["begin"], batch_rows, columns)


def _rows(part: FileInfo, folder: str, names: list[str] | None) -> Iterator[Post | Fault]:
    for picture, tags in read_lines(part):
        found, words = _PICTURE.fullmatch(picture.strip()), tags.split()
        if found is None:
            yield Fault(f"image list: expected <folder>\\<number>_<photo id>.jpg, found {picture[:80]!r}")
            continue
        photo = found[2]
        if names is not None:
            if len(words) != len(names):
                yield Fault(f"AllTags1k.txt: expected {len(names)} numbers, found {len(words)}", photo)
                continue
            words = [name for name, sign in zip(names, words, strict=True) if sign == "1"]
        elif words[:1] == [photo]:
            del words[0]
        else:
            yield Fault(f"All_Tags.txt: expected the photo id {photo}, found {' '.join(words[:1])!r}", photo)
            continue
        path = found[0].replace("\\", "/")
        yield {"post_id": photo, "hashtags": words, "image_uri": f"{folder}/{path}" if folder else path}


NUS_WIDE = ArchiveFormat(
    "nus-wide",
    "Imagelist.txt, All_Tags.txt (or AllTags1k.txt, TagList1k.txt) and Flickr/",
    survey,
    problem,
    _read,
    lists_etag,
)
