"""Archives of other layouts than Parquet: tagged as they are, every night."""

import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hashtag_core.config import ArchiveSection, Recipe
from hashtag_core.errors import ArchiveError, ConfigError
from hashtag_core.output.verify import verify_output
from tests.tagging.outputs import plan_for, rejected, rows_by_glob, run


def recipe(layout: str, **archive: object) -> Recipe:
    return Recipe.model_validate({"archive": {"format": layout, **archive}, "tagging": {"chunk_rows": 4, "actors": 1}})


def write_csv(path: Path, ids: list[str], caption: str = "a bird") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["id;text;file", *(f"{n};{caption} {n};pictures/{n}.jpg" for n in ids)]
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.usefixtures("inline")
def test_a_csv_with_pictures_night_after_night(
    popularity: Path, tmp_path: Path, make_jpeg: Callable[..., bytes]
) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    (archive / "pictures").mkdir(parents=True)
    for n in range(8):
        (archive / "pictures" / f"{n}.jpg").write_bytes(make_jpeg(n))
    mapping = {"post_id": "id", "caption": "text", "image_uri": "file"}
    asked = recipe("csv", map=mapping)
    write_csv(archive / "posts.csv", [str(n) for n in range(10)])
    first = run(archive, out, popularity, asked)
    assert (first.tagged, first.rejected) == (10, 0)
    statuses = {row["post_id"]: row["status"] for row in rows_by_glob(out)}
    assert statuses == {str(n): "ok" if n < 8 else "image_missing" for n in range(10)}
    assert run(archive, out, popularity, asked).parts == 0
    write_csv(archive / "posts.csv", [str(n) for n in range(12)])
    second = run(archive, out, popularity, asked)
    assert (second.tagged, second.kept) == (2, 10)
    assert len(rows_by_glob(out)) == 12
    with pytest.raises(ConfigError, match="reading was"):
        plan_for(archive, out, popularity, recipe("csv", map={**mapping, "user_id": "id"}))


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("layout", ["csv", "jsonl", "instaloader"])
def test_an_archive_is_the_same_whatever_its_place_is_called(
    layout: str, popularity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "archive"
    write_csv(archive / "posts.csv", ["1", "2"])
    (archive / "posts.jsonl").write_text('{"id": 1, "text": "a bird"}\n{"id": 2, "text": "a bird"}\n')
    for n in range(2):
        (archive / f"2019-01-0{n + 1}_00-00-00_UTC.txt").write_text("a bird")
    assert run(archive, tmp_path / "out", popularity, recipe(layout)).tagged == 2
    (tmp_path / "link").symlink_to(archive)
    monkeypatch.chdir(tmp_path)
    for name in ("archive", "archive/", "./archive", str(archive), f"file://{archive}", "link"):
        assert verify_output("out", name).problems == [], name


def test_a_version_is_of_the_files_and_not_of_how_a_release_cuts_and_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hashtag_core.data.formats import csv_table
    from hashtag_core.data.tagged_archive import Source

    def etag(folder: Path) -> str:
        (part,) = Source(str(folder), ArchiveSection(format="csv")).parts()
        return part.etag

    write_csv(tmp_path / "a" / "posts.csv", ["1", "2", "3"])
    before = etag(tmp_path / "a")
    monkeypatch.setattr(csv_table, "PART_ROWS", 2)
    real = csv_table.json.dumps
    monkeypatch.setattr(csv_table.json, "dumps", lambda value, **how: real({**value, "a new key": 1}, **how))
    assert etag(tmp_path / "a") == before
    (tmp_path / "a").rename(tmp_path / "b")
    assert etag(tmp_path / "b") == before
    (tmp_path / "b" / "bilder" / "pictures").mkdir(parents=True)
    (tmp_path / "b" / "bilder" / "pictures" / "1.jpg").write_bytes(b"a picture")
    found = etag(tmp_path / "b")
    assert found != before
    write_csv(tmp_path / "b" / "posts.csv", ["1", "2", "4"])
    assert etag(tmp_path / "b") not in (before, found)


@pytest.mark.usefixtures("inline")
def test_json_lines_with_rows_that_are_no_posts(popularity: Path, tmp_path: Path) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    archive.mkdir()
    lines = [json.dumps({"post_id": f"p{n}", "caption": f"number {n}"}) for n in range(9)]
    lines[4] = "{no json"
    lines[6] = json.dumps({"caption": "nobody's"})
    (archive / "a.jsonl").write_text("\n".join(lines) + "\n")
    summary = run(archive, out, popularity, recipe("jsonl"))
    assert (summary.posts, summary.tagged, summary.rejected) == (9, 7, 2)
    assert [(line["part"], line["row"]) for line in rejected(out)] == [("a.jsonl", 4), ("a.jsonl", 6)]
    assert {row["part"] for row in rows_by_glob(out)} == {"a.jsonl"}


@pytest.mark.usefixtures("inline")
def test_columns_in_capitals_and_under_other_names(popularity: Path, tmp_path: Path, write_part: Callable) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    archive, out = tmp_path / "archive", tmp_path / "out"
    archive.mkdir()
    table = pa.table({"POST_ID": ["1", "2"], "TEXT": ["a bird", None]})
    pq.write_table(table, archive / "a.parquet")
    summary = run(archive, out, popularity, recipe("posts", map={"caption": "TEXT"}))
    assert (summary.tagged, summary.rejected) == (2, 0)
    assert [row["status"] for row in rows_by_glob(out)] == ["image_missing", "empty"]


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("bad", [3, 1_500])
def test_posts_behind_rows_that_are_none_are_tagged_and_every_row_is_told(
    bad: int, popularity: Path, tmp_path: Path
) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    archive.mkdir()
    (archive / "a.csv").write_text("id,text\n" + ",nobody's\n" * bad + "1,a bird\n")
    (archive / "b.csv").write_text("id,text\n2,a bird\n,nobody's\n" + '3,"a quote that nobody closes\n')
    (archive / "c.csv").write_text("id,text\n" + ",nobody's\n" * 2)
    (archive / "d.csv").write_text("nothing,that is known\n1,2\n")
    summary = run(archive, out, popularity, recipe("csv"))
    assert (summary.tagged, len(rows_by_glob(out))) == (3, 3)
    told = [(line["part"], line["row"]) for line in rejected(out)]
    assert told == [
        *(("a.csv", n) for n in range(bad)),
        ("b.csv", 1),
        ("c.csv", 0),
        ("c.csv", 1),
        ("d.csv", None),
    ]
    assert verify_output(str(out), str(archive)).problems == []
    assert run(archive, out, popularity, recipe("csv")).posts == 0


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize(
    ("name", "tail"),
    [("a.csv.gz", b""), ("a.jsonl.gz", b"")],
)
def test_what_cannot_be_read_behind_the_posts_is_told_as_one(
    name: str, tail: bytes, popularity: Path, tmp_path: Path
) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    archive.mkdir()
    ids = [hashlib.sha256(f"{n}".encode()).hexdigest() for n in range(2_000)]
    lines = ["post_id", *ids] if ".csv" in name else [json.dumps({"post_id": post_id}) for post_id in ids]
    packed = gzip.compress("\n".join(lines).encode())
    (archive / name).write_bytes(packed[: len(packed) // 2] + tail)
    layout = "csv" if ".csv" in name else "jsonl"
    summary = run(archive, out, popularity, recipe(layout))
    ((part, row, reason),) = [(line["part"], line["row"], line["reason"]) for line in rejected(out)]
    assert (part, row) == (name, None)
    assert reason.startswith(f"unreadable from row {summary.tagged} on: ")
    assert 0 < summary.tagged == len(rows_by_glob(out)) < 2_000
    assert verify_output(str(out), str(archive)).problems == []


@pytest.mark.usefixtures("inline")
def test_an_archive_of_rows_that_are_no_posts_is_refused_with_the_first_reason(
    popularity: Path, tmp_path: Path
) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "a.csv").write_text("id,date\n1,24.01.2010\n2,25.01.2010\n")
    with pytest.raises(ArchiveError, match=r"no part holds posts: a\.csv: created_at: expected .*--date-format"):
        plan_for(tmp_path / "archive", tmp_path / "out", popularity, recipe("csv"))


@pytest.mark.usefixtures("inline")
def test_a_column_whose_type_rejects_every_row_is_told_once(
    popularity: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "archive").mkdir()
    pq.write_table(pa.table({"post_id": ["1", "2"], "caption": [1, None]}), tmp_path / "archive" / "a.parquet")
    summary = run(tmp_path / "archive", tmp_path / "out", popularity, recipe("posts"))
    assert (summary.tagged, summary.rejected) == (1, 1)
    assert caplog.text.count("EVERY ROW WITH A VALUE THERE IS REJECTED: caption: expected string, found int64") == 1
