"""What a dry run tells of the first posts."""

import csv
import logging
from pathlib import Path
from typing import Any

import pytest

from hashtag_core.config import ArchiveSection
from hashtag_core.data.open_archive import open_archive
from hashtag_core.preparation.first_look import FirstLook, look_at_first


@pytest.fixture
def folder(tmp_path: Path, make_jpeg: Any) -> Path:
    rows = [["Nr", "Satz", "Bild"], ["1", "a cat #cat", "one.jpg"], ["2", "a dog", "gone.jpg"], ["3", "", ""]]
    with (tmp_path / "posts.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=";").writerows(rows)
    (tmp_path / "one.jpg").write_bytes(make_jpeg(1))
    return tmp_path


def look(folder: Path, **columns: str) -> FirstLook:
    found = look_at_first(open_archive(str(folder), ArchiveSection(format="csv", map={"post_id": "Nr", **columns})))
    assert found is not None
    return found


def test_what_is_there_is_counted(folder: Path) -> None:
    assert look(folder, caption="Satz", image="Bild") == FirstLook(3, captions=2, hashtags=1, named=2, missing=1)
    assert look(folder, caption="Satz", image_uri="Bild") == FirstLook(3, captions=2, hashtags=1, named=2, missing=1)


def test_nothing_to_learn_from_and_no_picture_are_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "one.jpg").unlink()
    with caplog.at_level(logging.INFO):
        look(folder, image="Bild").tell("here")
    assert (
        "here: of the first 3 post(s) 0 have a caption, 0 hashtags, 0 a picture (2 more name one that is not there)"
        in (caplog.text)
    )
    assert "none of the first 3 post(s) has a hashtag" in caplog.text
    assert "none of the pictures that the first 3 post(s) name is there" in caplog.text


def test_what_cannot_be_read_is_left_to_the_run(tmp_path: Path) -> None:
    (tmp_path / "posts.csv").write_text("a;b\n")
    assert look_at_first(open_archive(str(tmp_path), ArchiveSection(format="csv"))) is None
