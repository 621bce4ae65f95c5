"""Regression kriging: closed forms against dense algebra, its scores as sums, its neighbours, what it says of itself."""

from dataclasses import replace

import numpy as np
import torch

from hashtag_core.models.regression_kriging import KINDS, RegressionKriging, add_to_tags
from hashtag_core.models.tag_words import shares_of_new
from tests.models.world import POSTS, Subject, TrainPosts, V, make, world

ROWS = list(range(10, 64))


def units(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def fitted(**changes: object) -> tuple[Subject, RegressionKriging]:
    subject = make("regression_kriging", **changes).fitted()
    assert isinstance(subject.model, RegressionKriging)
    return subject, subject.model


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


def test_calibration_hears_the_train_posts_as_they_were_out_of_fold() -> None:
    """Validation posts that are all right, and train posts none of which is: the model is less sure than of the former alone."""
    _, alone = fitted()
    subject, both = fitted()
    assert both.out_of_fold is not None
    assert both.out_of_fold.parts_NKC.shape == (POSTS, V, len(KINDS) + 1)
    both.out_of_fold = replace(both.out_of_fold, right_NK=torch.zeros_like(both.out_of_fold.right_NK))
    alone.out_of_fold = None
    for model in (alone, both):
        model.calibrate(TrainPosts(subject))
    batch = subject.batch(ROWS)
    with torch.inference_mode():
        first, second = alone.score(batch), both.score(batch)
    assert second.max(1).values.mean() < first.max(1).values.mean() - 0.1
    assert torch.equal(first.topk(3, dim=1).indices, second.topk(3, dim=1).indices)
    assert both.out_of_fold is None


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


def test_tags_words_are_read_when_they_are_given() -> None:
    subject = make("regression_kriging")
    model = subject.model
    assert isinstance(model, RegressionKriging)
    assert model.reads_tag_text(model.options)
    assert not model.reads_tag_text(replace_inputs(model, ["image", "history"]))
    words = units(V, model.spec.text_dim)
    model.take_tag_text(3 * words)
    torch.testing.assert_close(model.tag_text_TV, words.t().contiguous())


def with_new_tags(words_UD: torch.Tensor) -> tuple[Subject, RegressionKriging]:
    """Fitted with the words of the world's tags, and some tags more."""
    subject = make("regression_kriging")
    model = subject.model
    assert isinstance(model, RegressionKriging)
    model.take_tag_text(units(V, model.spec.text_dim))
    subject.fitted()
    model.calibrate(TrainPosts(subject))
    model.add_tags(words_UD)
    return subject, model


def test_a_new_tag_has_a_mixture_of_its_own_and_the_neighbours_of_tags_like_it() -> None:
    """Against the long way: its evidence from that of the tags taught, kind by kind; the tags taught keep their scores."""
    words_UD = units(2, 16, seed=5)
    subject, model = with_new_tags(words_UD)
    taught, _ = fitted_with_words()
    batch = subject.batch(ROWS, [True, False] * 27, [True, True, False] * 18)
    with torch.inference_mode():
        logits_BV = model.logits(batch)
        torch.testing.assert_close(logits_BV[:, :V], taught.model.logits(batch))  # type: ignore[operator]
        reading = model.read(batch)
        shares = model.shares(reading)
        weights_BC = shares.facts_BJ @ model.new_mixture_CJ.t()
        shares_VU = shares_of_new(units(V, 16), words_UD)
        votes_BV = add_to_tags(
            torch.zeros(len(ROWS), V), shares.neighbours_BK, model.neighbours.tags_of(reading.rows_BK)
        )
        spans, weight_DU = model.columns.spans(), model.weight_DV[:, :V] @ shares_VU
        past_BD = model.columns.weighted(reading.past, shares.kriging_BH)
        rare = shares.kriging_BH.sum(1, keepdim=True) * model.share_V[:V].min()
        parts = {
            "caption": reading.input_BD[:, spans["text"]] @ weight_DU[spans["text"]],
            "image": reading.input_BD[:, spans["image"]] @ weight_DU[spans["image"]],
            "kriging": -rare - past_BD @ weight_DU,
            "neighbours": votes_BV @ shares_VU,
            "tag_text": reading.words_BT @ words_UD.t(),
        }
        expected_BU = (shares.facts_BJ @ model.new_offset_J)[:, None] + sum(
            weights_BC[:, KINDS.index(kind) : KINDS.index(kind) + 1] * part for kind, part in parts.items()
        )
        torch.testing.assert_close(logits_BV[:, V:], expected_BU, rtol=1e-4, atol=1e-4)
        assert model.new_mixture_CJ.abs().sum() > 0
        assert not model.new_mixture_CJ[-1].any()  # how popular it is nobody knows


def fitted_with_words() -> tuple[Subject, RegressionKriging]:
    """The same without the tags more."""
    return with_new_tags(torch.zeros(0, 16))


def test_a_new_tag_is_explained_and_found_in_histories() -> None:
    subject, model = with_new_tags(units(2, 16, seed=5))
    batch = subject.batch(ROWS)
    assert batch.history is not None
    tags_BHL = batch.history.tags_BHL.clone()
    tags_BHL[:, :, 0] = V + 1
    told = replace(batch, history=replace(batch.history, tags_BHL=tags_BHL))
    tags_BT = torch.tensor([V + 1, 0, V]).expand(len(ROWS), -1)
    with torch.inference_mode():
        explanation = model.explain(told, tags_BT)
        torch.testing.assert_close(
            torch.sigmoid(explanation.total()), model.score(told).gather(1, tags_BT), rtol=1e-4, atol=1e-5
        )
        assert (model.score(told)[:, V + 1] > model.score(batch)[:, V + 1]).float().mean() > 0.8


def replace_inputs(model: RegressionKriging, inputs: list[str]) -> object:
    return model.settings.model_copy(update={"inputs": inputs})
