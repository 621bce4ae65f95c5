"""Which posts have equal content, so that their tags of before are kept."""

import hashlib

import pyarrow as pa
import pytest

from hashtag_core.output.content_hash import content_hashes

POST = {"post_id": "p", "user_id": "u", "caption": "ab", "image": b"c", "image_uri": None}


def hashes(*posts: dict[str, object]) -> list[int]:
    columns = {name: pa.array([post[name] for post in posts]) for name in POST if name != "image"}
    images = pa.array([post["image"] for post in posts], pa.binary())
    return content_hashes(pa.table({**columns, "image": images}))


def test_the_hash_by_hand() -> None:
    told = b"".join(
        len(value).to_bytes(8, "little") + value if value is not None else b"-"
        for value in (b"p", b"u", b"ab", b"c", None)
    )
    expected = int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), "little", signed=True)
    assert hashes(POST) == [expected]


@pytest.mark.parametrize(
    "change",
    [{"post_id": "q"}, {"user_id": None}, {"caption": "a"}, {"caption": ""}, {"image": None}, {"image_uri": "x"}],
)
def test_every_column_counts(change: dict[str, object]) -> None:
    one, other, again = hashes(POST, {**POST, **change}, POST)
    assert one == again != other


def test_a_border_between_columns_counts() -> None:
    one, other = hashes({**POST, "user_id": "u", "caption": "vw"}, {**POST, "user_id": "uv", "caption": "w"})
    assert one != other
