"""Every file and every row of an archive is accounted for, whatever its layout: read + left out (with reasons) = there."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashtag_core.config import ArchiveSection, read_recipe
from hashtag_core.data.open_archive import open_archive
from hashtag_core.data.parquet_rows import Rejected
from hashtag_core.errors import ArchiveError, ConfigError, HashtagError
from hashtag_core.preparation.convert import convert, plan_conversion
from hashtag_core.preparation.report import check_pictures, tell_rejected
from hashtag_core.recommend.image_uris import ImagePlaces
from hashtag_core.schema import POST
from jobs import prepare as job

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "post_id": st.sampled_from(["1", "007", " x", "é", "", None]),
            "caption": st.sampled_from([None, "a bird", "größe"]),
            "created_at": st.sampled_from([None, "2024-01-02T03:04:05", "soon"]),
            "image_uri": st.sampled_from([None, "p/1.jpg", "p/none.jpg", "https://example.org/1.jpg"]),
        }
    ),
    min_size=1,
    max_size=30,
)
OTHERS = st.sets(
    st.sampled_from(
        ["notes.md", "_SUCCESS", ".a.crc", "p/1.jpg", "p/2.jpg", "_delta_log/0.json", "deep/x.dat", ".git/HEAD"]
    )
)


def write(folder: Path, layout: str, rows: list[dict[str, Any]], others: set[str]) -> int:
    """The archive; how many files there are."""
    for name in others:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\xff\xd8\xff of a picture")
    if layout == "posts":
        pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet", row_group_size=7)
    elif layout == "csv":
        names = list(rows[0])
        lines = [names, *([row[name] or "" for name in names] for row in rows)]
        (folder / "a.csv").write_text("".join(",".join(line) + "\n" for line in lines))
    else:
        (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return len(others) + 1


@settings(max_examples=25, deadline=None)
@given(rows=ROWS, others=OTHERS, layout=st.sampled_from(["posts", "csv", "jsonl"]), batch_rows=st.integers(1, 40))
def test_read_and_left_out_are_all_that_is_there(
    rows: list[dict[str, Any]], others: set[str], layout: str, batch_rows: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    good = [row for row in rows if (row["post_id"] or "").strip() and row["created_at"] != "soon"]
    folder = tmp_path_factory.mktemp("archive")
    there = write(folder, layout, rows, others)
    recipe = read_recipe(None, [f"archive.format='{layout}'", f"archive.batch_rows={batch_rows}"])
    if not good and layout != "posts":  # of Parquet, the footer alone is looked at
        with pytest.raises(ArchiveError, match="can be read as posts"):
            plan_conversion(str(folder), str(folder) + "-out", recipe)
        return
    summary = convert(plan_conversion(str(folder), str(folder) + "-out", recipe))
    files = summary.files
    assert files.there == there
    assert files.read + files.beside + sum(files.left_out.values()) == there
    assert (summary.posts, summary.rows) == (len(good), len(rows))
    assert summary.posts + summary.rejected == len(rows)
    table = pq.ParquetDataset(folder.with_name(folder.name + "-out")).read()
    assert table.schema.remove_metadata().equals(POST)
    assert table["post_id"].to_pylist() == [row["post_id"] for row in good]
    found = sum(row["image_uri"] == "p/1.jpg" and "p/1.jpg" in others for row in good)
    assert summary.pictures == found == table.num_rows - table["image"].null_count
    assert summary.pictures_missing == sum(row["image_uri"] is not None for row in good) - found


INSTALOADER = {
    "ann/2019-01-04_05-06-07_UTC.txt": "größe #sun",
    "ann/2019-01-04_05-06-07_UTC.jpg": "picture",
    "ann/2019-01-04_05-06-07_UTC_profile_pic.jpg": "face",
    "ann/.DS_Store": "x",
    "_bob/_DSC1.jpg": "picture",
    "_bob/id": "7",
}
HARRISON = {"data_list.txt": "a/1.jpg\n", "tag_list.txt": "sea\n", "a/1.jpg": "x", "readme": "x"}
CITIES = {
    "captions/rome/1.txt": "a",
    "captions/rome/x.md": "a",
    "img_resized/rome/1.jpg": "x",
    "img_resized/rome/1.png": "x",
}


@pytest.mark.parametrize(
    ("layout", "files", "read", "beside", "left_out"),
    [
        ("instaloader", INSTALOADER, 3, 0, 2),
        ("harrison", HARRISON, 2, 1, 1),
        ("instacities", CITIES, 2, 0, 2),
    ],
)
def test_folders_of_files_have_a_tally_too(
    layout: str, files: dict[str, str], read: int, beside: int, left_out: int, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text.encode("cp1252"))
    archive = open_archive(str(tmp_path), ArchiveSection(format=layout))
    tally = archive.tally
    assert (tally.read, tally.beside, sum(tally.left_out.values())) == (read, beside, left_out)
    posts = [post for part in archive.parts for batch in archive.read(part, 9) for post in batch.posts.to_pylist()]
    if layout == "instaloader":
        assert {post["post_id"]: post["caption"] for post in posts} == {
            "ann/2019-01-04_05-06-07_UTC": "größe #sun",
            "_bob/_DSC1": None,
        }


def last_json(text: str) -> dict[str, Any]:
    return json.loads(text.strip().splitlines()[-1])


def test_the_job_converts_once_and_goes_on_where_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    (archive / "p").mkdir(parents=True)
    (archive / "p" / "1.jpg").write_bytes(b"one")
    for name in ("a", "b"):
        (archive / f"{name}.csv").write_text(f"Nr;text;bild\n{name}1;hi;1.jpg\n;x;\n{name}2;ho;2.jpg\n")
    arguments = [
        "--archive",
        str(archive),
        "--convert",
        str(out),
        "--format",
        "csv",
        "--map",
        "post_id=Nr",
        "--map",
        "image_uri=bild",
    ]
    assert job.main([*arguments, "--dry-run"]) == 0
    assert last_json(capfd.readouterr().out)["parts"] == 2
    assert not out.exists()
    assert job.main(arguments) == 0
    captured = capfd.readouterr()
    summary = last_json(captured.out)
    assert {name: summary[name] for name in ("parts", "posts", "rejected", "rows", "pictures", "pictures_missing")} == {
        "parts": 2, "posts": 4, "rejected": 2, "rows": 6, "pictures": 2, "pictures_missing": 2,
    }  # fmt: skip
    assert "2 rejected: post_id: expected a non-empty string, found null (the first: a.csv row 1)" in captured.err
    assert "2 of 4 pictures could not be had (50%), e.g. image_uri not fetched:" in captured.err
    first = sorted(out.glob("part-*"))[0]
    first.unlink()
    before = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert job.main(arguments) == 0
    assert last_json(capfd.readouterr().out) == {**summary, "unchanged": False}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert job.main(arguments) == 0
    assert last_json(capfd.readouterr().out) == {**summary, "unchanged": True}
    assert job.main([*arguments, "--max-missing-images", "0.4"]) == 2
    assert "2 of 4 pictures could not be had (50%)" in capfd.readouterr().err
    (archive / "a.csv").write_text("Nr;text;bild\nother;hi;\n")
    assert job.main(arguments) == 2
    assert "which is not of this archive as it is now" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--map", "caption"], "--map 'caption': expected FIELD=COLUMN, e.g. caption=text"),
        (["--map", "captoin=text"], "no field 'captoin' (did you mean 'caption'?)"),
        (["--map", "caption=body"], "--map caption=body: no such column, found id, text"),
        (["--delimiter", "xx"], "archive.delimiter: expected one character"),
        (["--dataset", "d"], "--convert writes posts and no dataset"),
        (["--max-missing-images", "2"], "archive: max_missing_images"),
    ],
)
def test_a_wrong_flag_is_one_line(
    arguments: list[str], told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "a.csv").write_text("id,text\n1,x\n")
    shared = ["--archive", str(tmp_path / "a"), "--convert", str(tmp_path / "o"), "--format", "csv"]
    assert job.main([*shared, *arguments]) == 2
    captured = capfd.readouterr()
    assert told in captured.err
    assert "Traceback" not in captured.err


def test_a_folder_that_is_not_of_the_archive_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    pq.write_table(pa.table({"post_id": ["1"]}), tmp_path / "a" / "a.parquet")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_text("x")
    with pytest.raises(ConfigError, match="holds precious"):
        plan_conversion(str(tmp_path / "a"), str(tmp_path / "mine"), read_recipe())
    for out in (tmp_path / "a", tmp_path / "a" / "b", tmp_path):
        with pytest.raises(ConfigError, match="lie in one another"):
            plan_conversion(str(tmp_path / "a"), str(out), read_recipe())
    with pytest.raises(ArchiveError, match="without a part"):
        plan_conversion(str(tmp_path / "mine"), str(tmp_path / "o"), read_recipe())
    plan = plan_conversion(str(tmp_path / "a"), str(tmp_path / "o"), read_recipe())
    pq.write_table(pa.table({"post_id": ["2", "3"]}), tmp_path / "a" / "a.parquet")
    with pytest.raises(HashtagError, match="changed while it was read"):
        convert(plan)
    assert not list((tmp_path / "o").glob("part-*"))


def test_a_column_whose_type_rejects_every_row_is_told_loudly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = pa.table({"post_id": ["1", "2"], "caption": [1, 2], "hashtags": [[1], [2]]})
    pq.write_table(table, tmp_path / "a.parquet")
    archive = open_archive(str(tmp_path))
    archive.tell()
    assert "a.parquet: EVERY ROW WITH A VALUE THERE IS REJECTED: caption: expected string, found int64" in caplog.text


def test_pictures_of_a_batch_that_pass_the_bound_come_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hashtag_core.preparation import fetch_images as prepare_pictures

    monkeypatch.setattr(prepare_pictures, "MAX_BATCH_BYTES", 250)
    for n in range(10):
        (tmp_path / f"{n}.jpg").write_bytes(bytes(100))
    rows = [{"post_id": None if n % 4 == 1 else f"{n}", "image_uri": f"{n}.jpg"} for n in range(10)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    archive = open_archive(str(tmp_path))
    pictures = prepare_pictures.Pictures(ImagePlaces(str(tmp_path), max_bytes=1000))
    batches = list(pictures.fetched(archive.read(archive.parts[0], 100)))
    assert [batch.posts.num_rows for batch in batches] == [3, 3, 1]
    assert [row for batch in batches for row in batch.rows.tolist()] == [0, 2, 3, 4, 6, 7, 8]
    assert [item.row for batch in batches for item in batch.rejected] == [1, 5, 9]
    assert all(batch.posts["image"].null_count == 0 for batch in batches)


def test_rejected_rows_are_told_by_reason_and_lost_parts_loudly(caplog: pytest.LogCaptureFixture) -> None:
    told = [Rejected("a.parquet", n, None, f"post_id: expected string, found list<{n}>") for n in range(40)]
    told += [Rejected("b.parquet", None, None, "expected a Parquet file, found: nothing")]
    told += [Rejected("c.parquet", 7, "x", "created_at: expected an ISO 8601 time, found 'soon'")]
    tell_rejected(told, {"c.parquet"})
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "40 rejected: post_id: expected string, found list<0> (the first: a.parquet row 0)",
        "1 rejected: expected a Parquet file, found: nothing (the first: b.parquet)",
        "1 rejected: created_at: expected an ISO 8601 time, found 'soon' (the first: c.parquet row 7)",
        "a.parquet: NOT ONE OF ITS ROWS IS A POST (40 rejected): post_id: expected string, found list<0>",
        "b.parquet: NOT ONE OF ITS ROWS IS A POST (1 rejected): expected a Parquet file, found: nothing",
    ]


@pytest.mark.parametrize(
    ("missing", "named", "most", "stops"),
    [(0, 10, 0.0, False), (1, 10, 0.1, False), (2, 10, 0.1, True), (10, 10, None, False)],
)
def test_missing_pictures_stop_above_a_share(
    missing: int, named: int, most: float | None, stops: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if stops:
        with pytest.raises(
            ArchiveError,
            match=r"2 of 10 pictures could not be had \(20%\), e\.g\. why: more than archive\.max_missing_images = 0\.1",
        ):
            check_pictures(missing, named, ["why"], most)
        return
    check_pictures(missing, named, ["why"], most)
    assert bool(caplog.records) == bool(missing)
