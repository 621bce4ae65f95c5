"""What exporters write that is nearly right: lists as Python prints them, dates of mail and MySQL, quotes that are not closed, documents
named as lines, names of pictures spelled by another machine. Read rightly, or refused with the true reason."""

import csv
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashtag_core.data.open_archive import open_archive
from hashtag_core.data.parquet_rows import normalise_posts
from hashtag_core.errors import ArchiveError
from tests.unit.data.test_people_tables import opened, rows_of


@pytest.mark.parametrize(
    ("written", "tags"),
    [
        ("['cat' 'dog']", ["cat", "dog"]),  # numpy's: two strings side by side are one to Python
        ("['cat'\n 'dog']", ["cat", "dog"]),
        ("array(['cat', 'dog'], dtype=object)", ["cat", "dog"]),
        ("('cat', 'dog')", ["cat", "dog"]),
        ("('cat',)", ["cat"]),
        ("{'cat', 'dog'}", ["cat", "dog"]),
        ("['cat', nan]", ["cat"]),
        ("[nan]", []),
        ("set()", []),
        ("[None, 'cat']", ["cat"]),
        ('["it\'s", \'a "b"\']', ["it's", 'a "b"']),
        ("{cat,dog}", ["cat", "dog"]),
    ],
)
def test_lists_as_python_and_numpy_print_them(written: str, tags: list[str], tmp_path: Path) -> None:
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([["id", "tags"], ["1", written]])
    posts, rejected = rows_of(opened(tmp_path))
    assert ([post["hashtags"] for post in posts], rejected) == ([tags], [])
    table = pa.table({"post_id": ["1"], "hashtags": [written]})
    assert normalise_posts(table)[0]["hashtags"].to_pylist() == [tags]


@pytest.mark.parametrize("written", ["['a' ... 'b']", "[1, 2]", "['a', 1]", "['a'", "(a) b", "a, b", "{'a': 1}"])
def test_text_that_is_no_list_is_none_in_parquet(written: str) -> None:
    table = pa.table({"post_id": ["1"], "hashtags": [written]})
    assert normalise_posts(table)[0].num_rows == 0


def test_pandas_arrays_of_tags_survive_a_table(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": ["1", "2"], "tags": [["cat", "dog"], ["o'hara"]]})
    frame.to_parquet(tmp_path / "a.parquet")
    pd.read_parquet(tmp_path / "a.parquet").to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "a.parquet").unlink()
    assert [post["hashtags"] for post in rows_of(opened(tmp_path))[0]] == [["cat", "dog"], ["o'hara"]]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Tue, 02 Jan 2024 03:04:05 GMT", "2024-01-02T03:04:05+00:00"),
        ("2 Jan 2024 03:04:05 +0530", "2024-01-01T21:34:05+00:00"),
        ("0000-00-00 00:00:00", None),
        ("0000-00-00", None),
        ("NaT", None),
    ],
)
def test_dates_of_mail_and_no_dates_of_mysql(written: str, read: str | None, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f'id,date\n1,"{written}"\n')
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": 1, "date": written}))
    expected = None if read is None else datetime.fromisoformat(read)
    for kind in ("csv", "jsonl"):
        posts, rejected = rows_of(opened(tmp_path, format=kind))
        assert ([post["created_at"] for post in posts], rejected) == ([expected], []), kind


@pytest.mark.parametrize(
    ("written", "unit"), [("1704164645", "unix"), ("1704164645123", "unix_ms"), ("1704164645.5", "unix")]
)
def test_digits_in_a_table_are_no_date_and_the_flag_is_named(written: str, unit: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"id,date\n1,{written}\n")
    assert f"(--date-format {unit} reads" in rows_of(opened(tmp_path))[1][0]
    assert len(rows_of(opened(tmp_path, date_format=unit))[0]) == 1


