"""Archives of other layouts than Parquet: tagged as they are, every night."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hashtag_core.config import Recipe
from hashtag_core.errors import ConfigError
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
