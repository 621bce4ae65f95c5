"""`linear` against scikit-learn's ridge regression."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import normalize

from hashtag_core.models.linear import Linear
from tests.models.world import POSTS, Subject, TrainPosts, V, make, world


def linear_of(subject: Subject) -> Linear:
    assert isinstance(subject.model, Linear)
    return subject.model


def labels() -> np.ndarray:
    wanted = np.zeros((POSTS, V))
    for row, tags in enumerate(world().tags):
        wanted[row, tags] = 1
    return wanted


@pytest.mark.parametrize("penalty", [0.5, 4.0])
@pytest.mark.parametrize("image_weight", [0.5, 1.0])
def test_linear_is_scikit_learns_ridge(penalty: float, image_weight: float) -> None:
    subject = make("linear", penalties=[penalty], image_weights=[image_weight])
    model = linear_of(subject)
    figures = model.fit(TrainPosts(subject), seed=0)
    assert figures["penalty"] == penalty
    arrays = world().arrays
    blocks = [
        normalize(arrays["text_vector"].astype(np.float64)),
        normalize(arrays["image_vector"].astype(np.float64)) * image_weight,
    ]
    oracle = Ridge(alpha=penalty).fit(np.hstack(blocks), labels())
    values = model.values(subject.batch(range(POSTS))).numpy()
    np.testing.assert_allclose(values, oracle.predict(np.hstack(blocks)), atol=2e-5)


def test_linear_with_missing_modalities_is_ridge_with_mean_imputation() -> None:
    rng = np.random.default_rng(4)
    shows, says = rng.random(POSTS) < 0.7, rng.random(POSTS) < 0.7

    class Patchy(TrainPosts):
        def batches(self, batch_size: int):  # type: ignore[no-untyped-def]
            for start in range(0, POSTS, 10):
                rows = list(range(start, min(start + 10, POSTS)))
                yield self.subject.batch(rows, shows[rows], says[rows]), [world().tags[row] for row in rows]

    subject = make("linear", penalties=[2.0], image_weights=[1.0])
    model = linear_of(subject)
    model.fit(Patchy(subject), seed=0)
    columns = []
    for name, present in (("text_vector", says), ("image_vector", shows)):
        unit = normalize(world().arrays[name].astype(np.float64))
        unit[~present] = unit[present].mean(axis=0)
        columns += [unit, present[:, None].astype(float)]
    design = np.hstack(columns)
    oracle = Ridge(alpha=2.0).fit(design, labels())
    values = model.values(subject.batch(range(POSTS), shows, says)).numpy()
    np.testing.assert_allclose(values, oracle.predict(design), atol=2e-5)


def test_linear_scores_keep_the_order_of_the_values() -> None:
    subject = make("linear").fitted()
    batch = subject.batch(range(POSTS))
    values, scores = linear_of(subject).values(batch), subject.scores(batch)
    slope = float(linear_of(subject).calibration[0])
    assert slope > 0
    order = values.argsort(dim=1)
    assert (scores.gather(1, order).diff(dim=1) >= 0).all()


def test_linear_chooses_a_penalty_that_generalises() -> None:
    """One that crushes everything is there to be refused, and the choice does not depend on the order of the grid."""
    chosen = {
        make("linear", penalties=penalties).model.fit(TrainPosts(make("linear", penalties=penalties)), seed=0)[
            "penalty"
        ]  # type: ignore[operator]
        for penalties in ([1e9, 1.0], [1.0, 1e9])
    }
    assert chosen == {1.0}


def test_linear_does_not_depend_on_batches() -> None:
    first, second = make("linear"), make("linear")

    class Small(TrainPosts):
        def batches(self, batch_size: int):  # type: ignore[no-untyped-def]
            yield from super().batches(7)

    linear_of(first).fit(TrainPosts(first), seed=0)
    linear_of(second).fit(Small(second), seed=0)
    for key, value in first.model.state_dict().items():
        torch.testing.assert_close(value, second.model.state_dict()[key], rtol=1e-4, atol=1e-5)


def test_linear_says_exactly_where_a_score_comes_from() -> None:
    """The parts add up to the logit, and taking the picture away takes what was the picture's."""
    subject = make("linear", penalties=[2.0], image_weights=[1.0])
    model = linear_of(subject)
    model.fit(TrainPosts(subject), seed=0)
    batch = subject.batch(range(6))
    tags_BT = torch.tensor([[0, 2, 1]] * 6)
    found = model.explain(batch, tags_BT)
    assert set(found.parts_BT) == {"image", "caption"}
    torch.testing.assert_close(torch.sigmoid(found.total()), model.score(batch).gather(1, tags_BT))
    blind = subject.batch(range(6), np.zeros(6, bool), np.ones(6, bool))
    without = model.explain(blind, tags_BT)
    torch.testing.assert_close(without.parts_BT["caption"], found.parts_BT["caption"])
    torch.testing.assert_close(
        found.total() - found.parts_BT["image"] + without.parts_BT["image"], torch.logit(model.score(blind).gather(1, tags_BT)),
        rtol=1e-3, atol=1e-3,
    )  # fmt: skip
