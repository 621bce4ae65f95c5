"""The page of a tagging run is written from the records of an output."""

import json
from pathlib import Path
from typing import Any

import pytest

from hashtag_core.tagging.run_page import write_run_page


def write(folder: Path, run: str, **changed: Any) -> None:
    record = {
        "run": run, "status": "done", "started": "2026-11-26T01:00:00+00:00", "plan": "x", "posts": 10, "tagged": 10,
        "settings": {"archive": "a", "model_name": "m", "model_version": "1"}, "rejected": 0, "parts": 1, "seconds": 1.0,
        "posts_per_second": 10.0, "statuses": {"ok": 10}, "tags": {"sea": 7, run: 3},
    } | changed  # fmt: skip
    (folder / f"{run}.json").write_text(json.dumps(record))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "_state" / "runs"
    folder.mkdir(parents=True)
    return folder


def test_it_compares_with_the_last_run_of_its_kind(tmp_path: Path, runs: Path) -> None:
    other = {"archive": "b", "model_name": "m", "model_version": "1"}
    for name, changed in (
        ("r1", {}),
        ("r2", {"status": "failed"}),
        ("r3", {"settings": other}),
        ("r4", {}),
        ("r5", {}),
    ):
        write(runs, name, **changed)
    assert write_run_page(str(tmp_path), "r4", slowest=[{"part": "p-17", "posts": 3, "seconds": 2}]) == str(
        runs / "r4.html"
    )
    page = (runs / "r4.html").read_text()
    assert "compared with run r1" in page
    assert "p-17" in page
    text = (runs / "r4.md").read_text()
    assert "- new: `r4` 3; vanished: `r1` 3" in text
    assert sorted(path.name for path in runs.iterdir() if path.suffix != ".json") == ["r4.html", "r4.md"]


def test_what_cannot_be_read_is_a_warning(tmp_path: Path, runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(runs, "r1", posts="many")
    assert write_run_page(str(tmp_path), "r1") is None
    assert write_run_page(str(tmp_path), "r9") is None
    assert len(caplog.messages) == 2
    assert all("there is no page of run" in message for message in caplog.messages)


def test_a_record_that_is_no_object_costs_the_page_alone(runs: Path, tmp_path: Path) -> None:
    write(runs, "r4")
    (runs / "r0.json").write_text("[1]")
    assert write_run_page(str(tmp_path), "r4") is None
