"""Files that are not quite what their names say: pointers in place of content, packed tables, quotes behind backslashes, words
that say none, MongoDB's extended JSON. Each is read rightly, or refused with the true reason."""

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashtag_core.data.images import decode_image
from hashtag_core.data.open_archive import open_archive
from hashtag_core.data.parquet_rows import normalise_posts
from hashtag_core.data.values import NO_VALUES
from hashtag_core.errors import ArchiveError, ImageError
from tests.unit.data.test_people_tables import opened, rows_of

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


TABLE = "id,caption\n1,a bird\n2,größe\n3,東京\n"


LINES = "".join(json.dumps({"id": n, "caption": c}) + "\n" for n, c in (("1", "a bird"), ("2", "größe"), ("3", "東京")))


READ = [("1", "a bird"), ("2", "größe"), ("3", "東京")]


def zipped(data: bytes, *more: str, name: str = "posts") -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as file:
        for one in (name, *more):
            file.writestr(one, data)
    return held.getvalue()


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: pa.compress(data, "zstd", asbytes=True),
    "zip": lambda data: zipped(data, "__MACOSX/._posts"),
}


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_packed_tables_and_lines_are_read_by_their_content(kind: str, suffix: str, tmp_path: Path) -> None:
    data = PACKED[suffix]((TABLE if kind == "csv" else LINES).encode())
    for name in (f"a.{kind}.{suffix}", f"a.{kind.upper()}.{suffix.upper()}", f"a.{kind}"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(data)
        posts, rejected = rows_of(opened(folder, format=kind))
        assert ([(post["post_id"], post["caption"]) for post in posts], rejected) == (READ, []), name
    plain = tmp_path / f"b.{kind}.{suffix}"
    plain.write_text(TABLE if kind == "csv" else LINES)
    assert len(rows_of(opened(plain, format=kind))[0]) == 3


@pytest.mark.parametrize("compression", ["gzip", "bz2", "xz", "zip", "zstd"])
def test_what_pandas_packs_is_read(compression: Any, tmp_path: Path) -> None:
    if compression == "zstd":
        pytest.importorskip("zstandard")
    frame = pd.DataFrame({"id": [f"{n:03d}" for n in range(300)], "caption": [f"bird {n}, größe" for n in range(300)]})
    frame.to_csv(tmp_path / "a.csv", index=False, compression=compression)
    posts, rejected = rows_of(opened(tmp_path))
    assert ([post["post_id"] for post in posts], rejected) == (frame["id"].tolist(), [])


@pytest.mark.parametrize("suffix", PACKED)
def test_a_packed_table_that_is_cut_off_gives_what_is_whole_and_says_so(suffix: str, tmp_path: Path) -> None:
    rows = "".join(f"{n},{hash((n, 'x')) & 0xFFFFFFFFFFFF:x} {n * 7919 % 104729}\n" for n in range(40_000))
    data = PACKED[suffix](f"id,caption\n{rows}".encode())
    (tmp_path / f"a.csv.{suffix}").write_bytes(data[: len(data) * 2 // 3])
    archive = opened(tmp_path)
    posts, rejected = rows_of(archive)
    if suffix in (
        "zip",
        "bz2",
    ):  # the one's directory stands at its end, the other's first block is larger than this table
        assert not posts
        assert rejected[0].startswith("expected a table, found: ")
        assert any(told in rejected[0] for told in ("File is not a zip file", "ended before the end-of-stream"))
    else:
        assert 0 < len(posts) < 40_000
        assert [post["post_id"] for post in posts] == [str(n) for n in range(len(posts))]
        assert rejected[0].startswith(f"unreadable from row {len(posts)} on: ")
    assert len(rejected) == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (POINTER, "a Git LFS pointer in place of the file: run `git lfs pull`"),
        (b"/annex/objects/SHA256E-s5--x.csv\n", "a git-annex pointer in place of the file: run `git annex get`"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "an HTML page (of a login or an error?)"),
        (zipped(b"x", "xl/workbook.xml"), "an Excel workbook: save it as CSV"),
        (zipped(b"x", "b.csv", "c.csv"), "a zip of 3 files: unpack it"),
        (b"SQLite format 3\0" + bytes(90), "a SQLite database: export its table"),
        (b"PAR1" + bytes(90) + b"PAR1", "Parquet"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "an Excel workbook of before 2007: save it as CSV"),
        (gzip.compress(POINTER), "a Git LFS pointer in place of the file: run `git lfs pull`"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json"])
def test_a_file_that_is_something_else_is_called_what_it_is(
    content: bytes, told: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    kind = "csv" if name.endswith("csv") else "jsonl"
    archive = opened(tmp_path, format=kind)
    expected = "expected a table" if kind == "csv" else "expected JSON lines"
    assert archive.problem(archive.parts[0]) == f"{expected}, found: {told}"
    assert rows_of(archive) == ([], [f"{expected}, found: {told}"])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (POINTER, "a Git LFS pointer in place of the file: run `git lfs pull`"),
        (b"<html>" + bytes(20), "an HTML page"),
        (gzip.compress(b"x" * 100), "packed with gzip as a whole: unpack it"),
        (b"ORC" + bytes(50), "ORC, which is not read: write Parquet"),
        (b"ARROW1\0\0" + bytes(50), "an Arrow file, which is not read: write Parquet"),
        (b"Obj\x01" + bytes(50), "Avro, which is not read: write Parquet"),
    ],
)
def test_a_parquet_part_that_is_something_else_is_called_what_it_is(content: bytes, told: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"post_id": ["1"]}), tmp_path / "whole.parquet")
    (tmp_path / "a.parquet").write_bytes(content)
    (tmp_path / "unnamed").write_bytes(content)
    archive = open_archive(str(tmp_path))
    posts, rejected = rows_of(archive)
    assert len(posts) == 1
    assert len(rejected) == 1
    assert f"expected a Parquet file, found: {told}" in rejected[0]
    assert [reason for reason in archive.listing.tally.left_out if reason.startswith(told)] != []


def test_an_archive_of_pointers_alone_says_so(tmp_path: Path) -> None:
    (tmp_path / "part-0").write_bytes(POINTER)
    with pytest.raises(ArchiveError):
        open_archive(str(tmp_path))
    with pytest.raises(ImageError, match="Git LFS pointer in place of the file: run `git lfs pull`"):
        decode_image(POINTER, 32)
    with pytest.raises(ImageError, match="git lfs pull"):
        decode_image(POINTER, 32, quoted=False)


QUOTES = [
    'she said "hi", twice',
    '"all of it"',
    "no quote, a \\ backslash",
    'ends with "',
    'two\nlines "in" one',
    'a "b" c "d", e',
    "plain",
]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_quotes_behind_backslashes_and_doubled_ones_give_the_same_text(delimiter: str, tmp_path: Path) -> None:
    def row(n: int, text: str, quote: str) -> str:
        return f'{n}{delimiter}"{text.replace(chr(34), quote)}"\n'

    for name, quote in (("doubled", '""'), ("escaped", '\\"')):
        rows = "".join(row(n, text, quote) for n, text in enumerate(QUOTES))
        folder = tmp_path / name
        folder.mkdir()
        (folder / "a.csv").write_text(f"id{delimiter}caption\n{rows}")
        posts, rejected = rows_of(opened(folder))
        assert ([post["caption"] for post in posts], rejected) == (QUOTES, []), name


def test_the_first_quote_behind_a_backslash_may_stand_far_down(tmp_path: Path) -> None:
    rows = [f'{n},"a bird, {n}"' for n in range(12_000)]
    rows[11_111] = '11111,"a \\"bird\\", here"'
    (tmp_path / "a.csv").write_text("\n".join(["id,caption", *rows]) + "\n")
    archive = opened(tmp_path)
    posts, rejected = rows_of(archive)
    assert (len(archive.parts), len(posts), rejected) == (3, 12_000, [])
    assert posts[11_111]["caption"] == 'a "bird", here'


def test_a_backslash_before_a_closing_quote_is_no_escape(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        'id,caption,tags\n1,"C:\\birds\\",x\n2,"a ""b"" c\\",y\n3,"last\\"\n'.replace("3,", "3,").replace(
            'last\\"\n', 'last\\",z\n'
        )
    )
    posts, rejected = rows_of(opened(tmp_path))
    assert ([post["caption"] for post in posts], rejected) == (["C:\\birds\\", 'a "b" c\\', "last\\"], [])


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\r\\"), min_size=1), min_size=1, max_size=8))
def test_any_text_survives_quotes_behind_backslashes(texts: list[str]) -> None:
    import tempfile

    texts = [text for text in texts if text.strip() not in NO_VALUES] or ["x"]
    held = io.StringIO()
    writer = csv.writer(held, quoting=csv.QUOTE_ALL, doublequote=False, escapechar="\\", lineterminator="\n")
    writer.writerows(
        [["id", "caption"], ["first", 'the "first" one'], *([str(n), text] for n, text in enumerate(texts))]
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a.csv").write_text(held.getvalue(), newline="")
        posts, rejected = rows_of(opened(Path(folder)))
    assert ([post["caption"] for post in posts], rejected) == (['the "first" one', *texts], [])


@pytest.mark.parametrize("word", sorted(NO_VALUES))
def test_a_word_that_says_none_is_none(word: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        f"id,user,text,date,lat\n1,{word},a bird,{word},{word}\n2,anna,{word},2024-01-02,1.5\n{word},bert,x,,\n{word},c,y,,\n"
    )
    posts, rejected = rows_of(opened(tmp_path))
    assert [(post["user_id"], post["caption"], post["latitude"]) for post in posts] == [
        (None, "a bird", None),
        ("anna", None, 1.5),
    ]
    assert posts[0]["created_at"] is None
    told = "an id, and several rows say that they have none" if word != "\\N" else "a non-empty string"
    assert rejected == [f"post_id: expected {told}, found {'null' if word == chr(92) + 'N' else json.dumps(word)}"] * 2
    (tmp_path / "a.csv").write_text(f"id\n1\n{word}\n")  # one alone may be an id: NA, null and None are short codes
    assert [post["post_id"] for post in rows_of(opened(tmp_path))[0]] == ["1", *([] if word == "\\N" else [word])]


def test_no_users_by_name_are_no_user_in_every_layout(tmp_path: Path) -> None:
    users = ["anna", "nan", "None", "NULL", "<NA>", "Nan", "nanna"]
    table = pa.table({"post_id": [str(n) for n in range(7)], "user_id": users})
    expected = ["anna", None, None, None, None, "Nan", "nanna"]
    assert normalise_posts(table)[0]["user_id"].to_pylist() == expected
    coded = table.set_column(1, "user_id", table["user_id"].dictionary_encode())
    assert normalise_posts(coded)[0]["user_id"].to_pylist() == expected
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"id": n, "user": user}) + "\n" for n, user in enumerate(users))
    )
    assert [post["user_id"] for post in rows_of(opened(tmp_path, format="jsonl"))[0]] == expected


