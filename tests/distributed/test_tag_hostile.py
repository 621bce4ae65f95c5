"""A folder of hostile pictures and parts, tagged: every one of them has the outcome that its maker wrote down."""

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from hashtag_core.config import Recipe
from hashtag_core.output.verify import verify_output
from hashtag_core.tagging.run_state import TagSummary
from tests.tagging.outputs import output_of, rejected, rows_by_table, run
from tests.unit.data.hostile import HostilePart, hostile_images, write_hostile_archive

RECIPE = Recipe.model_validate({"tagging": {"chunk_rows": 25, "actors": 1}})
SMALL = (
    "pictures.parquet",
    "texts.parquet",
    "ids.parquet",
    "html.parquet",
    "cut in the middle.parquet",
    "footer alone.parquet",
    "captions broken in rows 20 to 39.parquet",
    "image as bytes and path.parquet",
    "places.parquet",
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, HostilePart]]:
    folder = tmp_path_factory.mktemp("hostile")
    return folder, write_hostile_archive(folder)


@pytest.fixture(scope="module")
def popularity(tmp_path_factory: pytest.TempPathFactory, make_model_folder: Callable[..., Path]) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("models") / "popularity", family="popularity")


def check(out: Path, summary: TagSummary, parts: dict[str, HostilePart]) -> None:
    """Every part's statuses, rejected rows and reasons, by name, and the sums."""
    rows = rows_by_table(out)
    statuses: dict[str, dict[str, str]] = {name: {} for name in parts}
    for row in rows:
        statuses[row["part"]][row["post_id"]] = row["status"]
    assert statuses == {name: part.tagged for name, part in parts.items()}
    found: dict[str, list[tuple[int | None, str]]] = {name: [] for name in parts}
    for item in rejected(out):
        rest = item["rows"] > 1 or item["reason"].startswith("unreadable from")
        found[item["part"]].append((None if rest else item["row"], item["reason"]))
    for name, part in parts.items():
        assert [row for row, _ in found[name]] == [row for row, _ in part.rejected], (name, found[name])
        for (_, reason), (_, pattern) in zip(found[name], part.rejected, strict=True):
            assert re.search(pattern, reason), (name, reason)
    assert len(rows) == len({row["post_id"] for row in rows}) == summary.tagged
    unknown = sum(part.rows is None for part in parts.values())
    assert summary.posts == sum(part.rows or 0 for part in parts.values()) + unknown
    assert summary.tagged + summary.rejected == summary.posts
    (output,) = output_of(out)
    assert all(part.tagged + part.rejected == max(part.rows, part.rejected) for part in output.records.parts.values())
    (record,) = (json.loads(path.read_text()) for path in out.glob("_state/runs/*.json"))
    assert record["statuses"] == dict(Counter(row["status"] for row in rows))
    details = {row["post_id"]: row["detail"] for row in rows}
    for name, image in hostile_images().items():
        detail = details[f"picture: {name}"]
        assert (detail is None) == (image.told is None)
        assert detail is None or re.search(image.told or "", detail), (name, detail)


@pytest.mark.usefixtures("inline")
def test_every_hostile_part_and_picture_has_its_outcome(
    popularity: Path, hostile: tuple[Path, dict[str, HostilePart]], tmp_path: Path
) -> None:
    folder, parts = hostile
    images = hostile_images()
    assert (len(images) > 50, len(parts) > 20) == (True, True)
    out = tmp_path / "out"
    check(out, run(folder, out, popularity, RECIPE), parts)
    assert verify_output(str(out), str(folder)).problems == []
    again = run(folder, out, popularity, RECIPE)
    assert (again.parts, again.skipped_parts) == (0, len(parts))


def test_some_of_them_on_ray(
    ray_session: None, popularity: Path, hostile: tuple[Path, dict[str, HostilePart]], tmp_path: Path
) -> None:
    folder, parts = hostile
    archive, out = tmp_path / "archive", tmp_path / "out"
    archive.mkdir()
    for name in SMALL:
        shutil.copyfile(folder / name, archive / name)
    check(out, run(archive, out, popularity, RECIPE), {name: parts[name] for name in SMALL})


@pytest.mark.usefixtures("inline")
def test_a_pipe_and_a_name_that_is_no_utf8_are_rejected_parts(
    popularity: Path, tmp_path: Path, make_posts: Callable, write_part: Callable
) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    write_part(archive / "a.parquet", make_posts(5))
    assert run(archive, out, popularity, RECIPE).tagged == 5
    for name in (b"/\xfe.parquet", b"/\xff.parquet"):
        shutil.copyfile(archive / "a.parquet", os.fsencode(archive) + name)
    os.mkfifo(archive / "pipe.parquet")
    summary = run(archive, out, popularity, RECIPE)
    assert (summary.tagged, summary.rejected, summary.parts) == (0, 3, 3)
    assert verify_output(str(out), str(archive)).problems == []
    assert [(item["part"], item["reason"]) for item in rejected(out)] == [
        ("\\xfe.parquet", "path: no UTF-8"),
        ("\\xff.parquet", "path: no UTF-8"),
        ("pipe.parquet", "expected a Parquet file, found: no regular file"),
    ]
    assert run(archive, out, popularity, RECIPE).parts == 0


@pytest.mark.usefixtures("inline")
def test_images_from_a_listed_folder_and_those_that_are_not_fetched(
    popularity: Path, tmp_path: Path, make_jpeg: Callable, write_part: Callable
) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "1.jpg").write_bytes(make_jpeg(1))
    (tmp_path / "pictures" / "2.jpg").write_bytes(b"x" * 100_000)
    uris = {
        "listed": f"{tmp_path}/pictures/1.jpg",
        "large": f"{tmp_path}/pictures/2.jpg",
        "gone": "gone.jpg",
        "none": None,
    }
    posts = [{"post_id": name, "caption": "a bird", "image_uri": uri} for name, uri in uris.items()]
    write_part(tmp_path / "archive" / "a.parquet", posts)
    tagging = {"image_prefixes": [str(tmp_path / "pictures")]}
    recipe = Recipe.model_validate({"tagging": tagging, "archive": {"max_image_bytes": 50_000}})
    run(tmp_path / "archive", tmp_path / "out", popularity, recipe)
    found = {row["post_id"]: (row["status"], row["detail"]) for row in rows_by_table(tmp_path / "out")}
    assert found["listed"] == ("ok", None)
    assert found["none"] == ("image_missing", "no image")
    for name, told in {"large": "100,000 bytes, more than 50,000", "gone": "not found"}.items():
        status, detail = found[name]
        assert status == "image_missing"
        assert detail.startswith("image_uri not fetched: ")
        assert told in detail
    run(tmp_path / "archive", tmp_path / "narrow", popularity, Recipe())
    (refused,) = [row for row in rows_by_table(tmp_path / "narrow") if row["post_id"] == "listed"]
    assert "leads out of the archive" in refused["detail"]
