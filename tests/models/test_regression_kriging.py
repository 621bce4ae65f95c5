"""Regression kriging: closed forms against dense algebra, its scores as sums, its neighbours, what it says of itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from hashtag_core.models import similar_posts
from hashtag_core.models.kriging import Covariance, joint_cosines, joint_unit, kriging_weights
from hashtag_core.models.mixing import MixtureData, _loss_and_gradients, fit_mixture, fit_sureness, fit_trust
from hashtag_core.models.regression_kriging import KINDS, RegressionKriging
from hashtag_core.models.ridge import Block, Moments
from hashtag_core.models.similar_posts import Neighbours, owners
from tests.models.world import Subject, TrainPosts, V, make, world

ROWS = list(range(10, 64))


def units(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def fitted(**changes: object) -> tuple[Subject, RegressionKriging]:
    subject = make("regression_kriging", **changes).fitted()
    assert isinstance(subject.model, RegressionKriging)
    return subject, subject.model


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


def test_moments_are_ridge_without_a_fold() -> None:
    rng = np.random.default_rng(0)
    rows, residual, fold = rng.normal(size=(30, 4)), rng.normal(size=(30, 3)), np.arange(30) % 3
    moments = Moments(3, 4, 3)
    for part in np.array_split(np.arange(30), 4):
        moments.add(rows[part], residual[part], fold[part])
    scale = np.array([1, 1, 0.5, 1])
    for without, kept in ((None, fold >= 0), (1, fold != 1)):
        oracle = Ridge(alpha=2.0, fit_intercept=False).fit(rows[kept] * scale, residual[kept])
        np.testing.assert_allclose(moments.solve(2.0, scale, without), (oracle.coef_ * scale).T, rtol=1e-4)


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


def test_calibration_changes_weights_and_keeps_the_sum() -> None:
    subject, model = fitted()
    before = model.mixture_CJ.clone()
    figures = model.calibrate(TrainPosts(subject))
    assert all(np.isfinite(value) for value in figures.values())
    assert not torch.equal(model.mixture_CJ, before)
    batch, tags_BT = subject.batch(ROWS), torch.zeros(len(ROWS), 1, dtype=torch.int64)
    with torch.inference_mode():
        told = torch.sigmoid(model.explain(batch, tags_BT).total())
        torch.testing.assert_close(told, model.score(batch)[:, :1], rtol=1e-4, atol=1e-5)


def test_sureness_finds_by_how_much_logits_are_too_sure() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 10, generator=generator)
    right = (torch.rand(4000, 10, generator=generator) < torch.sigmoid(0.5 * logits - 1)).float()
    slope, offset = fit_sureness(logits, right)
    assert slope == pytest.approx(0.5, abs=0.05)
    assert offset == pytest.approx(-1, abs=0.05)
    assert fit_sureness(torch.zeros(0, 10), torch.zeros(0, 10)) == (1.0, 0.0)


def test_neighbours_are_the_nearest_of_other_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, owner = units(300, 8), torch.arange(300) % 20
    vectors[7] = 0
    kept = Neighbours(8)
    kept.keep(vectors, owner, [[post % 5, 5] for post in range(300)], [f"post {post}" for post in range(300)])
    assert len(kept) == 299
    query, asking = units(6, 8, seed=4), torch.arange(6)
    query[5] = 0
    rows, cosine = kept.nearest(query, asking, 4)
    products = (query @ kept.vectors_ND.float().t()).masked_fill(asking[:, None] == kept.owner_N, -9)
    torch.testing.assert_close(rows[:5], products.topk(4).indices[:5])
    torch.testing.assert_close(cosine[:5], products.topk(4).values[:5])
    assert (rows[5] == -1).all()
    assert kept.post_ids[7] == "post 8"  # post 7 has no vector
    assert kept.tags_of(rows)[0, 0].tolist() == [int(rows[0, 0] + (rows[0, 0] >= 7)) % 5, 5]
    monkeypatch.setattr(similar_posts, "EXACT_POSTS", 100)
    kept.keep(vectors, owner, [[0]] * 300, [""] * 300)
    found, _ = kept.nearest(query, asking, 4)
    assert (kept.owner_N[found[:5]] != asking[:5, None]).all()
    shared = [len(set(a) & set(b)) for a, b in zip(found[:5].tolist(), rows[:5].tolist(), strict=True)]
    assert sum(shared) >= 15  # of 20: an inverted file looks into some of its lists


def test_a_score_is_the_mixture_of_its_evidence() -> None:
    """`logits` takes a short way through one product; here the long one, kind by kind."""
    subject, model = fitted()
    batch = subject.batch(ROWS, [True, False] * 27, [True, True, False] * 18)
    with torch.inference_mode():
        reading = model.read(batch)
        shares = model.shares(reading)
        weights_BC = shares.facts_BJ @ model.mixture_CJ.t()
        logits_BV = (shares.facts_BJ @ model.offset_J)[:, None] + model.tag_offset_V
        for place, part_BV in enumerate(model.evidence(reading, shares, model.weight_DV)):
            logits_BV = logits_BV + weights_BC[:, place : place + 1] * part_BV
        torch.testing.assert_close(model.logits(batch), logits_BV, rtol=1e-4, atol=1e-4)
    assert len(KINDS) == model.mixture_CJ.shape[0]


def test_a_score_is_the_sum_of_its_explanation() -> None:
    subject, model = fitted()
    model.sureness = torch.tensor([0.7, -0.2])
    batch = subject.batch(ROWS, [True, False] * 27, [True, True, False] * 18)
    tags_BT = torch.arange(V).expand(len(ROWS), -1)[:, [3, 0, 7]]
    with torch.inference_mode():
        explanation = model.explain(batch, tags_BT)
        torch.testing.assert_close(
            torch.sigmoid(explanation.total()), model.score(batch).gather(1, tags_BT), rtol=1e-4, atol=1e-5
        )
    assert set(explanation.parts_BT) == {"image", "caption", "tag_text"}
    assert batch.history is not None
    assert not explanation.history_BTH.masked_fill(~batch.history.mask_BH[:, None], 0).isnan().any()
    assert not explanation.history_BTH[~batch.history.mask_BH[:, None].expand_as(explanation.history_BTH)].any()
    by_post = dict(zip([f"post-{row}" for row in range(64)], world().users, strict=True))
    for row, ids in zip(ROWS, explanation.neighbour_ids, strict=True):
        assert all(by_post[name] != world().users[row] for name in ids)


def test_taking_away_what_a_tag_comes_from_lowers_it_most() -> None:
    """Of each post's first tag: the post of the history that speaks most for it, against the one that speaks least."""
    subject, model = fitted()
    batch = subject.batch(ROWS)
    assert batch.history is not None
    with torch.inference_mode():
        best_B1 = model.logits(batch).argmax(1, keepdim=True)
        amounts_BH = model.explain(batch, best_B1).history_BTH[:, 0]
        whole_B = model.logits(batch).gather(1, best_B1)[:, 0]
        drops = []
        for pick in (amounts_BH.argmax(1), amounts_BH.masked_fill(~batch.history.mask_BH, 1e9).argmin(1)):
            mask_BH = batch.history.mask_BH.clone()
            mask_BH[torch.arange(len(ROWS)), pick] = False
            without = replace(batch, history=replace(batch.history, mask_BH=mask_BH))
            drops.append(whole_B - model.logits(without).gather(1, best_B1)[:, 0])
    told_B = amounts_BH.max(1).values > amounts_BH.masked_fill(~batch.history.mask_BH, 1e9).min(1).values + 0.05
    assert told_B.sum() >= 10
    assert float((drops[0] > drops[1])[told_B].float().mean()) > 0.7  # the others take over what one of them said
    assert float(drops[0][told_B].mean()) > float(drops[1][told_B].mean()) + 0.1


def test_a_user_s_own_posts_are_never_its_neighbours_while_fitting() -> None:
    subject, model = fitted()
    for batch, _ in TrainPosts(subject).batches(16):
        reading = model.read(batch)
        mine_B1 = owners(batch)[:, None]
        assert (model.neighbours.owner_N[reading.rows_BK.clamp(min=0)] != mine_B1).all()


def test_tags_words_are_read_when_they_are_given() -> None:
    subject = make("regression_kriging")
    model = subject.model
    assert isinstance(model, RegressionKriging)
    assert model.reads_tag_text(model.options)
    assert not model.reads_tag_text(replace_inputs(model, ["image", "history"]))
    words = units(V, model.spec.text_dim)
    model.take_tag_text(3 * words)
    torch.testing.assert_close(model.tag_text_TV, words.t().contiguous())


def replace_inputs(model: RegressionKriging, inputs: list[str]) -> object:
    return model.settings.model_copy(update={"inputs": inputs})
