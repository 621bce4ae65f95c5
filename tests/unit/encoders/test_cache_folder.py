"""Where what is derived from weights is kept: also for a user whose home cannot be written."""

from pathlib import Path

import pytest

from hashtag_core.encoders.packaged import cache_folder
from hashtag_core.storage import node_local


@pytest.mark.parametrize("home", ["/proc/nowhere", "/dev/null", "/proc/self"])
def test_a_home_that_cannot_be_written_has_its_cache_in_the_temporary_folder(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(node_local.tempfile, "tempdir", str(tmp_path))
    folder = cache_folder("onnx")
    assert folder.is_relative_to(tmp_path)
    (folder / "x").write_text("x")
    assert cache_folder("onnx") == folder


def test_the_users_own_cache_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert cache_folder("onnx") == tmp_path / "c" / "hashtag-recommender" / "onnx"
