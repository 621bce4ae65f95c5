"""DESIGN's word attention, its six steps of fusion, its generator and its merged ranking, computed again in NumPy."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from hashtag_core.data.batches import END, PostBatch
from hashtag_core.errors import ConfigError
from hashtag_core.models import create_model
from hashtag_core.models.base import InputSpec
from hashtag_core.models.design import Design, DesignOptions, Generator, WeightedFusion, WordAttention
from hashtag_core.models.objectives import multi_label_loss, sequence_loss
from hashtag_core.models.sequence import teach
from tests.models.small import RECIPES, assert_paper_parameters
from tests.models.test_macon import softmax, weights, without_history
from tests.models.world import Subject, TrainPosts, V, make, targets, world

ROWS = list(range(20, 32))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def design(example: str = "default", **changes: object) -> tuple[Subject, Design]:
    subject = make("design", example, **changes).fitted()
    assert isinstance(subject.model, Design)
    return subject, subject.model


def batch_norm(x: np.ndarray, mean: np.ndarray, variance: np.ndarray, weight: np.ndarray, bias: np.ndarray):  # type: ignore[no-untyped-def]
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


@pytest.mark.parametrize("training", [True, False])
def test_weighted_fusion_is_the_six_steps(training: bool) -> None:
    torch.manual_seed(0)
    fusion = WeightedFusion(3, 4).train(training)
    with torch.no_grad():
        for name, value in [*fusion.named_parameters(), *fusion.named_buffers()]:
            if value.is_floating_point() and "var" not in name:
                value.normal_()
            elif "var" in name:
                value.uniform_(0.5, 2)
    state = {name: value.double().numpy().copy() for name, value in fusion.state_dict().items()}
    t_BD, v_BD = torch.randn(6, 3), torch.randn(6, 3)
    p_BD = fusion(t_BD, v_BD).detach().numpy()
    t, v = t_BD.double().numpy(), v_BD.double().numpy()

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        if training:
            mean, variance = x.mean(0), x.var(0)
        return batch_norm(x, mean, variance, state[f"{name}.weight"], state[f"{name}.bias"])

    f = np.concatenate([t, v], axis=1)  # 1
    f_hat = norm(f, "normalise")  # 2
    dense = f_hat @ state["dense.weight"].T + state["dense.bias"]
    o = np.where(dense > 0, dense, 0.01 * dense)  # 3
    o_hat = norm(o, "normalise_hidden")  # 4
    w = sigmoid(o_hat @ state["weigh.weight"].T + state["weigh.bias"])  # 5
    assert w.shape == t.shape
    np.testing.assert_allclose(p_BD, (1 - w) * t + w * v, atol=1e-5)  # 6


def test_a_lone_post_is_fused_by_the_running_statistics() -> None:
    fusion = WeightedFusion(3, 4).train()
    t_BD, v_BD = torch.randn(1, 3), torch.randn(1, 3)
    alone = fusion(t_BD, v_BD)
    assert int(fusion.normalise.num_batches_tracked) == 0
    torch.testing.assert_close(fusion.eval()(t_BD, v_BD), alone)


def test_the_sum_is_a_sum() -> None:
    _, model = design("sum")
    t_BD, v_BD = torch.randn(2, 16), torch.randn(2, 16)
    assert torch.equal(model.fuse(t_BD, v_BD), t_BD + v_BD)


def test_word_level_attention() -> None:
    torch.manual_seed(0)
    attention = WordAttention(3, 4)
    words_BSD, mask_BS = torch.randn(2, 5, 3), torch.tensor([[True] * 5, [True, True, False, False, True]])
    found_BSD = attention(words_BSD, mask_BS).detach().numpy()
    w = weights(attention)
    for b in range(2):
        words = words_BSD[b][mask_BS[b]].double().numpy()
        alpha = softmax(np.tanh(words @ w["score.0.weight"].T + w["score.0.bias"]) @ w["score.2.weight"][0])
        expected = len(words) * alpha[:, None] * words
        np.testing.assert_allclose(found_BSD[b][mask_BS[b]], expected, atol=1e-6)


def test_history_posts_are_fused_like_the_post_and_their_tags_are_the_habit() -> None:
    subject, model = design()
    batch = subject.batch(ROWS)
    assert batch.history is not None
    post_BF = model.posts(batch)
    p_BD = model.fuse(*model.reader(batch))
    past_ND = model.fuse(*model.reader.history(batch.history))
    assert len(past_ND) == int(batch.history.mask_BH.sum())
    torch.testing.assert_close(post_BF[:, : p_BD.shape[1]], p_BD)
    torch.testing.assert_close(post_BF[:, p_BD.shape[1] :], model.habit(p_BD, past_ND, batch.history))


@pytest.mark.parametrize("example", ["default", "sum", "generate"])
def test_no_history_is_an_empty_history(example: str) -> None:
    subject, _ = design(example)
    batch = subject.batch(ROWS)
    none, empty = without_history(batch)
    torch.testing.assert_close(subject.scores(none), subject.scores(empty))
    assert not torch.allclose(subject.scores(none), subject.scores(batch))


def test_the_generator_is_a_gru_over_tag_and_post() -> None:
    torch.manual_seed(0)
    generator = Generator(5, DesignOptions(embedding=3, generator_hidden=4, dropout=0.0), vocabulary_size=6)
    w = weights(generator)
    post_BF = torch.randn(2, 5)
    state = generator.start(post_BF)
    posts = post_BF.double().numpy()
    hidden = np.tanh(posts @ w["first.weight"].T + w["first.bias"])
    for previous in (None, torch.tensor([2, END])):
        logits_BU, state = generator.step(previous, state)
        sign = w["signs.weight"][[-1, -1] if previous is None else previous.numpy()]
        x = np.concatenate([sign, posts], axis=1) @ w["cell.weight_ih"].T + w["cell.bias_ih"]
        h = hidden @ w["cell.weight_hh"].T + w["cell.bias_hh"]
        (x_r, x_z, x_n), (h_r, h_z, h_n) = np.split(x, 3, axis=1), np.split(h, 3, axis=1)
        update = sigmoid(x_z + h_z)
        hidden = (1 - update) * np.tanh(x_n + sigmoid(x_r + h_r) * h_n) + update * hidden
        np.testing.assert_allclose(logits_BU.detach(), hidden @ w["write.weight"].T + w["write.bias"], atol=1e-5)


def test_the_loss_is_that_of_both_heads() -> None:
    subject, model = design()
    batch, wanted = subject.batch(ROWS), targets(ROWS)
    post_BF = model.posts(batch)
    assert model.classifier is not None
    assert model.generator is not None
    logits_BLU, _ = teach(model.generator.step, model.generator.start(post_BF), wanted.sequence_BL)
    expected = multi_label_loss(model.classifier(post_BF), wanted.labels_BV) + sequence_loss(
        logits_BLU, wanted.sequence_BL
    )
    torch.testing.assert_close(model.loss(batch, wanted), expected)


def test_the_merged_ranking_is_a_convex_combination() -> None:
    subject, model = design(discount=0.5, decode_steps=3)
    batch = subject.batch(ROWS[:4])
    assert model.generator is not None
    with torch.inference_mode():
        post_BF = model.posts(batch)
        classified = model.classified(post_BF).numpy()
        expected = np.zeros_like(classified)
        previous, state = None, model.generator.start(post_BF)
        for t in range(3):  # greedy, no tag twice, the t-th discounted by d ** t
            logits_BU, state = model.generator.step(previous, state)
            shares = np.stack([softmax(row) for row in logits_BU.double().numpy()])[:, 1:]
            best = np.where(expected > 0, -1, shares).argmax(1)
            expected[range(4), best] = shares[range(4), best] * 0.5**t
            previous = torch.from_numpy(best) + 1
    for share in (0.0, 0.25, 1.0):
        model.merge_share.fill_(share)
        np.testing.assert_allclose(subject.scores(batch), (1 - share) * classified + share * expected, atol=1e-6)


class Known(TrainPosts):
    """The world's posts as a validation split."""

    def batches(self, batch_size: int) -> Iterator[tuple[PostBatch, list[list[int]]]]:
        return super().batches(7)


