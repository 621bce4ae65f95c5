"""Images by reference: what may be named, what is fetched, and what is said of the rest."""

import os
import threading
import time
from pathlib import Path

import pytest

from hashtag_core import storage
from hashtag_core.errors import ConfigError, NotFoundError, StorageError, TooLargeError
from hashtag_core.recommend import image_uris
from hashtag_core.recommend.image_uris import FETCHES, NO_IMAGE, NOT_FETCHED, ImagePlaces, fetch_image, fetch_images


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures" / "é 1.jpg").write_bytes(b"inside")
    (tmp_path / "archive-of-others").mkdir()
    (tmp_path / "archive-of-others" / "x.jpg").write_bytes(b"outside")
    (tmp_path / "secret.jpg").write_bytes(b"outside")
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "folder").symlink_to(tmp_path / "archive-of-others")
    (folder / "inner.jpg").symlink_to(folder / "pictures" / "é 1.jpg")
    os.mkfifo(folder / "pipe.jpg")
    return folder


def test_what_lies_in_the_archive_is_read_however_it_is_named(archive: Path) -> None:
    places = ImagePlaces(str(archive))
    for uri in (
        "pictures/é 1.jpg",
        "./pictures//é 1.jpg",
        "pictures/../pictures/é 1.jpg",
        f"{archive}/pictures/é 1.jpg",
        f"file://{archive}/pictures/é 1.jpg",
        "inner.jpg",
    ):
        assert fetch_image(uri, places) == b"inside", uri
    with pytest.raises(NotFoundError, match="not found"):
        fetch_image("pictures/gone.jpg", places)


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("/etc/passwd", "leads out of the archive"),
        ("file:///etc/passwd", "leads out of the archive"),
        ("../secret.jpg", "leads out of the archive"),
        ("pictures/../../secret.jpg", "leads out of the archive"),
        ("../archive-of-others/x.jpg", "leads out of the archive"),
        ("link.jpg", "leads out of the archive"),
        ("folder/x.jpg", "leads out of the archive"),
        ("/proc/self/environ", "leads out of the archive"),
        ("/dev/zero", "leads out of the archive"),
        ("pipe.jpg", "no regular file"),
        ("pictures", "no regular file"),
        ("pictures/\0.jpg", "null character"),
        ("http://169.254.169.254/latest/meta-data", "http://169.254.169.254 was not"),
        ("https://example.org/x.jpg", "come over https from hosts that were named"),
        ("HTTP://localhost/x.jpg", "come over https from hosts that were named"),
        ("ftp://example.org/x.jpg", "expected s3:// or a path below the archive"),
        ("gs://bucket/x.jpg", "expected s3:// or a path below the archive"),
        ("data:image/png;base64,xx", "expected s3:// or a path below the archive"),
        ("file://file:///etc/passwd", "expected s3:// or a path below the archive"),
        ("s3://bucket/x.jpg", "neither in the archive's bucket nor"),
        ("s3://", "neither in the archive's bucket nor"),
        ("x" * 5_000 + ":", "expected s3:// or a path"),
    ],
)
def test_every_other_place_is_refused(archive: Path, uri: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        fetch_image(uri, ImagePlaces(str(archive)))
    assert len(str(caught.value)) < 300


def test_a_bucket_is_that_of_the_archive_or_one_that_is_listed() -> None:
    own = ImagePlaces("s3://photos/archive")
    assert own.locate("pictures/1.jpg") == "s3://photos/archive/pictures/1.jpg"
    assert own.locate("s3://photos/elsewhere/1.jpg") == "s3://photos/elsewhere/1.jpg"
    for uri in ("s3://photos-of-others/1.jpg", "s3://other/1.jpg", "s3://photos/../other/1.jpg", "../1.jpg", "/1.jpg"):
        with pytest.raises(ConfigError):
            own.locate(uri)
    listed = ImagePlaces("s3://photos/archive", ("s3://cdn/public/", "/mnt/pictures"))
    assert listed.locate("s3://cdn/public/1.jpg") == "s3://cdn/public/1.jpg"
    assert listed.locate("s3://photos/archive/1.jpg") == "s3://photos/archive/1.jpg"
    assert listed.locate("/mnt/pictures/1.jpg") == "/mnt/pictures/1.jpg"
    for uri in ("s3://cdn/private/1.jpg", "s3://cdn/public-not/1.jpg", "s3://photos/1.jpg", "/mnt/pictures/../x"):
        with pytest.raises(ConfigError):
            listed.locate(uri)
    with pytest.raises(ConfigError, match="expected s3:// or a path below the archive"):
        ImagePlaces().locate("1.jpg")
    assert ImagePlaces(None, ()).prefixes == ()


def test_fetched_from_a_bucket_and_too_large_ones_are_not(s3_bucket: str) -> None:
    storage.write_bytes(f"{s3_bucket}/a/é 1.jpg", b"12345")
    places = ImagePlaces(f"{s3_bucket}/a", max_bytes=5)
    assert fetch_image("é 1.jpg", places) == fetch_image(f"{s3_bucket}/a/é 1.jpg", places) == b"12345"
    with pytest.raises(StorageError, match="5 bytes, more than 4"):
        fetch_image("é 1.jpg", ImagePlaces(f"{s3_bucket}/a", max_bytes=4))


def test_a_reference_that_fails_is_told_apart_from_none(archive: Path) -> None:
    uris = [None, "pictures/é 1.jpg", "", "gone.jpg", " \n", "/etc/passwd", "x" * 5_000, None]
    found = list(fetch_images(uris, ImagePlaces(str(archive))))
    assert [data for data, _ in found] == [None, b"inside", None, None, None, None, None, None]
    reasons = [reason for _, reason in found]
    assert [reasons[n] for n in (0, 2, 4, 7)] == [NO_IMAGE] * 4
    assert all(reasons[n].startswith(NOT_FETCHED) and len(reasons[n]) <= 300 for n in (3, 5, 6))
    assert "not found" in reasons[3]
    assert "File name too long" in reasons[6] or "leads out" in reasons[6] or "not found" in reasons[6]


def test_fetched_in_parallel_in_order_and_not_far_ahead(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, at_once, most, ahead = 0, 0, 0, 0
    lock = threading.Lock()

    def read(uri: str, **_: object) -> bytes:
        nonlocal at_once, most, ahead
        number = int(uri.rpartition("/")[2])
        with lock:
            at_once += 1
            most, ahead = max(most, at_once), max(ahead, number - taken)
        time.sleep(0.01)
        with lock:
            at_once -= 1
        return str(number).encode()

    monkeypatch.setattr(image_uris.storage, "read_bytes", read)
    for data, _ in fetch_images([str(n) for n in range(60)], ImagePlaces(str(archive))):
        assert data == str(taken).encode()
        taken += 1
        time.sleep(0.002)
    assert taken == 60
    assert 2 <= most <= FETCHES
    assert ahead <= FETCHES + 1


def test_a_storage_that_fails_is_no_missing_picture(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(uri: str, **_: object) -> bytes:
        if uri.endswith("gone"):
            raise NotFoundError(f"{uri}: not found")
        if uri.endswith("large"):
            raise TooLargeError(f"{uri}: 5 bytes, more than 4")
        raise StorageError(f"{uri}: read failed: Connection was closed")

    monkeypatch.setattr(image_uris.storage, "read_bytes", read)
    fetched = fetch_images(["gone", "large", "1.jpg", "gone"], ImagePlaces(str(archive)))
    assert next(fetched)[1].endswith("gone: not found")
    assert next(fetched)[1].endswith("large: 5 bytes, more than 4")
    with pytest.raises(StorageError, match=r"1\.jpg: read failed: Connection was closed"):
        next(fetched)
