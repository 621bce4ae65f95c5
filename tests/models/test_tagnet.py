"""TAGNet's triplet attention, its graph and its convolution, computed again in NumPy."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from hashtag_core.data.batches import HistoryBatch, PostBatch
from hashtag_core.models.base import InputSpec
from hashtag_core.models.tagnet import Tagnet, newest_tags
from tests.models.small import assert_paper_parameters
from tests.models.test_macon import softmax, weights, without_history
from tests.models.world import IMAGE_DIM, POSTS, Subject, TrainPosts, make, spoiled, world

ROWS = list(range(20, 32))


class Illustrated(TrainPosts):
    """The world's posts; every third has no image, every fourth no caption."""

    def batches(self, batch_size: int) -> Iterator[tuple[PostBatch, list[list[int]]]]:
        for start in range(0, POSTS, 10):
            rows = range(start, min(start + 10, POSTS))
            batch = self.subject.batch(rows, [row % 3 != 0 for row in rows], [row % 4 != 0 for row in rows])
            yield batch, [world().tags[row] for row in rows]


def tagnet(example: str = "default", **changes: object) -> tuple[Subject, Tagnet]:
    """Prepared on the world's posts."""
    subject = make("tagnet", example, **changes).fitted()
    assert isinstance(subject.model, Tagnet)
    subject.model.prepare(Illustrated(subject), seed=0)
    return subject, subject.model


def images() -> np.ndarray:
    return world().arrays["image_vector"].astype(np.float64)


def test_the_graph_holds_the_posts_that_have_an_image() -> None:
    subject, model = tagnet(graph_posts=60)
    graph, shown = model.graph, [row for row in range(POSTS) if row % 3]
    n = len(shown)
    assert int(graph.filled) == n
    np.testing.assert_array_equal(graph.image_NX[:n], world().arrays["image_vector"][shown])
    assert graph.said_N[:n].tolist() == [row % 4 != 0 for row in shown]
    spoken = [k for k, row in enumerate(shown) if row % 4]
    np.testing.assert_array_equal(graph.text_NX[spoken], world().arrays["text_vector"][[shown[k] for k in spoken]])
    history = subject.batch(shown).history
    assert torch.equal(graph.tags_NM[:n].long(), newest_tags(history, n, 6))


def test_of_more_posts_a_sample_is_drawn_by_the_seed() -> None:
    subject, model = tagnet(graph_posts=10)
    first = model.graph.image_NX.clone()
    assert int(model.graph.filled) == 10
    model.prepare(Illustrated(subject), seed=0)
    assert torch.equal(model.graph.image_NX, first)
    model.prepare(Illustrated(subject), seed=1)
    assert not torch.equal(model.graph.image_NX, first)
    assert len(np.unique(model.graph.image_NX.float().numpy(), axis=0)) == 10


def test_a_post_is_joined_to_the_posts_of_others_that_look_most_like_it() -> None:
    subject, model = tagnet(graph_posts=60)
    rows_BK, cosine_BK = model.graph.nearest(subject.batch(ROWS), 4)
    shown = [row for row in range(POSTS) if row % 3]
    unit = images() / np.linalg.norm(images(), axis=1, keepdims=True)
    for b, row in enumerate(ROWS):
        others = [other for other in shown if world().users[other] != world().users[row]]
        expected = sorted((float(unit[row] @ unit[other]) for other in others), reverse=True)[:4]
        np.testing.assert_allclose(cosine_BK[b], expected, atol=1e-5)
        joined = [shown[k] for k in rows_BK[b].tolist()]
        np.testing.assert_allclose(unit[joined] @ unit[row], expected, atol=1e-5)
        assert all(world().users[other] != world().users[row] for other in joined)


def test_a_post_without_user_is_not_joined_to_itself() -> None:
    subject, model = tagnet(graph_posts=60)

    class Anonymous(Illustrated):
        def batches(self, batch_size: int) -> Iterator[tuple[PostBatch, list[list[int]]]]:
            for batch, tags in super().batches(batch_size):
                yield dataclasses.replace(batch, user_ids=[None] * len(batch)), tags

    model.prepare(Anonymous(subject), seed=0)
    batch = dataclasses.replace(subject.batch([1, 2]), user_ids=[None, None])
    rows_BK, cosine_BK = model.graph.nearest(batch, 60)
    assert not ((rows_BK == torch.tensor([[0], [1]])) & (cosine_BK > -torch.inf)).any()
    assert (cosine_BK > -torch.inf).sum(1).tolist() == [41, 41]


def test_triplet_attention() -> None:
    _, model = tagnet()
    triplet_M3D = torch.randn(2, 3, 16)
    found = model.attend(triplet_M3D).detach().numpy()
    w = weights(model)
    for m in range(2):
        M = triplet_M3D[m].double().numpy()
        scores = (M @ w["query.weight"].T) @ (M @ w["key.weight"].T).T / 4
        shares = np.stack([softmax(row) for row in scores])
        np.testing.assert_allclose(found[m], M + shares @ (M @ w["message.weight"].T), atol=1e-5)


