"""An output of two parts, made by hand: tagged and rejected rows, and the records of both."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from hashtag_core.output.claimed_output import Output
from hashtag_core.output.fenced_table import Change
from hashtag_core.output.layout import Layout
from hashtag_core.output.records import PartRecord
from hashtag_core.schema import REJECTED_TABLE, TABLE

WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def tagged_rows(part: str, ids: Sequence[str], content: int = 7) -> pa.Table:
    """One row a post, in order, tagged with `sun`."""
    return pa.Table.from_pylist(
        [
            {
                "post_id": post_id, "hashtags": ["sun"], "scores": [0.5], "status": "ok", "detail": None, "model_name": "m",
                "model_version": "1", "created_at": WHEN, "part": part, "part_version": "e", "part_row": row, "content": content + row,
                "history": None, "user_key": None,
            }
            for row, post_id in enumerate(ids)
        ],
        schema=TABLE,
    )  # fmt: skip


def rejected_line(part: str, row: int, rows: int = 1) -> pa.Table:
    line = {"part": part, "row": row, "post_id": None, "reason": "why", "rows": rows, "part_version": "e"}
    return pa.Table.from_pylist([{**line, "created_at": None, "user_key": None}], schema=REJECTED_TABLE)


def record(path: str, number: int, tagged: int, rejected: int = 0) -> PartRecord:
    return PartRecord(
        path=path, etag="e", number=number, size=1, rows=tagged + rejected, tagged=tagged, rejected=rejected
    )


def small_output(folder: Path) -> Output:
    """`a` has posts x and y and one rejected row, `b` has z; claimed."""
    output = Output.open(Layout.at(str(folder), "m", "1"))
    output.claim()
    tagged, rejected, _ = output.tables()
    where, values = output.layout.partition, output.layout.values
    files = [
        tagged.write(f"{where}/part-{part}.parquet", tagged_rows(part, ids), values)
        for part, ids in (("a", "xy"), ("b", "z"))
    ]
    tagged.commit(Change(files))
    rejected.commit(Change([rejected.write(f"{where}/part-r.parquet", rejected_line("a", 2), values)]))
    output.save("first", parts=[record("a", 1, 2, 1), record("b", 2, 1)])
    return output


def posts_of(output: Output) -> dict[str, list[str]]:
    """Part -> its tagged posts."""
    tagged = output.tables()[0]
    found: dict[str, list[str]] = {}
    for file in tagged.files(output.layout.values):
        for row in tagged.read(file, ["part", "post_id"]).to_pylist():
            found.setdefault(row["part"], []).append(row["post_id"])
    return found