def f1_of(subject: Subject, k: int) -> float:
    here = world().tags
    rows = [row for row, tags in enumerate(here) if tags]
    ranked = subject.scores(subject.batch(rows)).argsort(dim=1, descending=True)[:, :k].tolist()
    hits = np.array([len(set(best) & set(here[row])) for best, row in zip(ranked, rows, strict=True)])
    precision, recall = (hits / k).mean(), (hits / [len(here[row]) for row in rows]).mean()
    return float(2 * precision * recall / (precision + recall))


@pytest.mark.parametrize("ranking", ["greedy", "marginal"])
def test_the_share_of_the_generator_is_chosen_by_f1_on_validation(ranking: str) -> None:
    subject, model = design(merge_k=2, ranking=ranking)
    with torch.no_grad():
        figures = model.calibrate(Known(subject))
    found: dict[float, float] = {}
    for share in np.linspace(0, 1, 21, dtype=np.float32).tolist():
        model.merge_share.fill_(share)
        found[share] = f1_of(subject, 2)
    best = max(found, key=lambda share: found[share])
    assert figures == pytest.approx({"merge_share": best, "merge_f1_at_2": found[best]}, abs=1e-4)


def test_the_length_of_the_list_is_chosen_with_the_share() -> None:
    subject, model = design(merge_k=None)
    with torch.no_grad():
        figures = model.calibrate(Known(subject))
    found: dict[tuple[int, float], float] = {}
    for share in np.linspace(0, 1, 21, dtype=np.float32).tolist():
        model.merge_share.fill_(share)
        found |= {(k, share): f1_of(subject, k) for k in range(1, 11)}
    k, best = max(found, key=lambda pair: found[pair])
    assert figures[f"merge_f1_at_{k}"] == pytest.approx(found[k, best], abs=1e-4)
    assert figures["merge_share"] == pytest.approx(best, abs=1e-6)


