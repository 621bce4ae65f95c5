"""What tags that were taught tell of others by their words."""

import pytest
import torch

from hashtag_core.models.tag_words import NOISE, shares_of_new, shares_without_itself


def units(*shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(0)), dim=-1)


def test_what_a_tag_would_have_without_itself_is_what_a_new_tag_has() -> None:
    """The closed form against taking each tag away in turn."""
    words_VT = units(7, 3)
    shares_VV = shares_without_itself(words_VT)
    for tag in range(7):
        others = [other for other in range(7) if other != tag]
        torch.testing.assert_close(shares_VV[others, tag], shares_of_new(words_VT[others], words_VT[[tag]])[:, 0])
        assert shares_VV[tag, tag] == 0


def test_one_tag_taught_counts_by_how_alike_it_is() -> None:
    """k / (1 + noise): all that kriging from one place is."""
    known, new = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    expected = torch.exp((torch.tensor([1.0, 0.6]) - 1) / 0.4) / (1 + NOISE)
    assert shares_of_new(known, new)[0].tolist() == pytest.approx(expected.tolist())
    assert shares_of_new(torch.zeros(0, 2), new).shape == (0, 2)
