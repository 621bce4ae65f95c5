"""The families that are fitted once: what is chosen, fitted and scored, from the train posts to the list, against NumPy."""

import zlib
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tests.models.oracle import Array, sigmoid, unit
from tests.models.world import POSTS, H, TrainPosts, V, history_of, make, world


def labels() -> Array:
    wanted = np.zeros((POSTS, V))
    for row, tags in enumerate(world().tags):
        wanted[row, tags] = 1
    return wanted


def test_linear() -> None:
    """Centred unit vectors, penalty and weight of the image by F1 at 5 over folds of users, Platt's sigmoid on a fold held out."""
    grid = [(w, p) for w in (0.5, 1.0) for p in (0.3, 1.0, 3.0, 10.0)]
    subject = make("linear")
    model: Any = subject.model
    figures = model.fit(TrainPosts(subject), seed=3)
    y = labels()
    text, image = (unit(world().arrays[name].astype(np.float64)) for name in ("text_vector", "image_vector"))
    text, image = text - text.mean(0), image - image.mean(0)
    prior = y.mean(0)
    fold = np.array([zlib.crc32(f"3:{user}".encode()) % 3 for user in world().users])
    tagged = y.any(1)

    def solved(rows: Array, weight: float, penalty: float) -> Array:
        x = np.hstack([text, weight * image])
        w = np.linalg.solve(x[rows].T @ x[rows] + penalty * np.eye(x.shape[1]), x[rows].T @ (y[rows] - prior))
        return x @ w + prior

    def f1(weight: float, penalty: float) -> float:
        precision, recall = [], []
        for n in np.unique(fold[tagged]):
            values = solved(fold != n, weight, penalty)
            for row in np.flatnonzero(tagged & (fold == n)):
                hits = y[row, np.argsort(-values[row])[:5]].sum()
                precision.append(hits / 5)
                recall.append(hits / y[row].sum())
        p, r = np.mean(precision), np.mean(recall)
        return 2 * p * r / (p + r)

    found = {pair: f1(*pair) for pair in grid}
    assert figures["cross_validated_f1_at_5"] == pytest.approx(max(found.values()), abs=1e-6)
    chosen = (figures["image_weight"], figures["penalty"])
    assert found[chosen] == pytest.approx(max(found.values()), abs=1e-6)
    first = fold[tagged][0]
    held = tagged & (fold == first)
    platt = LogisticRegression(C=1e6).fit(solved(fold != first, *chosen)[held].reshape(-1, 1), y[held].ravel())
    values = solved(np.ones(POSTS, dtype=bool), *chosen)
    expected = sigmoid(values * platt.coef_[0, 0] + platt.intercept_[0])
    np.testing.assert_allclose(subject.scores(subject.batch(range(POSTS))), expected, atol=2e-3)


def test_user_frequency() -> None:
    """Shares of the train posts, and the prior under which the tags of posts with a history are the likeliest."""
    subject = make("user_frequency")
    model: Any = subject.model
    figures = model.fit(TrainPosts(subject), seed=0)
    y, history = labels(), history_of(range(POSTS))
    posts = history.mask_BH.sum(1).numpy()
    used = np.zeros((POSTS, V))
    for row in range(POSTS):
        for h in range(H):
            used[row, [tag for tag in history.tags_BHL[row, h].tolist() if tag >= 0]] += 1

    def score(a: float) -> Array:
        return (used + a * y.mean(0)) / (posts[:, None] + a)

    def loss(a: float) -> float:
        p = score(a)[posts > 0].clip(1e-7, 1 - 1e-7)
        wanted = y[posts > 0]
        return float(-(wanted * np.log(p) + (1 - wanted) * np.log(1 - p)).sum())

    best = min((0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1e6), key=loss)
    assert figures["prior_posts"] == pytest.approx(best)
    assert figures["posts_with_history"] == (posts > 0).mean()
    np.testing.assert_allclose(subject.scores(subject.batch(range(POSTS))), score(best), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("example", ["default", "libsvm"])
def test_features_of_a_missing_modality_are_nothing(example: str) -> None:
    """`svm` on frozen features: the unit vectors of caption and image side by side, zeros where there is none."""
    subject = make("svm", example)
    model: Any = subject.model
    batch = subject.batch([3, 4, 5], [True, False, False], [True, True, False])
    vectors, known = model.vectors(batch)
    text, image = (unit(world().arrays[name].astype(np.float64)) for name in ("text_vector", "image_vector"))
    expected = np.zeros((3, text.shape[1] + image.shape[1]))
    expected[:2, : text.shape[1]] = text[3:5]
    expected[0, text.shape[1] :] = image[3]
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert torch.equal(known, torch.tensor([True, True, False]))
