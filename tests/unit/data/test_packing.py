"""The first bytes of what is packed, whole and cut off."""

import gzip
import io

import pytest

from hashtag_core.data.formats.packing import PackingError, first_bytes, packing_of

TEXT = b"".join(f"line {number} of the text\n".encode() for number in range(5_000))


@pytest.mark.parametrize(("begin", "name"), [
    (b"\x1f\x8b\x08", "gzip"), (b"BZh9", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"PK\x03\x04", "zip"), (b"post_id", None), (b"", None),
])  # fmt: skip
def test_it_is_told_by_its_first_bytes(begin: bytes, name: str | None) -> None:
    assert packing_of(begin) == name


@pytest.mark.parametrize("size", [10, 512, 1 << 20])
def test_the_content_begins_alike_packed_or_not(size: int) -> None:
    plain, none, no_error = first_bytes(io.BytesIO(TEXT), size)
    packed, name, error = first_bytes(io.BytesIO(gzip.compress(TEXT)), size)
    assert (none, no_error, name, error) == (None, None, "gzip", None)
    assert plain == TEXT[:size]
    assert packed[:size] == TEXT[:size]


def test_of_what_is_cut_off_there_is_what_comes_before() -> None:
    data = gzip.compress(TEXT)
    begin, name, error = first_bytes(io.BytesIO(data[: len(data) // 2]), 1 << 20)
    assert name == "gzip"
    assert 0 < len(begin) < len(TEXT)
    assert TEXT.startswith(begin)
    assert isinstance(error, PackingError)
    nothing, _, error = first_bytes(io.BytesIO(data[:12]), 1 << 20)
    assert nothing == b""
    assert isinstance(error, PackingError)
