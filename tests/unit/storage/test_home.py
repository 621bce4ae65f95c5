"""Where what a user keeps goes."""

from pathlib import Path

import pytest

from hashtag_core.storage.home import SUBMITTED, folder_problem, home_folder


def test_the_working_folder_or_the_home_of_a_submitted_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SUBMITTED, raising=False)
    monkeypatch.chdir(tmp_path)
    assert home_folder() == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(SUBMITTED, "{}")
    assert home_folder() == tmp_path / "home" / ".hashtag-recommender"


def test_a_folder_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    made = tmp_path / "made" / "here"
    assert folder_problem(str(made), 4096, 100) is None
    assert list(made.iterdir()) == []
    assert folder_problem(str(made), 5, 100) == "longer than the 5 bytes that leave room for a socket's name"
    (tmp_path / "file").write_text("no folder")
    assert folder_problem(str(tmp_path / "file"), None, 100) == "File exists"
    assert folder_problem("/proc/self/none", None, 100) is not None
