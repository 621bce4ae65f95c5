"""Tagging accounts for every file and every row of an archive: tagged + rejected (each with a reason) = there."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hashtag_core.config import Recipe
from tests.tagging.outputs import plan_for, rejected, rows_by_glob
from tests.tagging.outputs import tag as carry_out

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "post_id": st.sampled_from(["1", "007", " x", "é", "#", "", None]),
            "caption": st.sampled_from([None, "a bird", 'größe, "x"\nline']),
            "image_uri": st.sampled_from([None, "p/none.jpg", "https://example.org/1.jpg"]),
        }
    ),
    min_size=1,
    max_size=12,
)
JUNK = {
    "notes.md": b"x",
    "_SUCCESS": b"",
    ".a.crc": b"crc",
    "deep/x.dat": b"not Parquet by its content",
    "_temporary/0/a.parquet": b"half",
    ".git/HEAD": b"ref",
    "p/1.jpg": b"\xff\xd8\xff",
    "._a.parquet": bytes(80),
}
BROKEN = {"posts": "z.parquet", "csv": "z.csv", "jsonl": "z.jsonl"}


def write(folder: Path, layout: str, parts: list[list[dict[str, Any]]], junk: set[str], broken: bool) -> int:
    """The archive; how many files there are."""
    for name in junk:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(JUNK[name])
    for number, rows in enumerate(parts):
        path = folder / f"part {number}.{'parquet' if layout == 'posts' else layout}"
        if layout == "posts":
            schema = pa.schema([(name, pa.string()) for name in rows[0]])
            pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=5)
        elif layout == "csv":
            with path.open("w", newline="") as file:
                csv.writer(file).writerows([list(rows[0]), *([row[name] or "" for name in rows[0]] for row in rows)])
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if broken:
        (folder / BROKEN[layout]).write_bytes(b"neither this nor that\n")
    return len(junk) + len(parts) + broken


@pytest.mark.usefixtures("inline")
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(ROWS, min_size=1, max_size=3),
    junk=st.sets(st.sampled_from(sorted(JUNK))),
    layout=st.sampled_from(sorted(BROKEN)),
    broken=st.booleans(),
)
def test_every_row_is_tagged_or_rejected_with_a_reason(
    parts: list[list[dict[str, Any]]],
    junk: set[str],
    layout: str,
    broken: bool,
    popularity: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    parts[0].append({"post_id": "sure", "caption": "one that is a post", "image_uri": None})
    folder = tmp_path_factory.mktemp("accounts")
    archive, out = folder / "archive", folder / "out"
    archive.mkdir()
    there = write(archive, layout, parts, junk, broken)
    recipe = Recipe.model_validate({"archive": {"format": layout}, "tagging": {"chunk_rows": 4, "actors": 1}})
    plan = plan_for(archive, out, popularity, recipe)
    files = plan.source.archive.tally
    assert files.there == files.read + files.beside + sum(files.left_out.values()) == there
    assert files.read == len(parts) + broken
    summary = carry_out(plan)
    rows, lines = rows_by_glob(out), rejected(out)
    ids = {row["post_id"] for part in parts for row in part if (row["post_id"] or "").strip()}
    assert {row["post_id"] for row in rows} == ids
    assert len(rows) == summary.tagged == len(ids)
    of_rows = [line for line in lines if line["row"] is not None]
    assert len(rows) + len(of_rows) == sum(map(len, parts)) + (broken and layout == "jsonl")
    places = [(row["part"], row["part_row"]) for row in rows] + [(line["part"], line["row"]) for line in of_rows]
    assert len(set(places)) == len(places), "a row is told once"
    assert all(line["reason"] for line in lines)
    assert sum(line["row"] is None for line in lines) == (broken and layout != "jsonl"), "one that holds no row at all"
