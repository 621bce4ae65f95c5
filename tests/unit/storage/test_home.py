"""Where what a user keeps goes."""

from pathlib import Path

import pytest

from hashtag_core.storage.home import SUBMITTED, home_folder


def test_the_working_folder_or_the_home_of_a_submitted_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SUBMITTED, raising=False)
    monkeypatch.chdir(tmp_path)
    assert home_folder() == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(SUBMITTED, "{}")
    assert home_folder() == tmp_path / "home" / ".hashtag-recommender"
