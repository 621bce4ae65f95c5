"""Make the records agree with the tables, after a run that was killed between two commits.

A run commits rejected rows, tagged rows and records one after the other. Killed in between, it leaves rows of a part without a
record, and counts of parts that lost posts to it as they were before. Nothing may be taken back, since other parts' rows have
already made way: so a part without a record gets one, as a part of another version than any in the archive, and a part that
lost rows without a word counts as another version too (`etag` empty). The next plan takes it for changed, or for gone if the
archive has it no more, and treats its rows accordingly. Reads the column of parts of every data file.
"""

import logging
from collections import Counter

import pyarrow.compute as pc

from hashtag_core.output.ids import load_index
from hashtag_core.output.output import Output
from hashtag_core.output.records import PartRecord

logger = logging.getLogger(__name__)


def reconcile(output: Output, name: str) -> bool:
    """Save the records that differ from the tables; whether any did."""
    before = output.records.parts
    changed, emptied = [], []
    for record in counted_records(output):
        counted = record.tagged + record.rejected
        if record.rows and not counted:
            emptied.append(record.path)
        else:
            new = record.model_copy(update={"etag": ""}) if counted < record.rows else record
            changed += [new] if new != before.get(record.path) else []
    if changed or emptied:
        output.save(name, parts=changed, gone=emptied)
        n = len(changed) + len(emptied)
        logger.info("%s: the records of %d part(s) were not those of its rows", output.layout.tagged, n)
    return bool(changed or emptied)


def counted_records(output: Output) -> list[PartRecord]:
    """The record of each part that has a record or a row, with the counts of its rows. Rejected rows of a part that counts as new
    are not counted: they are told of a version that is no more."""
    tagged, rejected = _counts(output)
    records = output.records.parts
    number = load_index(output.layout.ids).next_number(record.number for record in records.values())
    found = []
    for path, record in records.items():
        counts = {"tagged": tagged[path]} | ({"rejected": rejected[path]} if record.etag else {})
        found.append(record.model_copy(update=counts))
    for at, path in enumerate(sorted((tagged.keys() | rejected.keys()) - records.keys())):
        rows = tagged[path] + rejected[path]
        found.append(
            PartRecord(
                path=path, etag="", number=number + at, size=0, rows=rows, tagged=tagged[path], rejected=rejected[path]
            )
        )
    return found


def _counts(output: Output) -> tuple[Counter[str], Counter[str]]:
    """Tagged and rejected rows by part."""
    table, lines, _ = output.tables()
    tagged, rejected = Counter[str](), Counter[str]()
    for file in table.files(output.layout.values):
        for item in pc.value_counts(table.read(file, ["part"])["part"]).to_pylist():
            tagged[item["values"]] += item["counts"]
    for file in lines.files(output.layout.values):
        rows = lines.read(file, ["part", "rows"]).group_by("part").aggregate([("rows", "sum")])
        rejected.update(dict(zip(rows["part"].to_pylist(), rows["rows_sum"].to_pylist(), strict=True)))
    return tagged, rejected
