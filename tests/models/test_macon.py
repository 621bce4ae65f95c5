"""Parallel co-attention (Lu 2016, eq. 3-5) and the habit of MACON, computed again in NumPy."""

import dataclasses

import numpy as np
import torch

from hashtag_core.data.batches import HistoryBatch, PostBatch
from hashtag_core.models.base import InputSpec
from hashtag_core.models.macon import Habit, ParallelCoAttention
from tests.models.small import assert_paper_parameters
from tests.models.world import empty_history, make


def softmax(scores: np.ndarray) -> np.ndarray:
    shares = np.exp(scores - scores.max())
    return shares / shares.sum()


def weights(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().double().numpy() for name, value in module.named_parameters()}


def history(tags: list[list[list[int]]]) -> HistoryBatch:
    """Posts with those tags; None in place of a post is a filler."""
    posts, slots = max(map(len, tags)), max(len(row) for past in tags for row in past)
    mask_BH = torch.tensor([[h < len(past) for h in range(posts)] for past in tags])
    tags_BHL = torch.full((len(tags), posts, slots), -1)
    for b, past in enumerate(tags):
        for h, row in enumerate(past):
            tags_BHL[b, h, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return HistoryBatch(mask_BH=mask_BH, tags_BHL=tags_BHL)


def test_parallel_co_attention_is_lus() -> None:
    torch.manual_seed(0)
    attention = ParallelCoAttention(4, 3)
    words_BSD, regions_BRD = torch.randn(2, 5, 4), torch.randn(2, 3, 4)
    word_mask_BS = torch.tensor([[True] * 5, [True, True, False, False, False]])
    region_mask_BR = torch.tensor([[True] * 3, [True, False, True]])
    t_BD, v_BD = attention(words_BSD, word_mask_BS, regions_BRD, region_mask_BR)
    w = weights(attention)
    for b in range(2):
        T = words_BSD[b][word_mask_BS[b]].double().numpy().T
        V = regions_BRD[b][region_mask_BR[b]].double().numpy().T
        C = np.tanh(T.T @ w["affinity.weight"].T @ V)
        W_v, W_t = w["region_key.weight"], w["word_key.weight"]
        H_v = np.tanh(W_v @ V + (W_t @ T) @ C)
        H_t = np.tanh(W_t @ T + (W_v @ V) @ C.T)
        a_v, a_t = softmax(w["region_score.weight"][0] @ H_v), softmax(w["word_score.weight"][0] @ H_t)
        np.testing.assert_allclose(t_BD[b].detach(), T @ a_t, atol=1e-6)
        np.testing.assert_allclose(v_BD[b].detach(), V @ a_v, atol=1e-6)


def test_the_habit_is_a_weighted_sum_of_tags() -> None:
    torch.manual_seed(0)
    habit = Habit(3, 5, 4)
    past = history([[[0, 1], [], [2]], [[4, 4, 3]]])
    post_BD, past_ND = torch.randn(2, 3), torch.randn(4, 3)
    found_BE = habit(post_BD, past_ND, past).detach().numpy()
    w = weights(habit)
    e = w["tags.weight"]
    post, posts = post_BD.double().numpy(), past_ND.double().numpy()
    scores = np.array([post[0] @ w["match.weight"].T @ posts[h] for h in (0, 2)]) / np.sqrt(3)
    shares = softmax(scores)  # the post without a tag is passed over
    np.testing.assert_allclose(found_BE[0], shares[0] * (e[0] + e[1]) / 2 + shares[1] * e[2], atol=1e-6)
    np.testing.assert_allclose(found_BE[1], (2 * e[4] + e[3]) / 3, atol=1e-6)


def test_fillers_are_no_habit() -> None:
    torch.manual_seed(0)
    habit = Habit(3, 5, 4)
    past = history([[[0, 1], [2]], [[3]]])
    post_BD, past_ND = torch.randn(2, 3), torch.randn(3, 3)
    filled = past.tags_BHL.clone()
    filled[1, 1] = 2
    wider = HistoryBatch(
        mask_BH=torch.cat([past.mask_BH, torch.zeros(2, 2, dtype=torch.bool)], dim=1),
        tags_BHL=torch.cat([filled, torch.ones(2, 2, 2, dtype=torch.int64)], dim=1),
    )
    torch.testing.assert_close(habit(post_BD, past_ND, wider), habit(post_BD, past_ND, past))


def test_posts_without_a_known_tag_are_no_history() -> None:
    habit = Habit(3, 5, 4)
    post_BD, past_ND = torch.randn(1, 3), torch.randn(2, 3)
    assert torch.equal(habit(post_BD, past_ND, history([[[], []]]))[0], habit.absent_D)
    assert torch.equal(habit(post_BD, None, None)[0], habit.absent_D)
    nothing = HistoryBatch(torch.zeros(1, 0, dtype=torch.bool), torch.zeros(1, 0, 0, dtype=torch.int64))
    assert torch.equal(habit(post_BD, past_ND[:0], nothing)[0], habit.absent_D)


def without_history(batch: PostBatch) -> tuple[PostBatch, PostBatch]:
    return dataclasses.replace(batch, history=None), dataclasses.replace(batch, history=empty_history(len(batch)))


def test_no_history_is_an_empty_history() -> None:
    subject = make("macon").fitted()
    batch = subject.batch(range(20, 28))
    none, empty = without_history(batch)
    torch.testing.assert_close(subject.scores(none), subject.scores(empty))
    assert not torch.allclose(subject.scores(none), subject.scores(batch))


def test_a_history_post_is_one_word_and_one_region() -> None:
    """The same weights read it as read a caption of one token with an image of one cell."""
    subject = make("macon").fitted()
    batch = subject.batch(range(20, 28))
    assert batch.history is not None
    assert subject.model.reader is not None
    there_BH = batch.history.mask_BH
    t_ND, v_ND = subject.model.reader.history(batch.history)
    as_post = dataclasses.replace(
        batch,
        post_ids=["x"] * int(there_BH.sum()),
        image_present_B=batch.history.image_present_BH[there_BH],
        image_grid_BRD=batch.history.image_vector_BHD[there_BH][:, None],
        text_states_BSD=batch.history.text_vector_BHD[there_BH][:, None],
        text_states_mask_BS=batch.history.text_present_BH[there_BH][:, None],
        history=None,
    )
    for found, expected in zip((t_ND, v_ND), subject.model.reader(as_post), strict=True):
        torch.testing.assert_close(found, expected)


def test_parameters_of_the_paper_recipe() -> None:
    spec = InputSpec(vocabulary_size=1734, image_dim=512, text_dim=768, regions=49)
    words, regions = 2 * 768 + 768 * 512 + 512 + 512, 2 * 512 + 512 * 512 + 512 + 512
    attention = 3 * 512 * 512 + 2 * 512
    habit = 512 * 512 + 1734 * 512 + 512
    assert_paper_parameters("macon", spec, words + regions + attention + habit + 1024 * 1734 + 1734)