def test_what_mongoexport_writes_is_what_it_stands_for(tmp_path: Path) -> None:
    when = datetime(2024, 5, 6, 7, 8, 9, 123000, tzinfo=UTC)
    millis = int(when.timestamp() * 1000)
    dates: list[Any] = [
        {"$date": "2024-05-06T07:08:09.123Z"}, {"$date": {"$numberLong": str(millis)}}, {"$date": millis},
        {"$date": "2024-05-06T09:08:09.123+0200"},
    ]  # fmt: skip
    lines: list[Any] = [
        {"_id": {"$oid": f"5f0000000000000000000{n:03d}"}, "user": {"$numberLong": "12345678901234567"}, "text": "a bird",
         "date": date, "lat": {"$numberDouble": "1.5"}, "lon": {"$numberDecimal": "2.25"}, "tags": ["a", "b"]}
        for n, date in enumerate(dates)
    ]  # fmt: skip
    lines.append(
        {"_id": {"$numberInt": "7"}, "user": {"$uuid": "a0-b1"}, "text": {"$symbol": "x"}, "date": {"$undefined": True}}
    )
    lines.append({"_id": {"$date": {"no": "date"}}, "text": "x"})
    lines.append({"_id": "9", "date": {"$date": {"$numberLong": "9" * 30}}})
    (tmp_path / "a.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    posts, rejected = rows_of(opened(tmp_path, format="jsonl"))
    assert [post["post_id"] for post in posts] == [f"5f0000000000000000000{n:03d}" for n in range(4)] + ["7"]
    assert [post["created_at"] for post in posts] == [when] * 4 + [None]
    assert {post["user_id"] for post in posts} == {"12345678901234567", "a0-b1"}
    assert (posts[0]["latitude"], posts[0]["longitude"], posts[0]["hashtags"]) == (1.5, 2.25, ["a", "b"])
    assert [reason.partition(":")[0] for reason in rejected] == ["post_id", "created_at"]
