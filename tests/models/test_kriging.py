"""Kriging weights and variances, by hand and against an oracle."""

import numpy as np
import pytest
import torch

from hashtag_core.models.kriging import Covariance, joint_cosines, joint_unit, kriging_weights
from hashtag_core.models.ridge import Block


def units(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_kriging_is_the_posterior_mean_of_a_gaussian_process() -> None:
    """Against numpy's dense inverse, with posts masked in between."""
    covariance = Covariance(0.4, 0.3, 0.7)
    past_BHD, unit_BD = units(3, 6, 5, seed=1), units(3, 5, seed=2)
    mask_BH = torch.tensor([[True] * 6, [True, False, True, False, False, True], [False] * 6])
    cosine_BH = torch.bmm(past_BHD, unit_BD[..., None])[..., 0]
    weights_BH, explained_B = kriging_weights(cosine_BH, past_BHD @ past_BHD.transpose(1, 2), mask_BH, covariance)
    for b in range(3):
        held = mask_BH[b].numpy()
        a = past_BHD[b].double().numpy()[held]
        k_HH = 0.4 + np.exp((a @ a.T - 1) / 0.3) + 0.7 * np.eye(len(a))
        k_H = 0.4 + np.exp((a @ unit_BD[b].double().numpy() - 1) / 0.3)
        expected = np.linalg.inv(k_HH) @ k_H
        np.testing.assert_allclose(weights_BH[b].numpy()[held], expected, rtol=1e-4)
        assert not weights_BH[b].numpy()[~held].any()
        assert float(explained_B[b]) == pytest.approx(k_H @ expected / 1.4, rel=1e-4)


def test_one_post_of_history_by_hand() -> None:
    """The same post again: k = 1.5 on either side, noise .5: three quarters of its residual."""
    weights_BH, explained_B = kriging_weights(
        torch.ones(1, 1), torch.ones(1, 1, 1), torch.ones(1, 1, dtype=torch.bool), Covariance(0.5, 0.15, 0.5)
    )
    assert float(weights_BH) == pytest.approx(1.5 / 2)
    assert float(explained_B) == pytest.approx(0.75)


def test_a_post_is_as_near_as_the_modalities_that_both_have() -> None:
    """Three posts, with text and image, with the text alone, with nothing; what is absent is noise."""
    text, image = torch.tensor([[2.0, 0], [3, 0], [9, 9]]), torch.tensor([[0.0, 5], [9, 9], [9, 9]])
    says, shows = torch.tensor([True, True, False]), torch.tensor([True, False, False])
    lengths = [torch.linalg.vector_norm(value, dim=-1) for value in (text, image)]
    blocks = [
        Block(value, there / length, there)
        for value, there, length in zip((text, image), (says, shows), lengths, strict=True)
    ]
    expected = torch.tensor([1, 2**-0.5, 0])
    unit = joint_unit(blocks, (3,), torch.device("cpu"))
    torch.testing.assert_close(unit @ unit[0], expected)
    first = [Block(block.value[:1], block.scale[:1], block.there[:1]) for block in blocks]
    past = [Block(block.value[None], block.scale[None], block.there[None]) for block in blocks]
    cosine_BH, cosine_BHH = joint_cosines(first, past, torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(cosine_BH[0], expected)
    torch.testing.assert_close(cosine_BHH[0], unit @ unit.t())
