"""How regression, kriging and tags' own shares are mixed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from hashtag_core.models.mixing import MixtureData, _loss_and_gradients, fit_mixture, fit_sureness, fit_trust


def units(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def mixture_data(posts: int, tags: int, kinds: int, facts: int) -> MixtureData:
    generator = torch.Generator().manual_seed(3)
    evidence = [torch.randn(posts, tags, generator=generator) for _ in range(kinds)]
    labels = (torch.rand(posts, tags, generator=generator) < torch.sigmoid(evidence[0] - 1)).float()
    return MixtureData(
        evidence, torch.rand(posts, facts, generator=generator), labels, torch.rand(posts, generator=generator) + 0.5
    )


def test_the_mixture_is_logistic_regression() -> None:
    """With one fact that is 1, hardly a penalty and no offsets of tags: scikit-learn's, weights of posts and all."""
    data = mixture_data(40, 5, 2, 1)
    data = replace(data, facts_NJ=torch.ones(40, 1))
    found = fit_mixture(data, penalty=1e-4, tag_penalty=1e3, prior_kind=1)
    flat = np.stack([part.numpy().ravel() for part in data.evidence], axis=1)
    oracle = LogisticRegression(C=1e4).fit(flat, data.labels_NV.numpy().ravel(), np.repeat(data.weight_N.numpy(), 5))
    np.testing.assert_allclose(found.weights_CJ[:, 0].numpy(), oracle.coef_[0], rtol=0.01, atol=0.01)
    assert float(found.offset_J[0]) == pytest.approx(float(oracle.intercept_[0]), rel=0.01)
    assert found.tag_offset_V.abs().max() < 0.02


def test_without_a_penalty_of_theirs_tags_have_no_offsets() -> None:
    found = fit_mixture(mixture_data(40, 5, 2, 1), penalty=1.0, tag_penalty=None, prior_kind=1)
    assert not found.tag_offset_V.any()
    assert found.weights_CJ.abs().sum() > 0


def test_gradients_of_the_mixture_are_those_of_autograd() -> None:
    data = mixture_data(7, 4, 3, 2)
    scale_C = torch.tensor([1.0, 2.0, 0.5])
    parameters = [units(3, 2), units(2, seed=1), units(4, seed=2)]
    loss, gradients = _loss_and_gradients(data, scale_C, parameters)
    leaves = [parameter.clone().requires_grad_() for parameter in parameters]
    weights_NC = data.facts_NJ @ (leaves[0] / scale_C[:, None]).t()
    logits = torch.einsum("cnv,nc->nv", torch.stack(list(data.evidence)), weights_NC)
    logits = logits + (data.facts_NJ @ leaves[1])[:, None] + leaves[2]
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, data.labels_NV, reduction="none")
    expected = (losses.sum(1) * data.weight_N).sum()
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    for found, leaf in zip(gradients, leaves, strict=True):
        torch.testing.assert_close(found, leaf.grad)


def test_trust_finds_what_is_overrated() -> None:
    """Logits of two parts; of the second half is true. With few posts all stays as it is."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(3000, 10, generator=generator) for _ in range(2)]
    labels = (torch.rand(3000, 10, generator=generator) < torch.sigmoid(parts[0] + 0.5 * parts[1])).float()
    assert fit_trust(parts, labels).tolist() == pytest.approx([1.0, 0.5], abs=0.06)
    assert fit_trust([part[:2] for part in parts], labels[:2]).tolist() == pytest.approx([1.0, 1.0], abs=0.05)
    assert fit_trust([part[:0] for part in parts], labels[:0]).tolist() == [1.0, 1.0]


def test_sureness_finds_by_how_much_logits_are_too_sure() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 10, generator=generator)
    right = (torch.rand(4000, 10, generator=generator) < torch.sigmoid(0.5 * logits - 1)).float()
    slope, offset = fit_sureness(logits, right, torch.ones(4000))
    assert slope == pytest.approx(0.5, abs=0.05)
    assert offset == pytest.approx(-1, abs=0.05)
    assert fit_sureness(torch.zeros(0, 10), torch.zeros(0, 10), torch.zeros(0)) == (1.0, 0.0)
    others = (torch.rand(4000, 10, generator=generator) < torch.sigmoid(2 * logits)).float()
    both = torch.cat([logits, logits]), torch.cat([right, others])
    assert fit_sureness(*both, torch.tensor([1.0, 0.0]).repeat_interleave(4000)) == pytest.approx(
        (slope, offset), abs=1e-3
    )