def test_nodes_and_convolution() -> None:
    """Logits of posts, from their parts and those of their neighbours."""
    subject, model = tagnet(graph_posts=60, neighbours=3, temperature=0.2)
    batch = subject.batch(ROWS[:4])
    w, graph = weights(model), model.graph

    def projected(x: np.ndarray, part: str) -> np.ndarray:
        normed = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * w[f"{part}.0.weight"] + w[f"{part}.0.bias"]
        return np.tanh(w[f"{part}.1.weight"] @ normed + w[f"{part}.1.bias"])

    def node(image: np.ndarray, text: np.ndarray | None, tags: list[int]) -> np.ndarray:
        said = w["absent_text_D"] if text is None else projected(text, "read")
        user = w["influence.weight"][tags].mean(0) if tags else w["absent_user_D"]
        triplet = torch.tensor(np.stack([projected(image, "see"), said, user]), dtype=torch.float32)
        mixed = model.attend(triplet[None])[0].detach().double().numpy().reshape(-1)
        return np.maximum(w["node.weight"] @ mixed + w["node.bias"], 0)

    tags_BT = newest_tags(batch.history, 4, 6).tolist()
    rows_BK, cosine_BK = graph.nearest(batch, 3)
    assert batch.image_vector_BD is not None
    assert batch.text_vector_BD is not None
    logits_BV = model.logits(batch).detach().numpy()
    for b in range(4):
        own = node(batch.image_vector_BD[b].numpy(), batch.text_vector_BD[b].numpy(), [t for t in tags_BT[b] if t >= 0])
        shares, others = softmax(cosine_BK[b].double().numpy() / 0.2), np.zeros(16)
        for share, k in zip(shares, rows_BK[b].tolist(), strict=True):
            text = graph.text_NX[k].double().numpy() if graph.said_N[k] else None
            tags = [t for t in graph.tags_NM[k].tolist() if t >= 0]
            others += share * node(graph.image_NX[k].double().numpy(), text, tags)
        h = np.maximum(w["own.weight"] @ own + w["own.bias"] + w["others.weight"] @ others, 0)
        expected = w["classify.weight"] @ np.concatenate([own, h]) + w["classify.bias"]
        np.testing.assert_allclose(logits_BV[b], expected, atol=1e-4)


@pytest.mark.parametrize("example", ["default", "content", "image"])
def test_a_prepared_model_reads_nothing_absent_and_no_company(example: str) -> None:
    subject, _ = tagnet(example)
    seen, said = [True, True, False, False] * 3, [True, False, True, False] * 3
    batch = subject.batch(ROWS, seen, said)
    together = subject.scores(batch)
    torch.testing.assert_close(subject.scores(spoiled(batch, subject, extra=2)), together, rtol=1e-4, atol=1e-5)
    alone = [
        subject.scores(subject.batch([row], [image], [text])) for row, image, text in zip(ROWS, seen, said, strict=True)
    ]
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-4, atol=1e-5)


def test_no_history_is_an_empty_history() -> None:
    subject, _ = tagnet()
    batch = subject.batch(ROWS)
    none, empty = without_history(batch)
    torch.testing.assert_close(subject.scores(none), subject.scores(empty))
    assert not torch.allclose(subject.scores(none), subject.scores(batch))


def test_train_posts_without_an_image_leave_the_graph_empty() -> None:
    subject, model = tagnet()

    class Blind(Illustrated):
        def batches(self, batch_size: int) -> Iterator[tuple[PostBatch, list[list[int]]]]:
            yield subject.batch(range(5), [False] * 5), [[]] * 5

    model.prepare(Blind(subject), seed=0)
    assert int(model.graph.filled) == 0
    assert torch.equal(model.neighbourhood(subject.batch(ROWS))[0], model.absent_neighbours_D)


def test_newest_tags_skip_fillers() -> None:
    history = HistoryBatch(
        mask_BH=torch.tensor([[True, True, False], [True, False, False], [False, False, False]]),
        tags_BHL=torch.tensor(
            [[[3, -1], [1, 2], [9, 9]], [[-1, -1], [5, 5], [5, 5]], [[4, 4], [4, 4], [4, 4]]], dtype=torch.int64
        ),
    )
    assert newest_tags(history, 3, 2).tolist() == [[3, 1], [-1, -1], [-1, -1]]
    assert newest_tags(history, 3, 7).tolist()[0] == [3, 1, 2, -1, -1, -1, -1]
    assert newest_tags(None, 2, 3).tolist() == [[-1] * 3] * 2
    nothing = HistoryBatch(torch.zeros(1, 0, dtype=torch.bool), torch.zeros(1, 0, 0, dtype=torch.int64))
    assert newest_tags(nothing, 1, 2).tolist() == [[-1, -1]]


def test_a_graph_of_images_alone_keeps_no_text() -> None:
    _, model = tagnet("image")
    assert tuple(model.graph.text_NX.shape) == (40, 0)
    assert tuple(model.graph.image_NX.shape) == (40, IMAGE_DIM)


def test_parameters_of_the_paper_recipe() -> None:
    spec = InputSpec(vocabulary_size=1734, image_dim=2048, text_dim=768)
    d, tags = 512, 1734
    parts = (2 * 2048 + 2048 * d + d) + (2 * 768 + 768 * d + d) + tags * d + 4 * d
    attention = 3 * d * d + 3 * d * d + d
    convolution = d * d + d + d * d
    assert_paper_parameters("tagnet", spec, parts + attention + convolution + 2 * d * tags + tags)
