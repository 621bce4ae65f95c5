"""Every hostile picture and every hostile part is told, none crashes a reader. What a tagging run makes of them is in
tests/distributed/test_tag_hostile.py."""

import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from hashtag_core import storage
from hashtag_core.data.images import decode_image
from hashtag_core.data.parquet_rows import iter_post_batches, normalise_posts, part_problem
from hashtag_core.errors import ImageError
from hashtag_core.schema import POST
from tests.unit.data.hostile import HostilePart, encoded, hostile_images, picture, write_hostile_archive


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, HostilePart]]:
    folder = tmp_path_factory.mktemp("hostile")
    return folder, write_hostile_archive(folder)


def test_every_hostile_picture_is_decoded_or_refused_for_its_reason() -> None:
    images = hostile_images()
    assert len(images) > 100
    wrong = {}
    for name, image in images.items():
        try:
            assert decode_image(image.data, 32).shape == (32, 32, 3)
            told = None
        except ImageError as error:
            told = str(error)
        if (told is None) != (image.told is None) or (told and not re.search(image.told or "", told)):
            wrong[name] = told
    assert wrong == {}


def test_the_eight_orientations_show_one_picture() -> None:
    images = hostile_images()
    upright = decode_image(images["orientation 1.jpg"].data, 32).astype(int)
    stored = decode_image(images["plain.jpg"].data, 32).astype(int)
    turned = [decode_image(images[f"orientation {turn}.jpg"].data, 32).astype(int) for turn in range(1, 9)]
    expected = [
        stored,
        stored[:, ::-1],
        stored[::-1, ::-1],
        stored[::-1],
        stored.transpose(1, 0, 2),
        np.rot90(stored, -1),
        stored[::-1, ::-1].transpose(1, 0, 2),
        np.rot90(stored),
    ]
    assert [np.array_equal(got, want) for got, want in zip(turned, expected, strict=True)] == [True] * 8
    assert np.array_equal(upright, stored)


def test_no_decoder_but_the_four_is_ever_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by a signature, not by a name: Pillow's other plugins would start Ghostscript, or read what no test covers."""
    Image.init()
    asked: list[str] = []
    for kind, (_, accept) in list(Image.OPEN.items()):
        if kind not in ("JPEG", "PNG", "WEBP", "GIF"):
            monkeypatch.setitem(Image.OPEN, kind, (lambda *_, kind=kind: asked.append(kind), accept))
    for kind in ("EPS", "TIFF", "BMP", "ICO", "PDF", "PPM", "TGA", "JPEG2000", "AVIF", "DDS", "SGI"):
        with pytest.raises(ImageError, match=r"another format|not an image"):
            decode_image(encoded(picture(), kind), 32)
    assert asked == []


def test_every_hostile_part_gives_posts_or_says_why(hostile: tuple[Path, dict[str, HostilePart]]) -> None:
    """Every row is a post or rejected, of every column that `prepare` reads; the ids are those that tagging finds."""
    folder, parts = hostile
    assert len(parts) > 70
    for name, part in parts.items():
        info = storage.file_info(str(folder / name))
        problem = part_problem(info)
        posts, rejected = [], []
        for batch in iter_post_batches(info, 64, ["caption", "image", "image_uri"]):
            posts += batch.posts["post_id"].to_pylist()
            rejected += batch.rejected
        assert set(posts) >= set(part.tagged) or any(item.row is None for item in rejected), name
        rows = [item.row for item in rejected if item.row is not None]
        lost = any(item.row is None for item in rejected)
        assert (problem is not None) == (part.rows is None), (name, problem)
        assert lost or len(posts) + len(rows) == part.rows, name
        for batch in iter_post_batches(info, 64):
            assert batch.posts.schema.equals(POST), name
            batch.posts.to_pylist()


def test_a_pipe_named_as_a_part_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.parquet")
    info = storage.file_info(str(tmp_path / "pipe.parquet"))
    assert part_problem(info) == "expected a Parquet file, found: no regular file"
    (only,) = iter_post_batches(info, 8)
    assert [(item.row, "no regular file" in item.reason) for item in only.rejected] == [(None, True)]


def test_ids_that_are_no_utf8_are_refused_and_a_replacement_sign_is_an_id() -> None:
    ids = pa.array([b"a", b"\xff", "�".encode(), None, b"\xfe"])
    posts, rejected = normalise_posts(pa.table({"post_id": ids}))
    assert posts["post_id"].to_pylist() == ["a", "�"]
    assert [(item.row, item.post_id, item.reason) for item in rejected] == [
        (1, None, "post_id: expected UTF-8, found bytes that are none"),
        (3, None, "post_id: expected a non-empty string, found null"),
        (4, None, "post_id: expected UTF-8, found bytes that are none"),
    ]


def test_an_image_of_bytes_and_path() -> None:
    image = pa.array([{"bytes": b"x", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}, None])
    posts, rejected = normalise_posts(pa.table({"post_id": ["0", "1", "2"], "image": image}))
    assert rejected == []
    assert posts["image"].to_pylist() == [b"x", None, None]
    assert posts["image_uri"].to_pylist() == [None, "b.jpg", None]
    posts, _ = normalise_posts(pa.table({"post_id": ["0", "1", "2"], "image": image, "image_uri": ["c", None, "d"]}))
    assert posts["image_uri"].to_pylist() == ["c", None, "d"]


def test_the_groups_around_a_broken_one_are_read_whatever_the_size_of_a_batch(
    hostile: tuple[Path, dict[str, HostilePart]],
) -> None:
    folder, parts = hostile
    name = "ids broken in rows 20 to 39.parquet"
    for batch_rows in (1, 7, 1_000):
        batches = list(iter_post_batches(str(folder / name), batch_rows))
        found = [post_id for batch in batches for post_id in batch.posts["post_id"].to_pylist()]
        assert found == list(parts[name].tagged)
        gone = [item for batch in batches for item in batch.rejected]
        assert [item.row for item in gone] == [row for row, _ in parts[name].rejected]
        assert re.search(parts[name].rejected[0][1], gone[0].reason)
