"""`recommend` on real files with a real model folder: what stdout carries, and how it ends when it cannot answer."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.recommend import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_model_folder: Callable[..., Path]) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("model") / "toy")


@pytest.fixture
def pictures(tmp_path: Path, make_jpeg: Callable[..., bytes]) -> Path:
    place = tmp_path / "pictures"
    place.mkdir()
    for n in range(3):
        (place / f"{n}.jpg").write_bytes(make_jpeg(n))
    (place / "broken.jpg").write_bytes(make_jpeg(9)[:300])
    (place / "posts.csv").write_text(
        "id,caption,file,mine\n1,a red bird,0.jpg,x\n2,,1.jpg,\n3,a bird,../../etc/passwd,\n4,short\n"
    )
    return place


def test_one_picture_as_text(folder: Path, pictures: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([str(pictures / "0.jpg"), "--caption", "a red bird", "--model", str(folder), "--top-k", "4"]) == 0
    out = capfd.readouterr().out
    assert [line.startswith("#") for line in out.splitlines()] == [True] * 4


def test_a_folder_as_json_in_one_line(folder: Path, pictures: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([str(pictures), "--model", str(folder), "--top-k", "2", "--format", "json"]) == 0
    out = capfd.readouterr().out
    assert out.count("\n") == 1
    posts = {post["name"]: post for post in json.loads(out)["posts"]}
    assert sorted(posts) == ["0.jpg", "1.jpg", "2.jpg", "broken.jpg"]
    assert [len(post["hashtags"]) for post in posts.values()] == [2, 2, 2, 2]
    assert posts["broken.jpg"]["status"] == "empty"
    assert "truncated" in posts["broken.jpg"]["detail"]


def test_a_table_into_a_file(folder: Path, pictures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tagged.csv"
    assert main([str(pictures / "posts.csv"), "--model", str(folder), "--top-k", "3", "--out", str(out)]) == 0
    stdout, err = capfd.readouterr()
    assert "4 posts, 3 with hashtags (ok 1, caption_missing 1, image_missing 1, not_read 1)" in err
    assert "posts.csv: captions from column 'caption', pictures from column 'file'" in err
    summary = json.loads(stdout)
    assert summary == {"model": str(folder), "posts": 4, "tagged": 3, "out": str(out)}
    rows = {row["id"]: row for row in csv.DictReader(out.open())}
    assert rows["1"]["mine"] == "x"
    assert len(rows["1"]["recommended_hashtags"].split()) == 3
    assert [rows[id_]["recommended_status"] for id_ in "1234"] == ["ok", "caption_missing", "image_missing", "not_read"]
    assert "leads out of the archive" in rows["3"]["recommended_detail"]
    assert rows["4"]["recommended_detail"] == "expected 4 cells, found 2"


def test_a_table_into_one_that_is_parted_by_tabs(folder: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "tagged.tsv"
    assert main([str(pictures / "posts.csv"), "--model", str(folder), "--out", str(out)]) == 0
    rows = list(csv.DictReader(out.open(), delimiter="\t"))
    assert [row["mine"] for row in rows] == ["x", "", "", ""]


def test_a_table_by_other_names(
    folder: Path, pictures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "liste.csv"
    table.write_text("Dateiname,Text\n0.jpg,a red bird\n")
    said = ["--map", "post_id=Dateiname", "--map", "image=Dateiname", "--map", "caption=Text", "--format", "json"]
    assert main([str(table), "--model", str(folder), *said]) == 0
    (post,) = json.loads(capfd.readouterr().out)["posts"]
    assert (post["name"], post["status"]) == ("0.jpg", "ok")


@pytest.mark.parametrize("name", ["tagged.parquet", "tagged.xlsx"])
def test_a_file_that_its_name_would_belie_is_not_written(
    name: str, folder: Path, pictures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([str(pictures), "--model", str(folder), "--out", str(tmp_path / name)]) == 2
    assert f"{name}: expected a name in .json, .csv, .tsv or .txt" in capfd.readouterr().err
    assert not (tmp_path / name).exists()


def test_dry_run_answers_nothing(folder: Path, pictures: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([str(pictures), "--model", str(folder), "--dry-run"]) == 0
    assert json.loads(capfd.readouterr().out)["dry_run"] is True


def test_without_a_champion_the_commands_that_make_one_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["--caption", "a red bird"]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("recommend: no champion to ask: ")
    assert all(part in err for part in ("train.py", "promote.py", "--model"))
    assert list(tmp_path.iterdir()) == []


def test_explaining_where_the_model_cannot_is_refused(
    folder: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from hashtag_core.recommend.recommender import Recommender

    monkeypatch.setattr(Recommender, "recommend", lambda self, posts, top_k: None)
    assert main([str(pictures), "--model", str(folder), "--explain"]) == 2
    assert "cannot say why" in capfd.readouterr().err
