"""What a run does as parts are committed: the index of ids, and posts whose row was rejected although another row has them."""

import logging
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import pyarrow as pa

from hashtag_core.errors import HashtagError
from hashtag_core.output.catalog import complete_index
from hashtag_core.output.commit_parts import Staged, Yields
from hashtag_core.output.fenced_table import FencedError
from hashtag_core.output.ids import Entries, IdIndex, Keys, keys_of
from hashtag_core.tagging.encode_histories import records_of
from hashtag_core.tagging.planned_work import PartWork, TagPlan

logger = logging.getLogger(__name__)


def ids_of_plan(plan: TagPlan) -> IdIndex:
    """An index of the posts of the parts that are new or changed, with the numbers that these are to have."""
    index = IdIndex()
    pieces = [
        Entries(entries.keys, entries.created_us, np.full(len(entries), work.record.number, np.uint32))
        for entries, work in _scanned(plan)
    ]
    index.add(Entries.concatenate(pieces), ())
    return index


class Yielding:
    """Says which posts of a part that is to be committed are given to another row, since theirs was rejected when it was tagged.

    The next row of the same part is tagged by the next round; where there is none, the row of another part. Nobody's row is left: a
    part that brings the post some night has it. One for each plan.
    """

    def __init__(self, plan: TagPlan) -> None:
        self._plan = plan
        self.found = False
        """Whether there was any."""

    @cached_property
    def _fresh(self) -> IdIndex:
        return ids_of_plan(self._plan)

    def of(self, work: PartWork, staged: Staged) -> Yields:
        """For the record of the part."""
        lines = staged.rejected.select(["row", "post_id"])
        lines = lines.filter(pa.array(np.isin(lines["row"].fill_null(-1).to_numpy(), work.wanted)))
        barred = set() if work.whole else set(work.record.barred)
        untried = {} if work.whole else dict(work.record.untried)
        hopeless = set() if work.whole else set(work.record.hopeless)
        for key in [key for key, rows in untried.items() if rows[0] in work.wanted]:
            del untried[key]
        if lines.num_rows:
            keys = keys_of(lines["post_id"])
            others = self._of_other_parts(keys, work.record.number)
            for key, row in zip(keys.to_hex(), lines["row"].to_pylist(), strict=True):
                if rest := _rest(work, key, row):
                    untried[key] = rest
                elif key in others:
                    barred.add(key)
                else:
                    hopeless.add(key)
            self.found |= bool(untried) or barred != (set() if work.whole else set(work.record.barred))
        return Yields(sorted(barred), untried, sorted(hopeless))

    def _of_other_parts(self, keys: Keys, number: int) -> set[str]:
        """Those of the keys that another part of the archive has too."""
        live = np.array(sorted({record.number for record in records_of(self._plan).values()} - {number}), np.uint32)
        found = Entries.concatenate([self._plan.index.find(keys), self._fresh.find(keys)])
        return set(found.keys.take(np.flatnonzero(np.isin(found.number, live))).to_hex())


def _rest(work: PartWork, key: str, row: int) -> list[int]:
    """Rows of the part with the id of a row that was rejected, the next best first."""
    if not work.whole:
        return work.record.untried.get(key, [])[1:]
    return [int(other) for other in work.doubles[work.doubles[:, 1] == row, 0][::-1]]


def save_index(plan: TagPlan) -> None:
    """The index of ids as of what is committed; what could not be saved is made anew by the next run."""
    output, index = plan.output, plan.index
    try:
        for entries, work in _scanned(plan):
            done = output.records.parts.get(work.path)
            if done is not None and done.number == work.record.number:
                numbers = np.full(len(entries), done.number, np.uint32)
                index.add(Entries(entries.keys, entries.created_us, numbers), [done.number])
        complete_index(output, index)
        output.tables()[0].check()
        index.save(plan.layout.ids, [record.number for record in output.records.parts.values()])
    except FencedError:
        raise
    except HashtagError as error:
        logger.warning("the index of ids could not be saved, the next run makes it anew: %s", error)


def _scanned(plan: TagPlan) -> Iterator[tuple[Entries, PartWork]]:
    """Of each part that is replaced the entries of its posts."""
    whole = {work.path: work for work in plan.works if work.whole}
    for scan in plan.scans:
        if scan.file.path in whole:
            yield scan.entries, whole[scan.file.path]
