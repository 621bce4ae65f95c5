"""Files that are not quite what their names say, through tagging: every row is tagged or rejected with the true reason, and the second
night finds nothing to do."""

import bz2
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashtag_core.output.verify import verify_output
from tests.tagging.outputs import rejected, rows_by_glob, run
from tests.tagging.test_layouts import recipe
from tests.unit.data.test_siblings import POINTER, zipped

pytestmark = pytest.mark.usefixtures("inline")


def tables(archive: Path) -> None:
    rows = "".join(f"{n},anna,a bird {n}\n" for n in range(5))
    (archive / "a.csv.zst").write_bytes(pa.compress(f"id,user,text\n{rows}".encode(), "zstd", asbytes=True))
    (archive / "b.csv.bz2").write_bytes(bz2.compress(b"id,user,text\n10,NULL,a bird\n11,nan,N/A\n"))
    (archive / "c.csv.zip").write_bytes(zipped(b'id,user,text\n20,bert,"a \\"bird\\", here"\n', name="c.csv"))
    (archive / "d.csv").write_bytes(POINTER)
    (archive / "e.csv").write_text("id,user,text\nNULL,anna,x\nNULL,anna,y\n30,anna,z\n")
    (archive / "f.csv").write_text('id,user,text\n40,anna,x\n41,anna,"open\n42,anna,lost\n')


def lines(archive: Path) -> None:
    held: list[Any] = [{"_id": {"$oid": f"o{n}"}, "date": {"$date": 1700000000000}, "text": "a bird"} for n in range(3)]
    (archive / "a.json").write_text("".join(json.dumps(line) + "\n" for line in held))
    (archive / "b.jsonl.gz").write_bytes(gzip.compress(b'{"id": 1, "user": "None", "text": "x"}\n{"id": null}\n'))
    (archive / "c.jsonl").write_text(json.dumps([{"id": 9}], indent=1))
    (archive / "d.ndjson").write_bytes(POINTER)


def parquet(archive: Path) -> None:
    pq.write_table(pa.table({"post_id": ["1", "2"], "user_id": ["nan", "anna"]}), archive / "a.parquet")
    (archive / "b.parquet").write_bytes(POINTER)
    (archive / "c.parquet").write_bytes(b"<!DOCTYPE html><html>Sign in</html>")


LFS = "a Git LFS pointer in place of the file: run `git lfs pull`"


@pytest.mark.parametrize(
    ("layout", "fill", "tagged", "told"),
    [
        (
            "csv",
            tables,
            ["0", "1", "10", "11", "2", "20", "3", "30", "4", "40"],
            [
                ("d.csv", None, f"expected a table, found: {LFS}"),
                ("e.csv", 0, "several rows say that they have none"),
                ("e.csv", 1, "several rows say that they have none"),
                (
                    "f.csv",
                    None,
                    "unreadable from row 1 on: the table ends within a quote that 2 line(s) before was opened",
                ),
            ],
        ),
        (
            "jsonl",
            lines,
            ["1", "o0", "o1", "o2"],
            [
                ("b.jsonl.gz", 1, "post_id: expected a non-empty string, found null"),
                ("c.jsonl", None, "one JSON document over several lines"),
                ("d.ndjson", None, f"expected JSON lines, found: {LFS}"),
            ],
        ),
        ("posts", parquet, ["1", "2"], [("b.parquet", None, LFS), ("c.parquet", None, "an HTML page")]),
    ],
)
def test_every_row_is_tagged_or_told(
    layout: str,
    fill: Callable[[Path], None],
    tagged: list[str],
    told: list[tuple[str, int | None, str]],
    popularity: Path,
    tmp_path: Path,
) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    archive.mkdir()
    fill(archive)
    run(archive, out, popularity, recipe(layout))
    assert sorted(row["post_id"] for row in rows_by_glob(out)) == tagged
    found = rejected(out)
    assert [(row["part"], row["row"]) for row in found] == [(part, row) for part, row, _ in told]
    for row, (_, _, reason) in zip(found, told, strict=True):
        assert reason in row["reason"]
    assert verify_output(str(out), str(archive)).problems == []
    assert run(archive, out, popularity, recipe(layout)).posts == 0
