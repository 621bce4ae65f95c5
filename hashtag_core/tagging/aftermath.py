"""What a run does once parts are committed: the index of ids, and posts whose row was rejected although another part has them."""

import logging
from collections.abc import Iterator, Mapping

import numpy as np

from hashtag_core.errors import HashtagError
from hashtag_core.output.catalog import complete_index
from hashtag_core.output.ids import Entries, IdIndex, Keys
from hashtag_core.output.records import PartRecord
from hashtag_core.output.table import FencedError
from hashtag_core.tagging.encode_histories import records_of
from hashtag_core.tagging.plan import PartWork, TagPlan

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


def contested(plan: TagPlan, fresh: IdIndex, keys: Keys, number: int) -> Keys:
    """Those of the posts of a part that another part of the archive has too. `fresh`: as `ids_of_plan` gives it."""
    live = np.array(sorted({record.number for record in records_of(plan).values()} - {number}), np.uint32)
    found = Entries.concatenate([plan.index.find(keys), fresh.find(keys)])
    return found.keys.take(np.flatnonzero(np.isin(found.number, live)))


def bar_rejected(plan: TagPlan, barred: Mapping[str, set[str]], name: str) -> bool:
    """Note in the records of parts that another row is to be tagged in place of theirs; whether there are any."""
    records = plan.output.records.parts
    changed: list[PartRecord] = []
    for path, keys in barred.items():
        if keys and path in records:
            changed.append(records[path].model_copy(update={"barred": sorted({*records[path].barred, *keys})}))
    if changed:
        plan.output.save(name, parts=changed)
    return bool(changed)


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
