import base64
import datetime
import gzip
import json
from pathlib import Path

import pytest

from hashtag_core.data.formats import FORMATS, archive_format
from hashtag_core.errors import ArchiveError, ConfigError
from hashtag_core.schema import POST


def test_formats_are_found_by_name_and_the_nearest_is_offered() -> None:
    assert {"posts", "jsonl"} <= set(FORMATS)
    assert archive_format("jsonl").name == "jsonl"
    with pytest.raises(
        ConfigError, match=r"no format 'jsonlines' \(did you mean 'jsonl'\?\); there are csv, harrison, .*posts"
    ):
        archive_format("jsonlines")
    with pytest.raises(ConfigError, match=r"no format 'nuswide' \(did you mean 'nus-wide'\?\)"):
        archive_format("nuswide")


POST_LINE = {
    "post_id": 7,
    "user_id": "ann",
    "created_at": "2020-01-02T03:04:05+01:00",
    "caption": "a #b",
    "hashtags": ["b", None],
    "image": base64.b64encode(b"jpeg").decode(),
    "latitude": 1,
    "likes": 3,
}
READ = {
    "post_id": "7",
    "user_id": "ann",
    "created_at": datetime.datetime(2020, 1, 2, 2, 4, 5, tzinfo=datetime.UTC),
    "caption": "a #b",
    "hashtags": ["b"],
    "image": b"jpeg",
    "image_uri": None,
    "latitude": 1.0,
    "longitude": None,
}


@pytest.mark.parametrize("name", ["a.jsonl", "deep/a.ndjson", "a.jsonl.gz"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    layout = archive_format("jsonl")
    lines = [json.dumps(POST_LINE), "", "   ", json.dumps({"post_id": "x", "created_at": "2020-01-02"}), "{broken"]
    data = "\n".join(lines).encode()
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    (part,) = layout.list_parts(str(tmp_path))
    assert layout.problem(part) is None
    first, second = layout.read(part, 2)
    assert first.posts.schema.equals(POST)
    assert first.posts.to_pylist()[0] == READ
    assert first.posts["created_at"].to_pylist()[1] == datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC)
    assert first.rows.tolist() == [0, 1]
    assert (second.first_row, second.rejected[0].row, second.posts.num_rows) == (2, 2, 0)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1]", "expected a JSON object, found list"),
        ("nonsense", "expected a JSON object"),
        ("[" * 100_000, "expected a JSON object"),
        ("\xff", "expected a JSON object"),
        ('{"caption": "x"}', "post_id: expected a non-empty string, found null"),
        ('{"post_id": " "}', "post_id: expected a non-empty string"),
        ('{"post_id": true}', "post_id: expected string, found true"),
        ('{"post_id": "a", "caption": 3}', "caption: expected string, found 3"),
        ('{"post_id": "a", "hashtags": "x y"}', 'hashtags: expected a list of strings, found "x y"'),
        ('{"post_id": "a", "created_at": 1577934245}', "created_at: expected an ISO 8601 time, found 1577934245"),
        ('{"post_id": "a", "created_at": "soon"}', 'created_at: expected an ISO 8601 time, found "soon"'),
        ('{"post_id": "a", "image": "not base64!"}', "image: expected base64"),
        ('{"post_id": "a", "latitude": "x"}', "latitude: expected a number"),
    ],
)
def test_a_line_that_is_no_post_says_why(tmp_path: Path, line: str, reason: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(line.encode("latin-1") + b'\n{"post_id": "ok"}\n')
    layout = archive_format("jsonl")
    (batch,) = layout.read(layout.list_parts(str(tmp_path))[0], 10)
    assert batch.posts["post_id"].to_pylist() == ["ok"]
    assert batch.rows.tolist() == [1]
    assert batch.rejected[0].row == 0
    assert batch.rejected[0].reason.startswith(reason)


def test_a_cut_gzip_gives_what_can_be_read(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"post_id": f"{n}", "caption": f"{n * n}"}) + "\n" for n in range(5000))
    data = gzip.compress(rows.encode())
    (tmp_path / "a.jsonl.gz").write_bytes(data[: len(data) // 2])
    (tmp_path / "b.jsonl.gz").write_bytes(b"no gzip")
    layout = archive_format("jsonl")
    cut, none = layout.list_parts(str(tmp_path))
    batches = list(layout.read(cut, 500))
    assert sum(batch.posts.num_rows for batch in batches) > 100
    assert batches[-1].rejected[-1].row is None
    assert str(layout.problem(none)).startswith("expected a JSON object, found: ")  # not packed, whatever its name says


def test_no_json_lines(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"")
    with pytest.raises(
        ArchiveError, match=r"expected files that end in \.jsonl.*found x\.parquet \(.*\) \(--format posts reads them\)"
    ):
        archive_format("jsonl").list_parts(str(tmp_path))
