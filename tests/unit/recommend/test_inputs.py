"""What a person hands over becomes posts: files, folders, tables with all their ways to be wrong."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from hashtag_core.data.reading_options import Reading
from hashtag_core.errors import HashtagError, NotFoundError, UsageError
from hashtag_core.recommend.inputs import Asked, Source, history_rows, sources

MOST = 1_000_000


def asked(*places: Path | str, caption: str | None = None, user: str | None = None) -> list[Asked]:
    found: list[Source] = sources([str(place) for place in places], caption, user, {})
    return [post for source in found for post in source.posts(MOST)]


def test_a_picture_with_its_caption(tmp_path: Path, make_jpeg: Callable[..., bytes]) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(make_jpeg(1))
    (post,) = asked(path, caption="harbour at dawn", user="ann")
    assert post.post == {
        "post_id": str(path), "user_id": "ann", "caption": "harbour at dawn", "image": make_jpeg(1)
    }  # fmt: skip
    assert post.given == {"file": str(path)}


def test_a_caption_alone() -> None:
    (post,) = asked(caption="harbour at dawn")
    assert post.post == {"post_id": "caption", "user_id": None, "caption": "harbour at dawn"}


def test_a_folder_gives_its_pictures_at_any_depth_by_path(tmp_path: Path) -> None:
    for name in ("b.JPG", "a/c.png", "a/notes.txt", ".hidden.jpg", ".cache/d.jpg", "z.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    assert [(post.name, post.post and post.post["image"]) for post in asked(tmp_path)] == [
        ("a/c.png", b"a/c.png"),
        ("b.JPG", b"b.JPG"),
        ("z.webp", b"z.webp"),
    ]


def test_a_picture_of_a_folder_that_cannot_be_read_is_told_and_the_rest_go_on(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"1" * (MOST + 1))
    (tmp_path / "b.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "c.jpg").write_bytes(b"1")
    large, gone, fine = asked(tmp_path)
    assert (large.post, gone.post) == (None, None)
    assert large.fault == "1,000,001 bytes, more than 1,000,000 (archive.max_image_bytes)"
    assert gone.fault == "No such file or directory"
    assert fine.post is not None
    with pytest.raises(UsageError, match=r"a\.jpg: 1,000,001 bytes"):
        asked(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("text", "captions"),
    [
        ("caption,mine\nharbour,x\n", ["harbour"]),
        ("\ufeffText;mine\nharbour;x\n", ["harbour"]),
        ("title\tmine\nharbour\tx\n", ["harbour"]),
        ('mine,caption\n"a,b;c;d;e","two\nlines"\n\nx,\n', ["two\nlines", None]),
        ("caption\n港の夜明け 🌅\n", ["港の夜明け 🌅"]),
    ],
)
def test_tables_of_all_sorts(tmp_path: Path, text: str, captions: list[str | None]) -> None:
    path = tmp_path / "posts.csv"
    path.write_text(text, encoding="utf-8")
    assert [post.post and post.post["caption"] for post in asked(path)] == captions


def test_own_columns_stay_and_pictures_are_named_below_the_table(tmp_path: Path) -> None:
    path = tmp_path / "posts.csv"
    path.write_text(
        "id,caption,file,user,date,tags,price\n7,harbour,p/1.jpg,ann,2026-01-31T10:00:00Z,#sea|boat,3\n,x,,,,,\n"
    )
    (source,) = sources([str(path)], None, None, {})
    assert source.folder == str(tmp_path)
    first, second = source.posts(MOST)
    assert first.name == "7"
    assert list(first.given) == ["id", "caption", "file", "user", "date", "tags", "price"]
    assert first.post is not None
    assert (first.post["image_uri"], first.post["user_id"], first.post["hashtags"]) == (
        "p/1.jpg",
        "ann",
        ["#sea", "boat"],
    )
    assert str(first.post["created_at"]) == "2026-01-31 10:00:00+00:00"
    assert (second.name, second.post and second.post["hashtags"]) == ("row 2", None)
    assert [row["caption"] for row in history_rows(source)] == ["harbour"]


def test_a_row_of_another_length_is_told_and_loses_no_cell(tmp_path: Path) -> None:
    path = tmp_path / "posts.csv"
    path.write_text("caption,mine\nshort\nfine,1\n")
    short, fine = asked(path)
    assert (short.post, short.fault) == (None, "expected 2 cells, found 1")
    assert short.given == {"caption": "short", "mine": ""}
    assert fine.post is not None


def test_lines_that_an_open_quote_swallowed_are_told(tmp_path: Path) -> None:
    path = tmp_path / "posts.csv"
    path.write_text('id,text\n1,"never closed\n2,"b"\n3,c\n')
    swallowed, fine = asked(path)
    assert swallowed.post is None
    assert "a quote among them that is not closed" in (swallowed.fault or "")
    assert fine.post is not None


def test_columns_that_the_person_names_win(tmp_path: Path) -> None:
    path = tmp_path / "posts.csv"
    path.write_text("caption,what it says\nno,yes\n")
    (post,) = sources([str(path)], None, None, {"caption": "what it says"})[0].posts(MOST)
    assert post.post is not None
    assert post.post["caption"] == "yes"


def test_posts_of_a_table_have_ids_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "posts.csv"
    path.write_text("id,caption\n7,a\n7,b\n,c\n")
    assert [post.post and post.post["post_id"] for post in asked(path)] == ["7", "7 (row 2)", "row 3"]


@pytest.mark.parametrize(
    ("text", "columns", "told"),
    [
        (b"name,price\nx,1\n", {}, "no column of captions .*it has name, price"),
        (b"caption,caption\nx,1\n", {}, "column 'caption' occurs twice"),
        (b"", {}, "no column of captions"),
        (b"caption\n\xef\xf0\xe8\xe2\xe5\xf2 \xec\xee\xf0\xe5\n", {}, "expected UTF-8, found byte 0xef .*CSV UTF-8"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:a\n",
            {},
            "expected a table, found: a Git LFS pointer",
        ),
        (b"caption\nx\n", {"image": "photo"}, "no column 'photo'; it has caption"),
        (b",caption\n0,x\n", {"image": "photo"}, r"it has \(a column without a name\), caption"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, text: bytes, columns: dict[str, str], told: str) -> None:
    path = tmp_path / "posts.csv"
    path.write_bytes(text)
    with pytest.raises(UsageError, match=told):
        [*sources([str(path)], None, None, columns)[0].posts(MOST)]


def test_pictures_are_found_in_a_folder_beside_the_table(tmp_path: Path) -> None:
    (tmp_path / "bilder").mkdir()
    (tmp_path / "bilder" / "1.jpg").write_bytes(b"1")
    (tmp_path / "alben").mkdir()
    (tmp_path / "a.csv").write_text("Datei,Text\n1.jpg,x\n2.jpg,y\n")
    reading = Reading({"post_id": "Datei", "image": "Datei", "caption": "Text"})
    (source,) = sources([str(tmp_path / "a.csv")], None, None, {}, reading)
    posts = [post.post or {} for post in source.posts(MOST)]
    assert [(post["post_id"], post["image_uri"]) for post in posts] == [
        ("1.jpg", "bilder/1.jpg"),
        ("2.jpg", "bilder/2.jpg"),
    ]
    assert source.table is not None
    assert source.table.told == "captions from column 'Text', pictures from column 'Datei' in bilder/"
    (source,) = sources([str(tmp_path / "a.csv")], None, None, {})
    assert source.table is not None
    assert source.table.told == "captions from column 'Text', pictures from no column (--map image=COLUMN)"
    (tmp_path / "a.csv").write_text("id,file\n1,..\\a.jpg\n2,bilder\\1.jpg\n")
    assert [post.post and post.post["image_uri"] for post in asked(tmp_path / "a.csv")] == ["../a.jpg", "bilder/1.jpg"]


def test_what_is_asked_wrong_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.csv").write_text("caption\nx\n")
    (tmp_path / "a.jpg").write_bytes(b"1")
    picture, table = str(tmp_path / "a.jpg"), str(tmp_path / "a.csv")
    for places, caption, told in (
        ([], None, "nothing to tag"),
        ([], "  ", "nothing to tag"),
        ([str(tmp_path / "no.jpg")], None, "not there"),
        ([str(tmp_path / "empty")], None, "no picture in it"),
        ([picture, picture], "x", "belongs to one picture"),
        ([table], "x", "belongs to one picture"),
        ([table, picture], None, "a table is tagged alone"),
    ):
        with pytest.raises(HashtagError, match=told) as caught:
            sources(places, caption, None, {})
        assert caught.value.exit_code == 2
    assert issubclass(NotFoundError, UsageError)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", "id;text;place\n1;größe;a house by the sea\n2;NULL;x\n".encode("cp1252")),
        ("a.csv", "id\ttext\n1\tgröße\n2\tnan\n".encode("utf-16")),
        ("a.csv.gz", gzip.compress("id,text\n1,größe\n2,N/A\n".encode())),
        ("a.tsv", 'id\ttext\n1\t"größe"\n2\t\\N\n'.encode()),
    ],
)
def test_a_table_is_read_as_those_of_an_archive(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    assert [post.post and post.post["caption"] for post in asked(tmp_path / name)] == ["größe", None]


def test_quotes_behind_backslashes_are_read_as_in_an_archive(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,text\n1,"a \\"b\\" c, d"\n')
    (post,) = asked(tmp_path / "a.csv")
    assert post.post is not None
    assert post.post["caption"] == 'a "b" c, d'


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "A.JSON", "posts.xlsx", "notes.txt"])
def test_what_is_neither_a_picture_nor_a_table_is_refused_and_told_who_reads_it(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UsageError, match=r"expected a picture, a folder of pictures or a CSV file \(jobs/tag.py"):
        asked(tmp_path / name)


def test_ids_are_those_of_archives(tmp_path: Path) -> None:
    """Integers with gaps that pandas wrote as floats, words for none, ids that a spreadsheet shortened."""
    (tmp_path / "a.csv").write_text(
        "id,user,text\n7.0,500.0,a\n,None,b\n8.0,,c\n1.23457E+18,501.0,d\n", encoding="utf-8"
    )
    found = [post.post or {} for post in asked(tmp_path / "a.csv")]
    assert [post["user_id"] for post in found] == ["500", None, None, "501"]
    assert [post["post_id"] for post in found] == ["7.0", "row 2", "8.0", "1.23457E+18"]
    (tmp_path / "b.csv").write_text("id,user,text\n7.0,1.5E+17,a\n,1.5E+17,b\n", encoding="utf-8")
    found = [post.post or {} for post in asked(tmp_path / "b.csv")]
    assert [(post["post_id"], post["user_id"]) for post in found] == [("7", None), ("row 2", None)]


def test_tags_of_a_cell_are_those_of_archives(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,tags\na,"[""sea"", ""a boat""]"\nb,#sea #boat\nc,sea|a boat\nd,\n')
    found = [(post.post or {})["hashtags"] for post in asked(tmp_path / "a.csv")]
    assert found == [["sea", "a boat"], ["#sea", "#boat"], ["sea", "a boat"], None]


def test_a_table_is_looked_through_once_and_read_once_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hashtag_core import storage

    opened = list[str]()
    real = storage.open_input
    monkeypatch.setattr(storage, "open_input", lambda uri: opened.append(uri) or real(uri))
    (tmp_path / "a.csv").write_text("id,user,text\n1,ann,a\n2,bob,b\n")
    (source,) = sources([str(tmp_path / "a.csv")], None, None, {})
    assert len(opened) == 1
    assert len(list(source.posts(MOST))) == 2
    assert len(history_rows(source)) == 2
    assert len(opened) == 3


def test_what_is_said_of_a_table_is_heard(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "Nr;Wer;Wann;Text\n1;ann;24.01.2010 17:07;größe\n2;ann;25.01.2010 09:00;x\n3;;morgen;y\n"
    (tmp_path / "a.csv").write_bytes(text.encode("cp1250"))
    said = Reading({"user_id": "Wer", "created_at": "Wann"}, "%d.%m.%Y %H:%M", "cp1250", ";")
    (source,) = sources([str(tmp_path / "a.csv")], None, None, {"post_id": "Nr"}, said)
    rows = history_rows(source)
    assert [(row["post_id"], row["user_id"], row["caption"]) for row in rows] == [
        ("1", "ann", "größe"),
        ("2", "ann", "x"),
    ]
    assert rows[0]["created_at"].isoformat() == "2010-01-24T17:07:00+00:00"
    assert "could not be read" not in caplog.text
    (source,) = sources([str(tmp_path / "a.csv")], None, None, {}, Reading(said.columns, None, "cp1250"))
    assert [row["created_at"] for row in history_rows(source)] == [None, None]
    assert "2 date(s) could not be read, e.g. '24.01.2010 17:07'" in caplog.text
    assert "--date-format" in caplog.text


def test_a_table_without_dates_is_not_said_to_have_bad_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # pandas writes its index as a column without a name
    (tmp_path / "posts.csv").write_text(",post_id,user_id,caption\n0,a,anna,snow\n1,b,anna,sea\n")
    (source,) = sources([str(tmp_path / "posts.csv")], None, None, {})
    assert [post["post_id"] for post in history_rows(source)] == ["a", "b"]
    assert caplog.text == ""
