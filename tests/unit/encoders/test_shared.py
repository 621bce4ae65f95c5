"""Encoders of several models in one process: each gives what it gives alone, and a network runs once a post."""

from collections.abc import Callable

import numpy as np
import pytest

from hashtag_core.config import EncodersSection
from hashtag_core.encoders import load_encoders
from hashtag_core.encoders.image import ImageEncoder
from hashtag_core.encoders.shared import SharedEncoders
from hashtag_core.encoders.text import TextEncoder

SECTION = EncodersSection()
CAPTIONS = ["a red bird", "", "two boats in the harbour of a small town by the sea", "snow"]
NEEDS = [
    frozenset({"image_vector", "text_vector"}),
    frozenset({"image_grid", "text_states"}),
    frozenset({"text_vector"}),
    frozenset[str](),
]


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (224, 224, 3), np.uint8) for _ in range(5)]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """How many images and captions each pass of a network was given."""
    seen: dict[str, list[int]] = {"image": [], "text": []}
    for name, kind in (("image", ImageEncoder), ("text", TextEncoder)):
        monkeypatch.setattr(kind, "encode", _counted(kind.encode, seen[name]))
    return seen


def _counted(encode: Callable, seen: list[int]) -> Callable:
    def counted(self: object, values: object) -> object:
        seen.append(len(values))  # type: ignore[arg-type]
        return encode(self, values)

    return counted


def test_each_gives_what_it_gives_alone_and_a_post_is_encoded_once(
    images: list[np.ndarray], runs: dict[str, list[int]]
) -> None:
    shared = SharedEncoders()
    members = [shared.load(SECTION, needs, "cpu", threads=1) for needs in NEEDS]
    found = [(one.encode_images(images), one.encode_captions(CAPTIONS)) for one in members if one.needs]
    assert runs == {"image": [5], "text": [4]}
    for needs, member, (of_images, of_captions) in zip(NEEDS, members, found, strict=False):
        alone = load_encoders(SECTION, needs, "cpu", threads=1)
        assert (member.identity, member.backends, member.kinds) == (alone.identity, alone.backends, alone.kinds)
        for values, expected in (
            (of_images, alone.encode_images(images)),
            (of_captions, alone.encode_captions(CAPTIONS)),
        ):
            assert values.keys() == expected.keys()
            for name, value in expected.items():
                assert np.array_equal(values[name], value), name


def test_forgotten_features_and_other_posts_are_encoded_anew(
    images: list[np.ndarray], runs: dict[str, list[int]]
) -> None:
    shared = SharedEncoders()
    first, second = (shared.load(SECTION, NEEDS[0], "cpu", threads=1) for _ in range(2))
    whole = first.encode_images(images)["image_vector"]
    assert np.array_equal(second.encode_images(images[1:3])["image_vector"], whole[1:3])
    shared.forget()
    assert np.array_equal(second.encode_images(images)["image_vector"], whole)
    assert runs["image"] == [5, 2, 5]


def test_a_model_that_comes_later_and_reads_more(images: list[np.ndarray], runs: dict[str, list[int]]) -> None:
    shared = SharedEncoders()
    first = shared.load(SECTION, frozenset({"image_vector"}), "cpu", threads=1)
    alone = first.encode_images(images)["image_vector"]
    second = shared.load(SECTION, frozenset({"image_grid"}), "cpu", threads=1)
    assert set(second.encode_images(images)) == {"image_grid"}
    shared.forget()
    assert np.array_equal(first.encode_images(images)["image_vector"], alone)
    assert second.encode_images(images)["image_grid"].shape == (5, 36, 1280)


@pytest.mark.parametrize(
    "other",
    [{"finetune": "last:1"}, {"batch_size": 2}, {"backend": "torch"}, {"grid_side": 3}],
)
def test_encoders_that_differ_in_what_a_feature_depends_on_are_not_shared(
    other: dict[str, object], images: list[np.ndarray], runs: dict[str, list[int]]
) -> None:
    shared = SharedEncoders()
    first = shared.load(SECTION, frozenset({"image_vector"}), "cpu", threads=1)
    second = shared.load(
        EncodersSection.model_validate(other), frozenset({"image_vector", "text_vector"}), "cpu", threads=1
    )
    one, two = first.encode_images(images), second.encode_images(images)
    assert runs["image"] == [5, 5]
    assert set(one) == {"image_vector"}
    assert set(two) == ({"image_trunk"} if "finetune" in other else {"image_vector"})


def test_models_with_other_text_encoders_share_the_images(images: list[np.ndarray], runs: dict[str, list[int]]) -> None:
    shared = SharedEncoders()
    needs = frozenset({"image_vector", "text_vector"})
    first = shared.load(SECTION, needs, "cpu", threads=1)
    second = shared.load(EncodersSection(max_tokens=8), needs, "cpu", threads=1)
    for one in (first, second):
        one.encode_images(images)
        one.encode_captions(CAPTIONS)
    assert runs == {"image": [5], "text": [4, 4]}
