"""Tables and lines as people have them: encodings, columns, pictures; what is told, and that nothing is lost or changed."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashtag_core.config import ArchiveSection
from hashtag_core.data.open_archive import Archive, open_archive
from hashtag_core.data.reading_options import Reading
from hashtag_core.errors import ArchiveError, ConfigError

JPEG = b"\xff\xd8\xff a picture"


def opened(folder: Path, **section: Any) -> Archive:
    return open_archive(str(folder), ArchiveSection(**{"format": "csv", **section}))


def rows_of(archive: Archive) -> tuple[list[dict[str, Any]], list[str]]:
    posts, rejected = [], []
    for part in archive.parts:
        for batch in archive.read(part, 3):
            posts += batch.posts.to_pylist()
            rejected += [item.reason for item in batch.rejected]
    return posts, rejected


def put(folder: Path, **files: bytes | str) -> Path:
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


TEXTS = {
    "cp1252": ["größe", "gräße", "façade", "niño", "Ærø", "l’été", "naïve – “déjà vu”"],
    "cp1251": ["привет", "море и солнце", "закат"],
    "cp1250": ["zażółć gęślą jaźń", "łódź", "příliš žluťoučký"],
    "cp1253": ["καλημέρα", "θάλασσα"],
    "shift_jis": ["東京の海", "日の出"],
    "gb18030": ["日落的海滩", "很开心"],
    "cp850": ["größe", "gräße", "façade"],
    "mac_roman": ["größe", "gräße", "über allen"],
}


@pytest.mark.parametrize("encoding", TEXTS)
def test_an_encoding_is_detected_or_asked_for_and_nothing_is_replaced(encoding: str, tmp_path: Path) -> None:
    texts = TEXTS[encoding]
    data = "post_id,caption\n" + "".join(f"{text},about {text}\n" for text in texts)
    put(tmp_path, a__csv=data.encode(encoding))
    archive = opened(tmp_path)
    problem = archive.problem(archive.parts[0])
    if encoding == "cp1252":
        assert "read as Windows-1252" in archive.listing.notes[0]
        assert [post["post_id"] for post in rows_of(archive)[0]] == texts
    else:
        assert problem is not None
        assert problem.startswith("expected UTF-8, found byte 0x")
        assert "--encoding" in problem
    posts, rejected = rows_of(opened(tmp_path, encoding=encoding))
    assert ([(post["post_id"], post["caption"]) for post in posts], rejected) == (
        [(t, f"about {t}") for t in texts],
        [],
    )


def test_one_broken_line_of_many_is_told_and_costs_no_other(tmp_path: Path) -> None:
    data = "post_id,caption\n" + "".join(f"é{n},größe {n}\n" for n in range(20))
    put(tmp_path, a__csv=data.encode() + b"x,cut \xf0\x9f\ny\xff,z\n")
    archive = opened(tmp_path)
    posts, rejected = rows_of(archive)
    assert "2 line(s) hold bytes that are no UTF-8 (byte 0xf0 in line 22)" in archive.listing.notes[0]
    assert len(posts) == 21
    assert posts[-1]["caption"] == "cut \ufffd"
    assert rejected == ["post_id: expected UTF-8, found bytes that are none"]


def test_lines_that_are_not_of_the_encoding_that_was_named(tmp_path: Path) -> None:
    data = "id,text\n東,京\n".encode("shift_jis") + b"\x81,x\nz,\x81 y\n"
    archive = opened(put(tmp_path, a__csv=data), encoding="shift_jis")
    posts, rejected = rows_of(archive)
    assert "2 line(s) hold bytes that are no SHIFT_JIS (byte 0x81 in line 3)" in archive.listing.notes[0]
    assert [(post["post_id"], post["caption"]) for post in posts] == [("東", "京"), ("z", "\ufffd y")]
    assert rejected == ["post_id: expected SHIFT_JIS, found bytes that are none"]


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_line_ends_of_all_systems(ends: str, encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hashtag_core.data.formats import csv_table

    monkeypatch.setattr(csv_table, "PART_ROWS", 2)
    rows = ["post_id,caption", *(f"größe{n},bird {n}" for n in range(5))]
    archive = opened(put(tmp_path, a__csv="".join(row + ends for row in rows).encode(encoding)))
    assert len(archive.parts) == 3
    posts, rejected = rows_of(archive)
    assert ([post["post_id"] for post in posts], rejected) == ([f"größe{n}" for n in range(5)], [])


@pytest.mark.parametrize(
    ("value", "unit"), [(1577934245, "unix"), (1577934245000, "unix_ms"), (1577934245000000, "unix_us")]
)
def test_a_number_for_a_date_names_its_unit(value: int, unit: str, tmp_path: Path) -> None:
    put(tmp_path, a__jsonl=json.dumps({"post_id": "1", "created_at": value}) + "\n")
    _, (reason,) = rows_of(opened(tmp_path, format="jsonl"))
    assert f"(--date-format {unit} reads " in reason
    (post,), _ = rows_of(opened(tmp_path, format="jsonl", date_format=unit))
    assert post["created_at"].isoformat() == "2020-01-02T03:04:05+00:00"


def test_lines_in_another_encoding(tmp_path: Path) -> None:
    put(tmp_path, a__jsonl='{"post_id": "größe"}\n{"post_id": "2"}\n'.encode("cp1252"))
    posts, rejected = rows_of(opened(tmp_path, format="jsonl"))
    assert [post["post_id"] for post in posts] == ["2"]
    assert rejected == ["expected a JSON object, found bytes that are no UTF-8 (--encoding names their encoding)"]
    posts, rejected = rows_of(opened(tmp_path, format="jsonl", encoding="cp1252"))
    assert ([post["post_id"] for post in posts], rejected) == (["größe", "2"], [])


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"map": {"captoin": "text"}}, r"archive\.map: no field 'captoin' \(did you mean 'caption'\?\)"),
        ({"encoding": "utf-99"}, r"archive\.encoding: Python knows no encoding 'utf-99'"),
        ({"encoding": "base64"}, r"archive\.encoding: Python knows no encoding 'base64'"),
        ({"delimiter": "::"}, r"archive\.delimiter: expected one character, or tab, found '::'"),
    ],
)
def test_what_a_person_says_is_checked(section: dict[str, Any], told: str, tmp_path: Path) -> None:
    put(tmp_path, a__csv="post_id\n1\n")
    with pytest.raises(ConfigError, match=told):
        opened(tmp_path, **section)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Nr;Text\n1;x\n", "post_id: column missing, found Nr, Text (--map post_id=COLUMN says which one it is)"),
        ("post_uuid,text\n1,x\n", "post_id: column missing, found post_uuid, text (--map post_id=post_uuid says"),
        (",Text\n0,x\n", "post_id: column missing, found (a column without a name), Text (--map post_id="),
        ("", "expected a table with a header, found an empty file"),
    ],
)
def test_columns_that_are_missing_are_told_with_those_that_are_there(text: str, told: str, tmp_path: Path) -> None:
    archive = opened(put(tmp_path, a__csv=text))
    with pytest.raises(ArchiveError) as caught:
        archive.first_readable()
    assert told in str(caught.value)


def test_columns_that_are_not_understood_are_named(tmp_path: Path) -> None:
    put(tmp_path, a__csv="id,text,likes,Geo\n1,x,3,y\n", b__jsonl='{"post_id": "1", "likes": 3, "text": "x"}\n')
    assert opened(tmp_path).listing.notes == [
        "a.csv: column(s) not read: likes, Geo (--map FIELD=COLUMN says what one holds)"
    ]
    assert opened(tmp_path, format="jsonl").listing.notes == [
        "b.jsonl: column(s) not read: likes (--map FIELD=COLUMN says what one holds)"
    ]


def test_a_column_may_be_two_fields(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "1.jpg").write_bytes(b"a picture")
    put(tmp_path, a__csv="name,text\n1.jpg,x\n2.jpg,y\n")
    archive = opened(tmp_path, map={"post_id": "name", "image": "name"})
    posts, rejected = rows_of(archive)
    assert [(post["post_id"], post["image"]) for post in posts] == [("1.jpg", b"a picture"), ("2.jpg", None)]
    assert (rejected, archive.listing.notes) == ([], [])


def test_a_date_of_another_kind_names_the_flag(tmp_path: Path) -> None:
    put(tmp_path, a__csv="id;date\n1;24.01.2010 17:07\n", b__csv="id,date\n2,1264352820\n")
    _, rejected = rows_of(opened(tmp_path))
    assert all("--date-format" in reason for reason in rejected)
    assert "(--date-format says how dates are written: %d.%m.%Y, " in rejected[0]
    assert len(rejected) == 2
    (post,), _ = rows_of(opened(tmp_path, date_format="%d.%m.%Y %H:%M"))
    assert post["created_at"].isoformat() == "2010-01-24T17:07:00+00:00"
    (post,), _ = rows_of(opened(tmp_path, date_format="unix"))
    assert post["created_at"].isoformat() == "2010-01-24T17:07:00+00:00"


@pytest.mark.parametrize(
    ("column", "written", "where"),
    [
        ("filename", "1.jpg", "pictures/1.jpg"),
        ("file_name", "1.jpg", "1.jpg"),
        ("image", "img\\1.jpg", "img/1.jpg"),
        ("image_path", "./img/1.jpg", "img/1.jpg"),
        ("image_uri", "1.jpg", "deep/er/1.jpg"),
        ("photo", "C:\\Users\\Ann\\1.jpg", "my pictures/1.jpg"),
        ("picture", "set/1.jpg", "deep/set/1.jpg"),
        ("file", "_DSC1.JPG", "pictures/_DSC1.JPG"),
    ],
)
@pytest.mark.parametrize("layout", ["csv", "jsonl"])
def test_a_picture_is_found_where_it_lies(column: str, written: str, where: str, layout: str, tmp_path: Path) -> None:
    (tmp_path / where).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / where).write_bytes(JPEG)
    row = {"id": "1", column: written}
    text = ",".join(row) + "\n" + ",".join(row.values()) + "\n" if layout == "csv" else json.dumps(row) + "\n"
    put(tmp_path, **{f"posts__{layout}": text})
    archive = opened(tmp_path, format=layout)
    (post,), rejected = rows_of(archive)
    assert rejected == []
    assert (post["image"], post["image_uri"]) == (JPEG, None)
    assert archive.tally.to_json() == {"there": 2, "read": 1, "beside": 1, "left_out": {}}
    (post,), _ = rows_of(opened(tmp_path / f"posts.{layout}", format=layout))
    assert (post["image"] == JPEG) == (where != "deep/er/1.jpg")  # a table alone: its folder and those in it


def test_one_table_on_s3_is_an_archive(tmp_path: Path, s3_bucket: str) -> None:
    from hashtag_core import storage

    storage.write_bytes(f"{s3_bucket}/v1.0/p/1.jpg", JPEG)
    storage.write_bytes(f"{s3_bucket}/v1.0/posts.csv", b"id,image\n1,p/1.jpg\n")
    storage.write_bytes(f"{s3_bucket}/v1.0/more.jsonl", b'{"id": "2", "filename": "1.jpg"}\n')
    for uri, layout in (("v1.0/posts.csv", "csv"), ("v1.0", "csv"), ("v1.0/", "csv"), ("v1.0", "jsonl")):
        (post,), _ = rows_of(open_archive(f"{s3_bucket}/{uri}", ArchiveSection(format=layout)))
        assert post["image"] == JPEG, uri


def test_a_mapped_column_of_pictures(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "1.jpg").write_bytes(JPEG)
    put(tmp_path, a__csv="id,bild\n1,1.jpg\n2,2.jpg\n3,https://example.org/3.jpg\n")
    posts, _ = rows_of(opened(tmp_path, map={"image_uri": "bild"}))
    assert [post["image"] for post in posts] == [JPEG, None, None]
    assert [post["image_uri"] for post in posts] == [None, "p/2.jpg", "https://example.org/3.jpg"]


@pytest.mark.parametrize("layout", ["csv", "jsonl"])
@pytest.mark.parametrize(
    "written", ["../out.jpg", "/etc/passwd", "file:///etc/passwd", "http://169.254.169.254/x", "x" * 300, "a/../../x"]
)
def test_a_reference_that_leads_out_costs_its_picture_alone(written: str, layout: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "out.jpg").write_bytes(JPEG)
    text = f"id,image_uri\n1,{written}\n" if layout == "csv" else json.dumps({"id": "1", "image_uri": written}) + "\n"
    put(tmp_path / "a", **{f"posts__{layout}": text})
    (post,), rejected = rows_of(opened(tmp_path / "a", format=layout))
    assert (post["image"], post["image_uri"], rejected) == (None, written, [])


IDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), min_size=1, max_size=12).filter(
    str.strip
)


@settings(max_examples=40, deadline=None)
@given(ids=st.lists(IDS, min_size=1, max_size=8, unique=True))
def test_an_id_is_the_same_in_parquet_tables_and_lines(
    ids: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    import csv

    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("ids")
    pq.write_table(pa.table({"post_id": ids}), folder / "a.parquet")
    with (folder / "a.csv").open("w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["post_id"], *([post_id] for post_id in ids)])
    (folder / "a.jsonl").write_text("".join(json.dumps({"post_id": post_id}) + "\n" for post_id in ids))
    for layout in ("posts", "csv", "jsonl"):
        posts, rejected = rows_of(opened(folder, format=layout))
        assert ([post["post_id"] for post in posts], rejected) == (ids, []), layout


def test_rows_that_are_none_before_the_first_post_do_not_cost_the_table(tmp_path: Path) -> None:
    put(
        tmp_path,
        a__csv="id,date\n" + "x,soon\n" * 500 + "1,2020-01-02\n",
        b__jsonl="nonsense\n" * 500 + '{"id": "1"}\n',
    )
    for layout in ("csv", "jsonl"):
        archive = opened(tmp_path, format=layout)
        assert archive.first_readable() is archive.parts[0]
        posts, rejected = rows_of(archive)
        assert (len(posts), len(rejected)) == (1, 500)


def test_a_user_is_kept_apart_whatever_its_bytes(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    users = pa.array(["ann", b"a\xff", b"a\xfe", " ", None], pa.binary())
    pq.write_table(pa.table({"post_id": [f"{n}" for n in range(5)], "user_id": users}), tmp_path / "a.parquet")
    rows = b"0,ann,\xc3\xa9\n1,a\xff,\xc3\xa9\n2,a\xfe,\xc3\xa9\n3, ,\xc3\xa9\n4,,\xc3\xa9\n5,\xc3\xa9,x\n"
    put(tmp_path, a__csv=b"post_id,user_id,caption\n" + rows)
    for layout in ("posts", "csv"):
        posts, rejected = rows_of(opened(tmp_path, format=layout))
        assert rejected == []
        assert [post["user_id"] for post in posts][:5] == ["ann", "a\\xff", "a\\xfe", None, None]
    put(tmp_path, a__jsonl=json.dumps({"post_id": "1", "user_id": "a\ud83d"}) + "\n")
    ((post,), rejected) = rows_of(opened(tmp_path, format="jsonl"))
    assert (post["user_id"], rejected) == ("a\\ud83d", [])


@pytest.mark.parametrize("value", [1.5, 1e300, float(2**53), True, "a\ud83d", [1], {"a": 1}])
def test_an_id_that_cannot_be_told_is_refused_and_not_changed(value: Any, tmp_path: Path) -> None:
    put(tmp_path, a__jsonl=json.dumps({"post_id": value}) + "\n")
    posts, rejected = rows_of(opened(tmp_path, format="jsonl"))
    assert posts == []
    assert rejected[0].startswith("post_id: expected ")


def test_what_is_said_travels_as_json() -> None:
    reading = Reading.of(
        ArchiveSection(map={"caption": "text"}, delimiter="tab", encoding="cp1252", date_format="unix")
    )
    assert Reading(**json.loads(json.dumps(reading.to_json()))) == reading
    assert reading.delimiter == "\t"


@pytest.mark.parametrize("written", ["1.23457E+18", "1,23457E+18", "1E+18", " 9.9E+20 "])
def test_an_id_that_a_spreadsheet_shortened_is_refused(written: str, tmp_path: Path) -> None:
    """Two ids of eighteen digits are one by then: taken, the second post would be lost as a repetition of the first."""
    put(tmp_path, a__csv=f"id;text\n{written};a\n{written};b\n1e5;a shortcode\nE+18;c\n")
    posts, rejected = rows_of(opened(tmp_path))
    assert [post["post_id"] for post in posts] == ["1e5", "E+18"]
    assert all("a number that a spreadsheet shortened" in reason for reason in rejected)
    assert len(rejected) == 2


def test_a_database_writes_null_as_backslash_n(tmp_path: Path) -> None:
    put(
        tmp_path,
        a__tsv="id\tuser\ttext\tdate\n1\t\\N\t\\N\t\\N\n2\tann\t\\Nice\t2020-01-02 03:04:05\n\\N\tann\tx\t\\N\n",
    )
    posts, rejected = rows_of(opened(tmp_path))
    assert [(post["user_id"], post["caption"]) for post in posts] == [(None, None), ("ann", "\\Nice")]
    assert rejected == ["post_id: expected a non-empty string, found null"]


def test_a_header_that_ends_in_a_delimiter_has_no_column_to_name(tmp_path: Path) -> None:
    put(tmp_path, a__csv="id,text,\n1,x,\n")
    archive = opened(tmp_path)
    assert archive.listing.notes == []
    assert [post["caption"] for post in rows_of(archive)[0]] == ["x"]
