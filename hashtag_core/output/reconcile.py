"""Make the records agree with the tables, after a run that was killed between two commits or another writer's commit.

A run commits rejected rows, tagged rows and records one after the other. Killed in between, it leaves rows of a part without a
record, and counts of parts that lost posts to it as they were before. Nothing may be taken back, since other parts' rows have
already made way: so a part without a record gets one, as a part of another version than any in the archive, and a part that
lost or won rows without a word counts as another version too (`etag` empty). The next plan takes it for changed, or for gone if
the archive has it no more, and treats its rows accordingly. Reads the columns of parts and their versions of every data file.
"""

import logging
from collections import Counter, defaultdict
from typing import NamedTuple

from hashtag_core.output.claimed_output import Output
from hashtag_core.output.ids import load_index
from hashtag_core.output.records import PartRecord

logger = logging.getLogger(__name__)


def reconcile(output: Output, name: str) -> bool:
    """Save the records that differ from the tables; whether any did."""
    before = output.records.parts
    found, unsure = counted_records(output)
    changed, emptied = [], []
    for record in found:
        if record.rows and not record.tagged + record.rejected:
            emptied.append(record.path)
        else:
            new = record.model_copy(update={"etag": ""}) if record.path in unsure else record
            changed += [new] if new != before.get(record.path) else []
    if changed or emptied:
        output.save(name, parts=changed, gone=emptied)
        n = len(changed) + len(emptied)
        logger.info("%s: the records of %d part(s) were not those of its rows", output.layout.tagged, n)
    return bool(changed or emptied)


def counted_records(output: Output) -> tuple[list[PartRecord], set[str]]:
    """The record of each part that has a record or a row, with the counts of its rows; and the parts whose rows are not those of
    the record's version, each once. Rejected rows of a part that counts as new are not counted: they are told of a version that is
    no more."""
    counts = _counts(output)
    records = output.records.parts
    number = load_index(output.layout.ids).next_number(record.number for record in records.values())
    found, unsure = [], set()
    for path, record in records.items():
        tagged, rejected = counts.tagged[path], counts.rejected[path]
        told = {"tagged": tagged} | ({"rejected": rejected} if record.etag else {})
        found.append(record.model_copy(update=told))
        whole = tagged + rejected - counts.ends[path] == record.rows
        if not whole or counts.versions[path] - {record.etag}:
            unsure.add(path)
    for at, path in enumerate(sorted((counts.tagged.keys() | counts.rejected.keys()) - records.keys())):
        tagged, rejected = counts.tagged[path], counts.rejected[path]
        found.append(
            PartRecord(
                path=path, etag="", number=number + at, size=0, rows=tagged + rejected, tagged=tagged, rejected=rejected
            )
        )
    return found, unsure


class _Counts(NamedTuple):
    """By part: tagged rows, rejected ones, lines among these that tell of a part or its rest and not of a row, versions of tagged rows."""

    tagged: Counter[str]
    rejected: Counter[str]
    ends: Counter[str]
    versions: defaultdict[str, set[str]]


def _counts(output: Output) -> _Counts:
    table, lines, _ = output.tables()
    counts = _Counts(Counter(), Counter(), Counter(), defaultdict(set))
    for file in table.files(output.layout.values):
        rows = (
            table.read(file, ["part", "part_version"]).group_by(["part", "part_version"]).aggregate([([], "count_all")])
        )
        for part, version, n in zip(
            *(rows[name].to_pylist() for name in ("part", "part_version", "count_all")), strict=True
        ):
            counts.tagged[part] += n
            counts.versions[part].add(version)
    for file in lines.files(output.layout.values):
        rows = lines.read(file, ["part", "row", "rows"])
        for told, into in ((rows, counts.rejected), (rows.filter(rows["row"].is_null()), counts.ends)):
            summed = told.group_by("part").aggregate([("rows", "sum")])
            into.update(dict(zip(summed["part"].to_pylist(), summed["rows_sum"].to_pylist(), strict=True)))
    return counts
