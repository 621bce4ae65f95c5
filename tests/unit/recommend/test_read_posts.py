"""What is noted of a post on its way to a model: faults of its content, and nothing of others' content."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from hashtag_core.config import CaptionsSection
from hashtag_core.errors import MachineError, StorageError
from hashtag_core.recommend import image_uris
from hashtag_core.recommend import read_posts as posts
from hashtag_core.recommend.image_uris import ImagePlaces
from hashtag_core.recommend.read_posts import READ, OpenedPosts, open_posts


def opened(rows: list[dict], archive: Path) -> OpenedPosts:
    table = pa.Table.from_pylist([{"post_id": str(n), **row} for n, row in enumerate(rows)], schema=READ)
    return open_posts(table, ImagePlaces(str(archive)), CaptionsSection(), 32, {})


@pytest.mark.parametrize("content", [b"AWS_SECRET=S3cret", b"%PDF-S3cret", b"II*\0S3cret", b"", b"S3cret\0"])
def test_a_reference_reads_images_alone(content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A stranger who names another object of the archive is told nothing of what is in it, its length included."""
    (tmp_path / "object").write_bytes(content)
    found = opened([{"caption": "a bird", "image_uri": "object"}], tmp_path)
    assert found.statuses == ["image_unreadable"]
    assert found.details == ["not an image" if content else "empty: 0 bytes"]
    assert "S3cret" not in caplog.text
    # What stands in the post itself may be shown: whoever reads the row has it.
    if content:
        (detail,) = opened([{"caption": "a bird", "image": content}], tmp_path).details
        assert detail != "not an image"


def test_a_machine_that_is_short_of_memory_is_no_unreadable_picture(
    tmp_path: Path, make_jpeg: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: object, **__: object) -> None:
        raise MemoryError

    row = {"caption": "a bird", "image": make_jpeg(1)}
    with monkeypatch.context() as patch:
        patch.setattr("PIL.ImageFile.ImageFile.load", short)
        with pytest.raises(MachineError, match="picture"):
            opened([row], tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(posts, "clean_caption", short)
        with pytest.raises(MemoryError):
            opened([row], tmp_path)


def test_a_storage_that_fails_is_no_missing_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(uri: str, **_: object) -> bytes:
        raise StorageError(f"{uri}: read failed: Connection was closed")

    monkeypatch.setattr(image_uris.storage, "read_bytes", fails)
    with pytest.raises(StorageError, match="Connection was closed"):
        opened([{"caption": "a bird", "image_uri": "1.jpg"}], tmp_path)


def test_a_name_forges_no_line_and_shows_no_password(tmp_path: Path) -> None:
    uris = ["a\n2026-01-01 ERROR forged.jpg", "https://alice:S3cret@host/1.jpg", "gs://a:S3cret@b/1.jpg"]
    found = opened([{"caption": "a bird", "image_uri": uri} for uri in uris], tmp_path)
    assert found.statuses == ["image_missing"] * 3
    for detail in found.details:
        assert detail is not None
        assert "\n" not in detail
        assert "S3cret" not in detail
