"""prepare on what people have: pictures named in tables, what is counted and told, labels that stay out of captions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hashtag_core.config import read_recipe
from hashtag_core.data.dataset import SPLITS, Dataset
from hashtag_core.data.hashtags import normalise_hashtags
from hashtag_core.errors import ConfigError
from hashtag_core.training.plan import plan_training
from jobs import prepare as job

pytestmark = pytest.mark.usefixtures("ray_session")

POSTS = 24


@pytest.fixture
def table(tmp_path: Path, make_jpeg: Callable[..., bytes]) -> Path:
    """A CSV as Excel writes it, pictures in a folder beside it: two of them missing, one no picture, one at an https address."""
    folder = tmp_path / "archive"
    (folder / "bilder").mkdir(parents=True)
    rows = ["Nr;Benutzer;text;tags;filename"]
    for n in range(POSTS):
        (folder / "bilder" / f"{n}.jpg").write_bytes(make_jpeg(seed=n))
        name = "https://example.org/x.jpg" if n == 3 else f"bilder\\{n}.jpg"
        rows.append(f"größe{n};u{n};{n} Vögel am Meer#meer#vögel nr{n};meer|vögel;{name}")
    (folder / "bilder" / "1.jpg").unlink()
    (folder / "bilder" / "2.jpg").unlink()
    (folder / "bilder" / "5.jpg").write_bytes(b"<html>")
    rows.append(";u1;no id;meer;bilder\\4.jpg")
    (folder / "posts.csv").write_bytes("\r\n".join(rows).encode("cp1252"))
    (folder / "notes.md").write_text("x")
    return folder


def last_json(text: str) -> dict[str, Any]:
    return json.loads(text.strip().splitlines()[-1])


def test_a_table_with_pictures_is_counted_and_told(
    table: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        '[archive]\nformat = "csv"\nmap = { post_id = "Nr", user_id = "Benutzer" }\n[vocabulary]\nmin_count = 1\n'
        '[split]\nkind = "random"\n'
    )
    arguments = ["--archive", str(table), "--recipe", str(recipe), "--dataset"]
    assert job.main([*arguments, str(tmp_path / "strict"), "--max-missing-images", "0.1"]) == 2
    assert "3 of 24 pictures could not be had (12%)" in capfd.readouterr().err
    assert not (tmp_path / "strict").exists()
    assert job.main([*arguments, str(tmp_path / "dataset")]) == 0
    captured = capfd.readouterr()
    summary = last_json(captured.out)
    assert sum(summary["posts"].values()) + sum(summary["left_out"].values()) == POSTS
    assert summary["rows"] == POSTS + 1 == POSTS + summary["rejected"]
    assert (summary["pictures"], summary["pictures_missing"], summary["pictures_unreadable"]) == (POSTS - 4, 3, 1)
    assert summary["captions"] == POSTS
    assert summary["picture_hosts"] == {"example.org": {"had": 0, "missing": 1}}
    left_out = {"no table, no picture": 1}
    assert summary["files"] == {"there": 24, "read": 1, "beside": 22, "left_out": left_out}
    assert "read as Windows-1252" in captured.err
    assert "3 of 24 pictures could not be had (12%)" in captured.err
    assert "notes.md" in captured.err
    dataset = Dataset.open(str(tmp_path / "dataset"))
    rows = [row for split in SPLITS for part in dataset.read(split) for row in part.to_pylist()]
    assert {row["post_id"] for row in rows} == {f"größe{n}" for n in range(POSTS)}
    for row in rows:
        assert row["hashtags"] == ["meer", "vögel"]
        assert not any("#" + tag in row["caption"].casefold() for tag in normalise_hashtags(row["hashtags"]))
        assert (row["image"] is None) == (row["post_id"] in ("größe1", "größe2", "größe3"))


def test_a_recipe_that_reads_pictures_refuses_a_dataset_without_any(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    lines = ({"id": f"{n}", "text": f"{n} birds over the sea #bird#sea", "file_name": f"{n}.jpg"} for n in range(20))
    (tmp_path / "a" / "posts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    chosen = ["--format", "jsonl", "--set", "vocabulary.min_count=1", "--set", "split.kind=random"]
    assert job.main(["--archive", str(tmp_path / "a"), "--dataset", str(tmp_path / "d"), *chosen]) == 0
    captured = capfd.readouterr()
    assert last_json(captured.out)["pictures"] == 0
    assert "20 of 20 pictures could not be had (100%)" in captured.err
    with pytest.raises(
        ConfigError, match=r"no post has a picture .*\(20 are named and could not be had\), and linear reads pictures"
    ):
        plan_training(read_recipe(None, ["model.family='linear'"]), str(tmp_path / "d"))
    plan_training(read_recipe(None, ["model.family='linear'", "model.inputs=['caption']"]), str(tmp_path / "d"))


def test_an_archive_of_captions_alone_is_no_mistake(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    lines = ({"id": f"{n}", "text": f"{n} birds over the sea #bird#sea"} for n in range(20))
    (tmp_path / "a" / "posts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    chosen = ["--format", "jsonl", "--set", "vocabulary.min_count=1", "--set", "split.kind=random"]
    assert job.main(["--archive", str(tmp_path / "a"), "--dataset", str(tmp_path / "d"), *chosen]) == 0
    plan_training(read_recipe(None, ["model.family='linear'"]), str(tmp_path / "d"))
    assert "linear reads pictures: it learns from captions alone" in capfd.readouterr().err
    with pytest.raises(ConfigError, match="linear reads pictures: prepare the archive with its pictures"):
        plan_training(read_recipe(None, ["model.family='linear'", "model.inputs=['image']"]), str(tmp_path / "d"))
