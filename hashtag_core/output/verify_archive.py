"""Whether an output has every post of an archive once, decided again from the archive alone.

Of the rows with one id that are posts, are not forgotten and were not rejected for what is in them, the latest by `created_at`
is to be tagged (none: the earliest), of equal ones the last by part, then by row; the others are to be told as repeated.
"""

import logging
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa

from hashtag_core.data.parquet_rows import PartFooter, is_undated
from hashtag_core.data.tagged_archive import Source
from hashtag_core.output.claimed_output import Output
from hashtag_core.output.forget_users.forget_list import ForgetList
from hashtag_core.output.verify_rows import ABSENT, LOST, REFUSED, TAGGED_ROW, PartRows
from hashtag_core.storage import FileInfo

logger = logging.getLogger(__name__)

SCAN_ROWS = 8_192
NO_DATE = np.iinfo(np.int64).min
READ = ("user_id", "created_at", "caption", "image_uri")
"""What decides on whether a row is a post, beside the id and the type of `image`."""


class _Archive:
    """Rows of an archive that may have a post, [n] each, a part after the other."""

    def __init__(self) -> None:
        self.hashes: list[np.ndarray] = []
        self.created: list[np.ndarray] = []
        self.parts: list[tuple[str, np.ndarray]] = []
        """Path, and the row of each candidate: kept as int32, since a part has fewer rows than that."""
        self.refused: list[np.ndarray] = []
        """Hashes of posts of which a row was rejected when it was tagged: any other row of theirs will do."""


def check_archive(output: Output, parts: Mapping[str, PartRows], source: Source) -> list[str]:
    """What is wrong, one line each. NotFoundError or ArchiveError for an archive that is none."""
    problems: list[str] = []
    forgotten = ForgetList.load(output.layout.out)
    found, doubtful, records = _Archive(), list[np.ndarray](), output.records.parts
    names = set()
    for info in source.parts():
        name = info.path
        names.add(name)
        record = records.get(name)
        if record is None or record.etag != info.etag:
            problem = (
                "is in the archive and not tagged"
                if record is None
                else "has changed in the archive since it was tagged"
            )
            problems.append(f"{name}: {problem}")
            doubtful.append(_ids(source, info))
        elif record.rows:
            problems += [f"{name}: {fault}" for fault in _check_part(source, info, parts[name], forgotten, found)]
        elif record.rejected and _is_readable(source.footer(info)):
            problems.append(f"{name}: is rejected as a whole, and can be read")
    gone = sorted(records.keys() - names)
    if gone:
        logger.warning("%d part(s) are tagged and no longer in the archive: %s", len(gone), ", ".join(gone[:3]))
        doubtful += [
            parts[name].hashes[parts[name].state == TAGGED_ROW] for name in gone
        ]  # they stay until they are dropped
    return problems + _check_winners(found, parts, np.concatenate([np.zeros(0, np.uint64), *doubtful]))


def _check_part(
    source: Source, info: FileInfo, rows: PartRows, forgotten: ForgetList | None, found: _Archive
) -> list[str]:
    """Hold the rows of a part to what became of them, and keep those that may have a post."""
    wrong: dict[str, list[int]] = {}
    hashes, created, at = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
    for batch in source.batches(info, SCAN_ROWS, [*READ, *_doubtful_image(source, info)]):
        undated = [item for item in batch.rejected if is_undated(item)]
        faults = [item for item in batch.rejected if item.row is not None and not is_undated(item)]
        bad = np.array([item.row for item in faults], np.int64)
        bad = bad[bad < len(rows.state)]
        _note(wrong, "tagged, and no post", bad[rows.state[bad] == TAGGED_ROW])
        _note(wrong, "neither tagged nor rejected, and no post", bad[rows.state[bad] == ABSENT])
        ids = pa.concat_arrays([
            *batch.posts["post_id"].chunks, pa.array([item.post_id for item in undated], pa.string())
        ])  # fmt: skip
        here = np.concatenate([batch.rows, np.array([item.row for item in undated], np.int64)])
        times = batch.posts["created_at"].cast(pa.int64()).fill_null(NO_DATE).to_numpy()
        times = np.concatenate([times, np.full(len(undated), NO_DATE)])
        gone = np.zeros(len(here), bool)
        if forgotten is not None and batch.posts.num_rows:
            gone[: batch.posts.num_rows] = forgotten.covers(batch.posts)
        hashed, state = _hashed(ids), rows.state[here]
        _note(wrong, "tagged, and to be forgotten", here[gone & (state == TAGGED_ROW)])
        _note(wrong, "tagged with another post_id", here[(state == TAGGED_ROW) & (rows.hashes[here] != hashed)])
        keep = ~gone & (state != REFUSED)
        found.refused.append(hashed[~gone & (state == REFUSED)])
        hashes.append(hashed[keep])
        created.append(times[keep])
        at.append(here[keep].astype(np.int32))
    found.hashes.append(np.concatenate(hashes))
    found.created.append(np.concatenate(created))
    found.parts.append((info.path, np.concatenate(at)))
    return [f"{len(lines)} row(s) are {what}, the first is {lines[0]}" for what, lines in wrong.items() if lines]


