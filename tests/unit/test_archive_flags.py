"""Every job that reads an archive takes the same flags for it, and tells the same of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import nightly, prepare, tag
from jobs.archive_flags import archive_arguments, recipe_with_archive

GIVEN = ["--format=csv", "--delimiter=;", "--encoding=cp1252", "--date-format=%d.%m.%Y", "--map=caption=Text"]


@pytest.mark.parametrize("job", [prepare, tag, nightly])
def test_the_flags_are_the_recipes_section(job: Any) -> None:
    needed = ["--archive", "a", "--dataset", "d", "--out", "o"] if job is nightly else []
    arguments = job.build_parser().parse_args([*needed, *GIVEN, "--map", "user_id=Wer", "--set", "archive.map={}"])
    section = recipe_with_archive(arguments).archive
    assert (section.format, section.delimiter, section.encoding) == ("csv", ";", "cp1252")
    assert (section.date_format, section.map) == ("%d.%m.%Y", {"caption": "Text", "user_id": "Wer"})
    again = job.build_parser().parse_args([*needed, *archive_arguments(arguments)])
    assert recipe_with_archive(again).archive == section


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--format", "cvs"], "did you mean 'csv'?"),
        (["--map", "caption"], "--map 'caption': expected FIELD=COLUMN, e.g. caption=text"),
        (
            ["--format", "csv", "--map", "caption=nothing"],
            "--map caption=nothing: no such column, found id, text, likes",
        ),
        (["--format", "csv", "--encoding", "utf-99"], "Python knows no encoding 'utf-99'"),
    ],
)
def test_a_wrong_flag_of_tagging_is_one_line(
    flags: list[str], told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], make_model_folder: Callable
) -> None:
    model = make_model_folder(tmp_path / "model", family="popularity")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "posts.csv").write_text("id,text,likes\n1,a bird,3\n")
    places = ["--archive", str(tmp_path / "a"), "--out", str(tmp_path / "out"), "--model", str(model)]
    assert tag.main([*places, *flags]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert told in err
    assert "Traceback" not in err


def test_tagging_tells_of_a_table_what_preparing_tells(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], make_model_folder: Callable
) -> None:
    model = make_model_folder(tmp_path / "model", family="popularity")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "posts.csv").write_bytes(
        "id;text;likes\n1;die größe der kleinen vögel am meer;3\n".encode("cp1252")
    )
    (tmp_path / "a" / "notes.md").write_text("x")
    places = ["--archive", str(tmp_path / "a"), "--out", str(tmp_path / "out"), "--model", str(model)]
    assert tag.main([*places, "--format", "csv", "--dry-run"]) == 0
    out, err = capfd.readouterr()
    summary = json.loads(out)
    assert (summary["posts"], summary["parts"]) == (1, 1)
    assert summary["files"] == {"there": 2, "read": 1, "beside": 0, "left_out": {"no table, no picture": 1}}
    assert err.count("column(s) not read: likes") == 1
    assert err.count("read as Windows-1252") == 1
    assert err.count("1 file(s) left out, no table, no picture: notes.md") == 1
