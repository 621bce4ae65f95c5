"""The encoders give on the card what they give on the CPU."""

import numpy as np
import pytest
import torch

from hashtag_core.config import EncodersSection
from hashtag_core.data.images import decode_image
from hashtag_core.encoders import Encoders, load_encoders
from tests.gpu.conftest import Tell

CAPTIONS = ["a red boat", "two dogs on a beach at night", "x", "the king of the old house " * 4]
NEEDS = frozenset({"image_vector", "image_grid", "text_vector", "text_states"})
LEAST = {"float32": 0.9999, "bfloat16": 0.99}
"""Cosine of each vector with the CPU's in float32."""


def _features(encoders: Encoders, pictures: list[np.ndarray]) -> dict[str, np.ndarray]:
    return {**encoders.encode_images(pictures), **encoders.encode_captions(CAPTIONS)}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_vectors_are_the_cpus(precision: str, device: torch.device, tell: Tell, make_jpeg) -> None:  # type: ignore[no-untyped-def]
    plain = EncodersSection(precision="float32", backend="torch")
    reference = load_encoders(plain, NEEDS, "cpu")
    pictures = [decode_image(make_jpeg(seed, 320, 240), reference.image_side_px) for seed in range(6)]
    expected = _features(reference, pictures)
    section = EncodersSection(precision=precision, backend="torch")
    found = _features(load_encoders(section, NEEDS, str(device)), pictures)
    assert found.keys() == expected.keys()
    for name in ("image_vector", "image_grid", "text_vector"):
        mine, theirs = (
            value[name].astype(np.float64).reshape(-1, value[name].shape[-1]) for value in (found, expected)
        )
        lengths = np.linalg.norm(mine, axis=1) * np.linalg.norm(theirs, axis=1)
        cosine = float(((mine * theirs).sum(1) / lengths).min())
        tell("encoders", f"{name}, {precision}: least cosine with the CPU's", f"{cosine:.6f}")
        assert cosine >= LEAST[precision]