def _check_winners(found: _Archive, parts: Mapping[str, PartRows], doubtful: np.ndarray) -> list[str]:
    """Of the rows with one id one is tagged, the right one; the only row of an id is."""
    hashes = np.concatenate([np.zeros(0, np.uint64), *found.hashes])
    created = np.concatenate([np.zeros(0, np.int64), *found.created])
    found.hashes.clear()
    found.created.clear()
    ordered = np.sort(hashes)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    many = np.flatnonzero(np.isin(hashes, repeated))
    order = many[np.lexsort((many, created[many], hashes[many]))]
    is_last = np.ones(len(order), bool)
    is_last[:-1] = hashes[order][1:] != hashes[order][:-1]
    loses = np.zeros(len(hashes), bool)
    loses[order[~is_last]] = True
    tagged = [parts[name].state[at] == TAGGED_ROW for name, at in found.parts]
    has_tags = np.isin(hashes, hashes[np.concatenate([np.zeros(0, bool), *tagged])])
    refused = np.isin(hashes, np.concatenate([np.zeros(0, np.uint64), *found.refused]))
    doubted = np.isin(hashes, doubtful)
    unsure = doubted | refused
    lacking = refused & ~doubted & ~has_tags
    problems, begin = [], 0
    for name, at in found.parts:
        here = slice(begin, begin + len(at))
        begin += len(at)
        state, lost, sure = parts[name].state[at], loses[here], ~unsure[here]
        wrong = {
            "not tagged, though no better row has their post": sure & ~lost & (state != TAGGED_ROW),
            "not tagged, though no row of their post is": lacking[here],
            "tagged, though a better row has their post": sure & lost & (state == TAGGED_ROW),
            "not told as repeated, though a better row has their post": sure
            & lost
            & (state != LOST)
            & (state != TAGGED_ROW),
        }
        problems += [
            f"{name}: {int(mask.sum())} row(s) are {what}, the first is {int(at[mask][0])}"
            for what, mask in wrong.items()
            if mask.any()
        ]
    return problems


def _note(wrong: dict[str, list[int]], what: str, rows: np.ndarray) -> None:
    wrong.setdefault(what, []).extend(rows.tolist())


def _ids(source: Source, info: FileInfo) -> np.ndarray:
    batches = source.batches(info, SCAN_ROWS, [])
    pieces = [_hashed(batch.posts["post_id"].combine_chunks()) for batch in batches if batch.posts.num_rows]
    return np.concatenate([np.zeros(0, np.uint64), *pieces])


def _doubtful_image(source: Source, info: FileInfo) -> list[str]:
    """`image`, where its type makes rows with one no posts: else it need not be read."""
    schema = source.footer(info).schema
    name = source.reading.column_of("image", schema.names)
    if name is None:
        return []
    kind = schema.field(name).type
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    plain = any(test(kind) for test in tests) or pa.types.is_struct(kind) or pa.types.is_null(kind)
    return [] if plain or pa.types.is_dictionary(kind) else ["image"]


def _is_readable(footer: PartFooter) -> bool:
    return footer.problem is None and sum(footer.groups) > 0


def _hashed(ids: pa.Array) -> np.ndarray:
    return np.asarray(
        pd.util.hash_array(ids.to_numpy(zero_copy_only=False).astype(object), categorize=False), dtype=np.uint64
    )