def test_the_chosen_share_is_kept_and_nothing_else_moves() -> None:
    subject, model = design()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        figures = model.calibrate(Known(subject))
    after = model.state_dict()
    assert float(after.pop("merge_share")) == pytest.approx(figures["merge_share"])
    assert all(torch.equal(value, before[name]) for name, value in after.items())


@pytest.mark.parametrize("example", ["classify", "generate"])
def test_one_head_has_nothing_to_choose(example: str) -> None:
    subject, model = design(example)
    assert model.calibrate(Known(subject)) == {}


def test_validation_without_a_known_tag_leaves_the_classifier_alone() -> None:
    subject, model = design()

    class Tagless(Known):
        def batches(self, batch_size: int) -> Iterator[tuple[PostBatch, list[list[int]]]]:
            return ((batch, [[]] * len(batch)) for batch, _ in super().batches(batch_size))

    with torch.no_grad():
        assert model.calibrate(Tagless(subject))["merge_share"] == 0.0


def test_visual_says_which_grid_is_read() -> None:
    spec = InputSpec(vocabulary_size=V, image_dim=768, text_dim=16)
    create_model("design", spec, {"visual": "vit"})
    with pytest.raises(ConfigError, match=r"model.visual: 'vgg16' has regions of 512 .* encoders.image gives 768"):
        create_model("design", spec, {"visual": "vgg16"})
    create_model("design", dataclasses.replace(spec, image_dim=0), {"visual": "vgg16", "inputs": ["caption"]})


def test_parameters_of_the_paper_recipe() -> None:
    spec = InputSpec(vocabulary_size=1734, image_dim=768, text_dim=768, regions=196)
    d, tags = 512, 1734
    items = 2 * (2 * 768 + 768 * d + d + d)
    attention = (d * d + d + d) + (3 * d * d + 2 * d)
    fusion = 2 * 2 * d + (2 * d * d + d) + 2 * d + (d * d + d)
    habit = d * d + tags * d + d
    classifier = 2 * d * tags + tags
    gru = 3 * d * (256 + 2 * d + d) + 2 * 3 * d
    generator = (2 * d * d + d) + (tags + 2) * 256 + gru + d * (tags + 1) + tags + 1
    assert (RECIPES / "design.toml").is_file()
    assert_paper_parameters("design", spec, items + attention + fusion + habit + classifier + generator)
