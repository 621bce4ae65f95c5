"""Tiny folders laid out as the papers' data are, read from disk and from S3; broken rows; runs of lines; memory."""

import csv
import datetime
import json
import lzma
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hashtag_core import storage
from hashtag_core.data.formats import archive_format, base, csv_quotes, csv_table, instacities, instaloader, line_lists
from hashtag_core.errors import ArchiveError, NotFoundError
from hashtag_core.schema import POST

UTC = datetime.UTC
Read = tuple[dict[str, dict[str, Any]], list[tuple[str, int | None, str]]]


def put(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def read(name: str, uri: str | Path, batch_rows: int = 2) -> Read:
    """The posts by id, without what is null, and the rejected rows; every row is in one of the two, once."""
    layout = archive_format(name)
    posts: dict[str, dict[str, Any]] = {}
    rejected: list[tuple[str, int | None, str]] = []
    rows: dict[str, list[int]] = {}
    for part in layout.list_parts(str(uri)):
        assert layout.etag(part) == part.etag
        for batch in layout.read(part, batch_rows):
            assert batch.posts.schema.equals(POST)
            assert batch.posts.num_rows + len(batch.rejected) <= batch_rows + 1
            seen = [*batch.rows.tolist(), *(item.row for item in batch.rejected if item.row is not None)]
            rows.setdefault(part.path, []).extend(sorted(seen))
            for post in batch.posts.to_pylist():
                assert post["post_id"] not in posts
                posts[post["post_id"]] = {key: value for key, value in post.items() if value is not None}
            rejected += [(item.part, item.row, item.reason) for item in batch.rejected]
    assert all(found == list(range(len(found))) for found in rows.values())
    without_pictures(layout, uri, posts, rejected)
    return posts, rejected


def without_pictures(layout: Any, uri: str | Path, posts: dict[str, dict[str, Any]], rejected: list[Any]) -> None:
    """Some columns are those of the same rows."""
    ids, reasons = [], []
    for part in layout.list_parts(str(uri)):
        for batch in layout.read(part, 3, ["caption", "user_id"]):
            assert batch.posts.column_names == ["post_id", "user_id", "caption"]
            reasons += [item.reason for item in batch.rejected]
            for post in batch.posts.to_pylist():
                ids.append(post["post_id"])
                assert post["caption"] == posts[post["post_id"]].get("caption")
    assert (ids, reasons) == (list(posts), [reason for _, _, reason in rejected])


HARRISON = {
    "data_list.txt": "instagram_dataset/cat/1.jpg\r\ninstagram_dataset/cat/2.jpg\r\n../secret/3.jpg\r\n\r\n"
    "instagram_dataset/sea/1.jpg\r\n",
    "tag_list.txt": "cat cute \n\nsecret\nlost\nsea sun beach \n",
    "vocab_index.txt": "cat      0\nsea 1\n",
    "instagram_dataset/cat/1.jpg": b"cat one",
    "instagram_dataset/sea/1.jpg": b"sea one",
    "secret/3.jpg": b"no",
}


def check_harrison(uri: str | Path) -> None:
    posts, rejected = read("harrison", uri)
    assert posts == {
        "cat/1": {"post_id": "cat/1", "hashtags": ["cat", "cute"], "image": b"cat one"},
        "cat/2": {"post_id": "cat/2", "hashtags": [], "image_uri": "instagram_dataset/cat/2.jpg"},
        "sea/1": {"post_id": "sea/1", "hashtags": ["sea", "sun", "beach"], "image": b"sea one"},
    }
    assert [(part, row) for part, row, _ in rejected] == [("data_list.txt", 2), ("data_list.txt", 3)]
    assert "'../secret/3.jpg'" in rejected[0][2]
    assert rejected[1][2] == "data_list.txt: expected the path of a picture, found ''"


NUS_WIDE = {
    "ImageList/Imagelist.txt": "actor\\0001_2124494179.jpg\nactor\\0002_17.jpg\nzoo/0009_5.jpg\nnonsense\n",
    "NUS_WID_Tags/All_Tags.txt": "2124494179   portrait man ünïcode \n17\n6  lion\n8 x\n",
    "Groundtruth/AllLabels/Labels_sky.txt": "0\n0\n1\n0\n",
    "Flickr/actor/0001_2124494179.jpg": b"actor one",
    "Flickr/zoo/0009_5.jpg": b"zoo",
}


def check_nus_wide(uri: str | Path) -> None:
    posts, rejected = read("nus-wide", uri)
    assert posts == {
        "2124494179": {"post_id": "2124494179", "hashtags": ["portrait", "man", "ünïcode"], "image": b"actor one"},
        "17": {"post_id": "17", "hashtags": [], "image_uri": "Flickr/actor/0002_17.jpg"},
    }
    assert [row for _, row, _ in rejected] == [2, 3]
    assert rejected[0][2] == "All_Tags.txt: expected the photo id 5, found '6'"
    assert rejected[1][2].startswith("image list: expected <folder>")


INSTACITIES = {
    "captions_resized_1M/cities_instagram/london/7.txt": "rain #london",
    "captions_resized_1M/cities_instagram/newyork/7.txt": b"caf\xe9 \xf0\x9f\x97\xbd #nyc",
    "captions_resized_1M/cities_instagram/newyork/9.txt": "no picture",
    "img_resized_1M/cities_instagram/london/7.jpg": b"thames",
    "img_resized_1M/cities_instagram/newyork/7.jpg": b"hudson",
    "img_resized_1M/cities_instagram/newyork/8.jpg": b"no caption",
    "img_resized_1M/cities_instagram/sydney/1.jpg": b"a city of pictures",
    "img_resized_1M/cities_instagram/sydney/Thumbs.db": b"",
}


def check_instacities(uri: str | Path) -> None:
    posts, rejected = read("instacities", uri)
    assert rejected == []
    assert list(posts) == ["london/7", "newyork/7", "newyork/8", "newyork/9", "sydney/1"]
    assert posts["london/7"] == {"post_id": "london/7", "caption": "rain #london", "image": b"thames"}
    assert posts["newyork/7"]["caption"] == "caf\ufffd 🗽 #nyc"
    assert posts["newyork/8"] == {"post_id": "newyork/8", "image": b"no caption"}
    assert posts["newyork/9"] == {"post_id": "newyork/9", "caption": "no picture"}


def node(code: str, caption: str | None, **others: Any) -> dict[str, Any]:
    edges = [] if caption is None else [{"node": {"text": caption}}]
    held = {"shortcode": code, "owner": {"id": "42"}, "edge_media_to_caption": {"edges": edges}, **others}
    return {"node": held, "instaloader": {"version": "4.10", "node_type": "Post"}}


def xz(value: Any) -> bytes:
    return lzma.compress(json.dumps(value).encode(), check=lzma.CHECK_NONE)


INSTALOADER = {
    "ann/2019-01-02_11-43-37_UTC.json.xz": xz(
        node("B-a_1", "at sea #sea", taken_at_timestamp=1546429417, location={"lat": 40.5, "lng": -73, "name": "x"})
    ),
    "ann/2019-01-02_11-43-37_UTC.txt": "12 likes",
    "ann/2019-01-02_11-43-37_UTC.jpg": b"sea",
    "ann/2019-01-03_00-00-00_UTC.json": json.dumps(node("slides", None, date=1546473600)),
    "ann/2019-01-03_00-00-00_UTC_10.jpg": b"tenth",
    "ann/2019-01-03_00-00-00_UTC_2.jpg": b"second",
    "ann/2019-01-03_00-00-00_UTC_3.mp4": b"film",
    "ann/2019-01-03_00-00-00_UTC_comments.json": "[]",
    "ann/2019-01-03_00-00-00_UTC_location.txt": "here",
    "ann/2019-01-04_05-06-07_UTC.txt": "\ufeffno metadata #sun",
    "ann/2019-01-04_05-06-07_UTC_1.jpg": b"sun",
    "ann/2019-01-04_05-06-07_UTC_old_01.txt": "an older caption",
    "ann/2018-01-01_00-00-00_UTC_profile_pic.jpg": b"face",
    "ann/ann_42.json.xz": xz({"node": {"username": "ann"}, "instaloader": {"node_type": "Profile"}}),
    "ann/broken.json.xz": b"no xz",
    "ann/list.json": "[1]",
    "ann/late.json": json.dumps(node("late", "x", taken_at_timestamp=10**20)),
    "ann/iterator_x.json.xz": b"",
    "ann/id": "42",
    "#beach/2019-02-02_00-00-00_UTC.txt": "a beach #beach",
    "#beach/2019-02-02_00-00-00_UTC.jpg": b"beach",
    "code_1.json": json.dumps({"code": "code_1", "caption": {"text": "new \ud83d"}, "owner": {"username": "bob"}}),
    "code_1.webp": b"web",
}


def check_instaloader(uri: str | Path) -> None:
    posts, rejected = read("instaloader", uri)
    assert posts == {
        "B-a_1": {
            "post_id": "B-a_1",
            "user_id": "42",
            "created_at": datetime.datetime(2019, 1, 2, 11, 43, 37, tzinfo=UTC),
            "caption": "at sea #sea",
            "image": b"sea",
            "latitude": 40.5,
            "longitude": -73.0,
        },
        "slides": {
            "post_id": "slides",
            "user_id": "42",
            "created_at": datetime.datetime(2019, 1, 3, tzinfo=UTC),
            "image": b"second",
        },
        "ann/2019-01-04_05-06-07_UTC": {
            "post_id": "ann/2019-01-04_05-06-07_UTC",
            "user_id": "ann",
            "created_at": datetime.datetime(2019, 1, 4, 5, 6, 7, tzinfo=UTC),
            "caption": "no metadata #sun",
            "image": b"sun",
        },
        "#beach/2019-02-02_00-00-00_UTC": {
            "post_id": "#beach/2019-02-02_00-00-00_UTC",
            "created_at": datetime.datetime(2019, 2, 2, tzinfo=UTC),
            "caption": "a beach #beach",
            "image": b"beach",
        },
        "code_1": {"post_id": "code_1", "user_id": "bob", "caption": "new ?", "image": b"web"},
    }
    assert {(part, reason.split(", found")[0]) for part, _, reason in rejected} == {
        ("ann", "ann_42.json.xz: node_type: expected Post"),
        ("ann", "broken.json.xz: expected JSON"),
        ("ann", "list.json: node_type: expected Post"),
        ("ann", "late.json: taken_at_timestamp: expected seconds since 1970"),
    }


MM_INS = {
    "#cat/2019-01-02_11-43-37_UTC.json.xz": xz(node("c1", "my cat #cat", taken_at_timestamp=1546429417)),
    "#cat/2019-01-02_11-43-37_UTC.jpg": b"cat",
    "dog/2018-12-18_03-06-21_UTC.txt": "a dog #dog",
    "dog/2018-12-18_03-06-21_UTC.jpg": b"dog",
}


def check_mm_ins(uri: str | Path) -> None:
    posts, rejected = read("mm-ins", uri)
    assert rejected == []
    assert posts["c1"]["user_id"] == "42"
    assert posts["dog/2018-12-18_03-06-21_UTC"] == {
        "post_id": "dog/2018-12-18_03-06-21_UTC",
        "created_at": datetime.datetime(2018, 12, 18, 3, 6, 21, tzinfo=UTC),
        "caption": "a dog #dog",
        "image": b"dog",
    }


CSV = {
    "deep/posts.csv": "\ufeffID,User,Date,Text,tags,image_path,lat,lon,likes\n"
    '1,ann,2020-01-02T03:04:05+01:00,"two\nlines, ""quoted""",#a|b c|,pics/1.jpg,1.5,-2,7\n'
    "2,,,,x; y,pics/none.jpg,,,\n"
    "\n"
    "3,ann,yesterday,late,,,,,\n"
    ",ann,,no id,,,,,\n"
    "4,ann,,,,../posts.csv,,,\n"
    "5,ann,,few\n"
    "6,ann,,,,,north,,\n"
    "7,ann,2020-01-02,,one two,pics,,,\n",
    "t.tsv": 'post_id\tcaption\n8\t"tabs"\n9\tan open "quote\n',
    "pics/1.jpg": b"one",
}


def check_csv(uri: str | Path) -> None:
    posts, rejected = read("csv", uri, batch_rows=3)
    assert posts == {
        "1": {
            "post_id": "1",
            "user_id": "ann",
            "created_at": datetime.datetime(2020, 1, 2, 2, 4, 5, tzinfo=UTC),
            "caption": 'two\nlines, "quoted"',
            "hashtags": ["#a", "b c"],
            "image": b"one",
            "latitude": 1.5,
            "longitude": -2.0,
        },
        "2": {"post_id": "2", "hashtags": ["x", "y"], "image_uri": "pics/none.jpg"},
        "7": {
            "post_id": "7",
            "user_id": "ann",
            "created_at": datetime.datetime(2020, 1, 2, tzinfo=UTC),
            "hashtags": ["one", "two"],
            "image_uri": "pics",
        },
        "8": {"post_id": "8", "caption": "tabs"},
        "9": {"post_id": "9", "caption": 'an open "quote'},
    }
    assert [(part, row, reason[:44]) for part, row, reason in rejected] == [
        ("deep/posts.csv", 2, "created_at: expected an ISO 8601 time, found"),
        ("deep/posts.csv", 3, "post_id: expected a non-empty string, found "),
        ("deep/posts.csv", 4, "image: expected a path below the archive, fo"),
        ("deep/posts.csv", 5, "expected 9 cells, found 4"),
        ("deep/posts.csv", 6, 'latitude: expected a number, found "north"'),
    ]


LAYOUTS: list[tuple[dict[str, bytes | str], Callable[[str | Path], None]]] = [
    (HARRISON, check_harrison),
    (NUS_WIDE, check_nus_wide),
    (INSTACITIES, check_instacities),
    (INSTALOADER, check_instaloader),
    (MM_INS, check_mm_ins),
    (CSV, check_csv),
]
every_layout = pytest.mark.parametrize(("files", "check"), LAYOUTS, ids=lambda value: getattr(value, "__name__", ""))


@every_layout
def test_a_folder_laid_out_alike(files: dict[str, bytes | str], check: Callable, tmp_path: Path) -> None:
    check(put(tmp_path / "archive", files))


@every_layout
def test_the_same_on_s3(files: dict[str, bytes | str], check: Callable, tmp_path: Path, s3_bucket: str) -> None:
    storage.upload_folder(put(tmp_path / "archive", files), f"{s3_bucket}/some/archive")
    check(f"{s3_bucket}/some/archive")


@every_layout
def test_runs_of_rows_are_the_whole(
    files: dict[str, bytes | str], check: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut after every two rows, the parts give what one part gives, under the same numbers."""
    for module in (base, csv_table, instacities, instaloader, line_lists):
        monkeypatch.setattr(module, "PART_ROWS", 2)
    check(put(tmp_path / "archive", files))


@pytest.mark.parametrize("name", ["csv", "harrison", "instacities", "instaloader", "mm-ins", "nus-wide"])
def test_what_is_no_such_archive(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="an archive without a part"):
        archive_format(name).list_parts(str(put(tmp_path / "archive", {"readme.md": "hello"})))
    with pytest.raises(NotFoundError, match="nowhere"):
        archive_format(name).list_parts(str(tmp_path / "nowhere"))


def test_lists_of_different_length_are_refused(tmp_path: Path) -> None:
    files = {**HARRISON, "tag_list.txt": "cat\n\nsecret\nlost\n"}
    with pytest.raises(ArchiveError, match=r"must have as many lines; .*tag_list\.txt has 4"):
        read("harrison", put(tmp_path / "short", files))
    files = {**HARRISON, "tag_list.txt": str(HARRISON["tag_list.txt"]) + "\n  \n"}
    check_harrison(put(tmp_path / "blank", files))


def test_nus_wide_from_the_matrix_of_a_thousand_tags(tmp_path: Path) -> None:
    files = {
        "Low-Level-Features/ImageList/Imagelist.txt": "a\\0001_1.jpg\na\\0002_2.jpg\na\\0003_3.jpg\n",
        "Low-Level-Features/NUS_WID_Tags/AllTags1k.txt": "1\t0\t1\n0 0 0\n1 0\n",
        "Low-Level-Features/NUS_WID_Tags/TagList1k.txt": "sky\nsea\nsun\n",
        "images/a/0002_2.jpg": b"two",
    }
    posts, rejected = read("nus-wide", put(tmp_path, files))
    assert posts["1"]["hashtags"] == ["sky", "sun"]
    assert posts["1"]["image_uri"] == "images/a/0001_1.jpg"
    assert posts["2"] == {"post_id": "2", "hashtags": [], "image": b"two"}
    assert rejected == [("Low-Level-Features/ImageList/Imagelist.txt", 2, "AllTags1k.txt: expected 3 numbers, found 2")]


def test_instany100k(tmp_path: Path) -> None:
    files = {"captions/newyork/14877.txt": "a #b", "img_resized/newyork/14877.jpg": b"x"}
    posts, _ = read("instacities", put(tmp_path, files))
    assert posts == {"newyork/14877": {"post_id": "newyork/14877", "caption": "a #b", "image": b"x"}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "name,caption\na,b\n",
            "post_id: column missing, found name, caption (--map post_id=COLUMN says which one it is)",
        ),
        ("id,text,Text\na,b,c\n", "text: column occurs twice"),
        ("", "expected a table with a header, found an empty file"),
    ],
)
def test_a_table_that_holds_no_posts(text: str, reason: str, tmp_path: Path) -> None:
    layout = archive_format("csv")
    (part,) = layout.list_parts(str(put(tmp_path, {"a.csv": text})))
    assert layout.problem(part) == reason


def test_a_quote_that_is_never_closed_costs_its_part_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_quotes, "MAX_CELL_CHARACTERS", 1000)
    rows = "".join(f"{n},text of {n}\n" for n in range(100))
    posts, rejected = read("csv", put(tmp_path, {"a.csv": f'id,caption\n{rows}x,"open\n{rows}', "b.csv": "id\nlast\n"}))
    assert len(posts) == 101
    assert rejected == [
        (
            "a.csv",
            None,
            "unreadable from row 100 on: field larger than field limit (1000) (a quote that is not closed?)",
        )
    ]
    csv.field_size_limit(131_072)


def test_a_caption_of_a_million_characters(tmp_path: Path) -> None:
    posts, _ = read("csv", put(tmp_path, {"a.csv": f'id,caption\n1,"{"word " * 200_000}"\n'}))
    assert len(posts["1"]["caption"]) == 1_000_000


def test_a_changed_file_changes_the_etag(tmp_path: Path) -> None:
    for name, files, file in (
        ("harrison", HARRISON, "tag_list.txt"),
        ("instacities", INSTACITIES, "captions_resized_1M/cities_instagram/london/7.txt"),
        ("instaloader", INSTALOADER, "ann/2019-01-02_11-43-37_UTC.jpg"),
        ("csv", CSV, "deep/posts.csv"),
    ):
        layout = archive_format(name)
        folder = put(tmp_path / name, files)
        parts = layout.list_parts(str(folder))
        (folder / file).write_bytes(b"something else")
        assert any(layout.etag(part) != part.etag for part in parts)
        (folder / file).unlink()
        if name in ("instacities", "instaloader"):
            assert any(layout.etag(part) != part.etag for part in parts)


def test_a_large_listing_does_not_pass_through_one_list(tmp_path: Path, repository: Path) -> None:
    """60,000 rows of 220 characters: what reading them adds to the process is a fraction of what they take as Python objects."""
    with (tmp_path / "a.csv").open("w") as file:
        file.write("id,user,caption,tags\n")
        file.writelines(f"{n},u{n % 999},{'a caption of some length ' * 8}{n},one|two|three\n" for n in range(60_000))
    program = (
        "import resource, sys; from hashtag_core.data.formats import archive_format; "
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024; before = peak(); "
        "layout = archive_format('csv'); parts = layout.list_parts(sys.argv[1]); "
        "rows = sum(batch.posts.num_rows for part in parts for batch in layout.read(part, 512)); "
        "print(rows, len(parts), peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], cwd=repository, capture_output=True, text=True, check=True
    )
    rows, parts, grown_mib = map(int, done.stdout.split())
    assert (rows, parts) == (60_000, 12)
    assert grown_mib < 60
