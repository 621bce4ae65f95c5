"""What `prepare` tells of an archive besides its posts: rejected rows by reason, pictures, files. Nothing is lost without a word."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hashtag_core.data.dataset import ArchiveFiles
from hashtag_core.data.list_parts import Tally
from hashtag_core.data.open_archive import Archive
from hashtag_core.data.parquet_rows import Rejected
from hashtag_core.errors import ArchiveError

logger = logging.getLogger(__name__)

SHOWN = 5
"""Reasons, parts or pictures that are told one by one."""


def tell_rejected(rejected: Sequence[Rejected], with_posts: Iterable[str]) -> None:
    """Log why rows were rejected, the most frequent reasons first, and loudly each part that gave no post at all."""
    reasons: Counter[str] = Counter()
    first: dict[str, Rejected] = {}
    for item in rejected:
        kind = item.reason.partition(", found")[0]
        reasons[kind] += 1
        first.setdefault(kind, item)
    for kind, count in reasons.most_common(SHOWN):
        item = first[kind]
        where = item.part if item.row is None else f"{item.part} row {item.row}"
        logger.warning("%d rejected: %s (the first: %s)", count, item.reason, where)
    if len(reasons) > SHOWN:
        logger.warning("%d more kinds of rejected rows: _rejected/rows.jsonl has them all", len(reasons) - SHOWN)
    of_part = Counter(item.part for item in rejected)
    known = set(with_posts)
    lost = [part for part in of_part if part not in known]
    for part in lost[:SHOWN]:
        reason = next(item.reason for item in rejected if item.part == part)
        logger.error("%s: NOT ONE OF ITS ROWS IS A POST (%d rejected): %s", part, of_part[part], reason)
    if len(lost) > SHOWN:
        logger.error("%d more parts gave no post at all", len(lost) - SHOWN)


def check_pictures(missing: int, named: int, examples: Sequence[str], most_missing: float | None) -> None:
    """Warn of pictures that are named and could not be had; ArchiveError where they are a larger share of all pictures than
    `most_missing`. `examples` are the first of them, with the reason."""
    if not missing:
        return
    share = missing / named
    message = f"{missing} of {named} pictures could not be had ({share:.0%})" + (
        f", e.g. {'; '.join(examples[:SHOWN])}" if examples else ""
    )
    if most_missing is not None and share > most_missing:
        raise ArchiveError(f"{message}: more than archive.max_missing_images = {most_missing:g} (--max-missing-images)")
    logger.warning("%s: these posts go on without; --max-missing-images stops such a run", message)


def named_pictures(index: pa.Table) -> tuple[int, int]:
    """Pictures of an index that could not be had, and those beside them that are there or missing."""
    missing, too_large = (int(pc.sum(index[name]).as_py() or 0) for name in ("image_missing", "image_too_large"))
    return missing, missing + too_large + index.num_rows - index["image_key"].null_count


def counted(index: pa.Table, kept: np.ndarray) -> dict[str, int]:
    """Pictures and captions of the posts that are kept, and pictures of all posts that are no help."""
    readable = np.asarray(index["image_hash"].is_valid())
    broken = ~readable & np.asarray(index["image_key"].is_valid())
    too_large = index["image_too_large"].to_numpy()
    return {
        "pictures": int((readable & kept).sum()),
        "captions": int((index["words"].to_numpy()[kept] > 0).sum()),
        "pictures_missing": int(index["image_missing"].to_numpy().sum()),
        "pictures_unreadable": int((broken | too_large).sum()),
    }


def files_of(archives: Sequence[Archive]) -> ArchiveFiles:
    """The tallies of all archives, added up."""
    whole = Tally()
    for opened in archives:
        whole.add(opened.tally)
    return ArchiveFiles(**whole.to_json())