def test_a_quote_that_is_open_at_the_end_swallows_no_post_in_silence(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,text\n0,x\n1,"never closed\n2,b\n3,c\n')
    posts, rejected = rows_of(opened(tmp_path))
    assert [post["post_id"] for post in posts] == ["0"]
    assert rejected == ["unreadable from row 1 on: the table ends within a quote that 3 line(s) before was opened"]


def test_a_quote_that_another_row_closes_is_no_post(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,text\n0,"5"" tall,\nreally"\n1,"never closed\n2,"b"\n3,5" wide\n4,c\n')
    posts, rejected = rows_of(opened(tmp_path))
    assert [(post["post_id"], post["caption"]) for post in posts] == [
        ("0", '5" tall,\nreally'),
        ("3", '5" wide'),
        ("4", "c"),
    ]
    assert rejected == ["expected a row, found several lines with a quote among them that is not closed"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("id:text\n1:a\n", "one column alone is found with ',' between them (--delimiter names another sign)"),
        ("", "expected a table with a header, found an empty file"),
        ("\n\n", "expected a table with a header, found an empty file"),
    ],
)
def test_a_table_without_columns_says_why(content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(content)
    archive = opened(tmp_path)
    assert told in str(archive.problem(archive.parts[0]))


@pytest.mark.parametrize("document", [[{"id": 1}, {"id": 2}], {"id": 1, "text": "x"}, []])
def test_a_document_named_as_lines_is_refused_once_in_words(document: Any, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(document, indent=2) if document else "[\n]")
    (tmp_path / "b.json").write_text(json.dumps(document, indent=2))
    (tmp_path / "c.jsonl").write_text('{"id": 3}\n')
    archive = opened(tmp_path, format="jsonl")
    posts, rejected = rows_of(archive)
    assert [post["post_id"] for post in posts] == ["3"]
    assert rejected == [
        "expected JSON lines, found: one JSON document over several lines (jq -c '.[]' writes an object a line)"
    ]
    assert list(archive.listing.tally.names.values()) == [["b.json"]]


def test_objects_under_another_name_are_told(tmp_path: Path) -> None:
    lines = [{"id": n, "user": {"name": "anna"}, "tags": {"a": 1}, "text": "x"} for n in range(3)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    notes = opened(tmp_path, format="jsonl").listing.notes
    assert notes == ["a.jsonl: column(s) not read: user.name, tags.a (--map FIELD=COLUMN says what one holds)"]
    mapped = opened(tmp_path, format="jsonl", map={"user_id": "user.name"})
    assert rows_of(mapped)[0][0]["user_id"] == "anna"
    assert mapped.listing.notes == ["a.jsonl: column(s) not read: tags.a (--map FIELD=COLUMN says what one holds)"]


def test_columns_of_parquet_and_keys_of_folders_that_are_not_read_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for user in ("anna", "bert"):
        folder = tmp_path / "dt=2024-01-02" / f"user_id={user}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"post_id": [user], "image_path": ["1.png"], "likes": [3]}), folder / "a.parquet")
    open_archive(str(tmp_path)).tell()
    assert caplog.text.count("column(s) not read: image_path, likes") == 1
    assert (
        caplog.text.count("what stands in a folder's name is no column here; user_id is read from the files alone") == 1
    )
    assert "dt=" not in caplog.text.replace("dt=2024-01-02/user_id", "")


def test_a_footer_is_opened_once_to_tell_of_its_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hashtag_core.data import parquet_rows as posts

    pq.write_table(pa.table({"post_id": [1], "likes": [3], "caption": [4.5]}), tmp_path / "a.parquet")
    archive = opened(tmp_path, format="posts")
    opens, real = list[Any](), posts.open_parquet
    monkeypatch.setattr(posts, "open_parquet", lambda source: opens.append(source) or real(source))
    archive.tell()
    assert len(opens) == 1


@pytest.mark.parametrize(
    ("named", "held"),
    [
        ("caf\u00e9.png", "cafe\u0301.png"),
        ("cafe\u0301.png", "caf\u00e9.png"),
        ("a%20b.png", "a b.png"),
        ("100%.png", "100%.png"),
    ],
)
def test_a_picture_is_found_by_the_spellings_of_other_machines(named: str, held: str, tmp_path: Path) -> None:
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics" / held).write_bytes(b"picture")
    (tmp_path / "a.csv").write_text(f"id,file\n2,{named}\n")
    posts, _ = rows_of(opened(tmp_path))
    assert [post["image"] for post in posts] == [b"picture"]


@pytest.mark.parametrize(("kind", "files", "told"), [
    ("csv", ["1.jpg", "2.png"], "found 2 picture(s)"),
    ("csv", ["posts.xlsx"], "posts.xlsx (no table, no picture) (an Excel workbook is not read: save it as CSV)"),
    ("jsonl", ["posts.json"], "posts.json (a JSON document, no JSON lines)"),
    ("posts", ["posts.csv"], "posts.csv (named .csv, no Parquet) (--format csv reads them)"),
])  # fmt: skip
def test_an_archive_without_a_part_says_what_is_there(kind: str, files: list[str], told: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"x" * 20)
    with pytest.raises(ArchiveError) as caught:
        opened(tmp_path, format=kind)
    assert told in str(caught.value)


@pytest.mark.parametrize(("kind", "name"), [("csv", "b.csv"), ("jsonl", "b.jsonl"), ("csv", "b.tsv.gz")])
def test_what_is_no_file_is_left_out_in_words_and_not_waited_for(kind: str, name: str, tmp_path: Path) -> None:
    (tmp_path / f"a.{kind}").write_text("id,text\n1,a\n" if kind == "csv" else '{"id": 1, "text": "a"}\n')
    os.mkfifo(tmp_path / name)
    (tmp_path / f"c-{name}").symlink_to(tmp_path / "nowhere")
    archive = opened(tmp_path, format=kind)
    assert [post["post_id"] for post in rows_of(archive)[0]] == ["1"]
    tally = archive.listing.tally
    assert tally.left_out == {"no regular file": 1, "a link to nothing": 1}
    assert (tally.there, tally.read) == (3, 1)


def test_a_picture_that_is_a_pipe_is_missing_and_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"picture")
    os.mkfifo(tmp_path / "2.png")
    (tmp_path / "a.csv").write_text("id,file\n1,1.png\n2,2.png\n")
    posts, _ = rows_of(opened(tmp_path))
    assert [(post["image"], post["image_uri"]) for post in posts] == [(b"picture", None), (None, "2.png")]


@pytest.mark.parametrize("text", ["größe", "привет, море", "東京の海"])
def test_a_caption_file_whose_encoding_nobody_can_tell_is_refused_and_the_flag_is_named(
    text: str, tmp_path: Path
) -> None:
    encoding = {"g": "cp1252", "п": "cp1251", "東": "shift_jis"}[text[0]]
    folder = tmp_path / "anna"
    folder.mkdir()
    for n, data in enumerate((text.encode(encoding), text.encode(), b"plain")):
        (folder / f"2024-01-0{n + 1}_00-00-00_UTC.txt").write_bytes(data)
        (folder / f"2024-01-0{n + 1}_00-00-00_UTC.jpg").write_bytes(b"picture")
    posts, rejected = rows_of(opened(tmp_path, format="instaloader"))
    assert [post["caption"] for post in posts] == [text, "plain"]
    assert len(rejected) == 1
    assert "expected UTF-8, found byte 0x" in rejected[0]
    assert "--encoding" in rejected[0]
    (folder / "2024-01-02_00-00-00_UTC.txt").write_bytes(b"plain")
    posts, rejected = rows_of(opened(tmp_path, format="instaloader", encoding=encoding))
    assert ([post["caption"] for post in posts], rejected) == ([text, "plain", "plain"], [])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_a_wide_encoding_that_is_not_the_files_is_told(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n1,größe\n")
    archive = opened(tmp_path, encoding=encoding)
    assert (
        archive.problem(archive.parts[0])
        == f"expected a table, found: text that is no {encoding.upper()}, which --encoding names"
    )
    (tmp_path / "a.csv").write_bytes("id,text\n1,größe\n".encode(f"{encoding.removesuffix('-le')}-le"))
    assert rows_of(opened(tmp_path, encoding=encoding))[0][0]["caption"] == "größe"


def test_integers_that_pandas_wrote_as_floats_are_the_same_ids(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": [1, 20, None, 3], "user": [7, None, 9, 80], "text": ["x", "y", "lost", "z"]})
    frame.to_csv(tmp_path / "a.csv", index=False)
    posts, rejected = rows_of(opened(tmp_path))
    assert [(post["post_id"], post["user_id"]) for post in posts] == [("1", "7"), ("20", None), ("3", "80")]
    assert rejected == ["post_id: expected a non-empty string, found null"]
    frame.rename(columns={"id": "post_id", "user": "user_id"}).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.csv").unlink()
    table = pq.read_table(tmp_path / "a.parquet", columns=["post_id", "user_id"])
    assert normalise_posts(table)[0].select(["post_id", "user_id"]).to_pylist() == [
        {name: post[name] for name in ("post_id", "user_id")} for post in posts
    ]


@pytest.mark.parametrize(
    "ids", [["1.0", "20.0"], ["1.0", "2.5"], ["1.0", "a"], ["1.00"], ["v1.0"], ["1234567890123456.0"]]
)
def test_ids_that_are_no_floats_of_whole_numbers_stay(ids: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id\n" + "".join(f"{one}\n" for one in ids))
    assert [post["post_id"] for post in rows_of(opened(tmp_path))[0]] == ids


@pytest.mark.parametrize("field", ["id", "user"])
@pytest.mark.parametrize("written", ["1.2345678901234568e+18", "1,23457E+18", "1e+20"])
def test_an_id_whose_digits_are_lost_is_refused(field: str, written: str, tmp_path: Path) -> None:
    row = {"id": "1", "user": "anna", field: written}
    (tmp_path / "a.csv").write_text(f"id;user\n{row['id']};{row['user']}\n2;bert\n")
    posts, rejected = rows_of(opened(tmp_path))
    assert [post["post_id"] for post in posts] == ["2"]
    assert rejected[0].startswith("post_id:" if field == "id" else "user_id:")
    assert "a number that a spreadsheet shortened" in rejected[0]


@pytest.mark.parametrize(
    ("written", "tags"),
    [
        ("[cat, dog]", ["cat", "dog"]),
        ("[black cat]", ["black cat"]),
        ("['it\\'s', a b]", ["it\\'s", "a b"]),
        ("{cat,NULL}", ["cat"]),
        ("{NULL}", []),
        ("{}", []),
    ],
)
def test_lists_without_quotes_as_engines_print_them(written: str, tags: list[str], tmp_path: Path) -> None:
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([["id", "tags"], ["1", written]])
    assert [post["hashtags"] for post in rows_of(opened(tmp_path))[0]] == [tags]


def test_files_beside_the_posts_of_instaloader_are_told_for_what_they_are(tmp_path: Path) -> None:
    when = "2019-01-03_00-00-00_UTC"
    files = [f"{when}.txt", f"{when}_1.jpg", f"{when}_2.jpg", f"{when}_3.mp4", f"{when}_profile_pic.jpg"]
    for name in [*files, "id", "notes.pdf", "other.mp4"]:
        (tmp_path / name).write_text("x")
    tally = opened(tmp_path, format="instaloader").tally
    assert tally.names == {
        "a further picture of a post": [f"{when}_2.jpg"],
        "a video of a post": [f"{when}_3.mp4"],
        "no metadata, caption or picture of a post": [f"{when}_profile_pic.jpg", "id", "notes.pdf", "other.mp4"],
    }
    assert tally.read == 2
