"""The SVMs against scikit-learn's own decision functions."""

import numpy as np
import pytest
import torch
from sklearn.svm import SVC, LinearSVC

from hashtag_core.errors import ConfigError
from hashtag_core.models import parse_options
from hashtag_core.models.svm import PairwiseMachine, Svm, SvmOptions
from tests.models.world import POSTS, TrainPosts, V, make, world


def blobs(classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Points about one centre a class, far from separable; class numbers with gaps."""
    rng = np.random.default_rng(classes)
    tags = rng.integers(0, classes, 30 * classes)
    return (rng.normal(size=(classes, 6))[tags] + rng.normal(size=(len(tags), 6))).astype(np.float32), tags * 3 + 1


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_the_pairwise_machine_is_scikit_learns(classes: int, kernel: str) -> None:
    vectors, tags = blobs(classes)
    machine = PairwiseMachine(6, kernel)
    machine.fit(vectors, tags, SvmOptions(machine="libsvm", kernel=kernel, cost=2.0))
    oracle = SVC(C=2.0, kernel=kernel, decision_function_shape="ovo").fit(vectors, tags)
    rows = torch.from_numpy(vectors)
    pairs = machine.pair_values(rows)
    found = pairs[:, *torch.triu_indices(classes, classes, offset=1)].numpy()
    wanted = oracle.decision_function(vectors).reshape(len(vectors), -1)
    np.testing.assert_allclose(found, -wanted if classes == 2 else wanted, atol=2e-4)
    if classes == 2:
        np.testing.assert_array_equal(machine.classes_C[machine.values(rows).argmax(1)], oracle.predict(vectors))
    else:
        oracle.decision_function_shape = "ovr"
        np.testing.assert_allclose(machine.values(rows), oracle.decision_function(vectors), atol=2e-4)


def test_a_post_is_an_example_for_each_of_its_tags() -> None:
    subject = make("svm", "libsvm", inputs=["image"])
    assert isinstance(subject.model, Svm)
    figures = subject.model.fit(TrainPosts(subject), seed=0)
    assert figures["examples"] == sum(len(tags) for tags in world().tags)
    vectors = subject.model.vectors(subject.batch(range(POSTS)))[0].numpy()
    rows = [row for row, tags in enumerate(world().tags) for _ in tags]
    tags = [tag for tags in world().tags for tag in sorted(tags)]
    order = np.random.default_rng(0).permutation(len(tags))
    oracle = SVC(decision_function_shape="ovr").fit(vectors[rows][order], np.array(tags)[order])
    scores = subject.scores(subject.batch(range(POSTS))).numpy()
    wanted = (oracle.decision_function(vectors) + 1 / 3) / (len(oracle.classes_) - 1 / 3)
    np.testing.assert_allclose(scores[:, oracle.classes_], wanted, atol=1e-4)


@pytest.mark.parametrize("example", ["default", "tfidf"])
def test_the_linear_machines_are_scikit_learns(example: str) -> None:
    subject = make("svm", example, cost=0.5).fitted()
    assert isinstance(subject.model, Svm)
    batch = subject.batch(range(POSTS))
    vectors = subject.model.vectors(batch)[0]
    values = subject.model.values(vectors).numpy()
    for tag in range(V):
        carries = np.array([tag in tags for tags in world().tags])
        oracle = LinearSVC(C=0.5).fit(vectors.numpy(), carries)
        np.testing.assert_allclose(values[:, tag], oracle.decision_function(vectors.numpy()), atol=2e-3)
    np.testing.assert_allclose(subject.scores(batch), 1 / (1 + np.exp(-values)), atol=1e-6)


def test_no_more_examples_than_asked_for() -> None:
    for example in ("default", "libsvm"):
        subject = make("svm", example, fit_examples=20)
        assert subject.model.fit(TrainPosts(subject), seed=0)["examples"] == 20  # type: ignore[operator]
        assert torch.isfinite(subject.scores(subject.batch(range(5)))).all()


def test_pairs_are_held_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = make("svm", "libsvm").fitted()
    batch = subject.batch(range(POSTS))
    together = subject.scores(batch)
    monkeypatch.setattr("hashtag_core.models.svm.PAIR_NUMBERS", 5 * V * V)
    torch.testing.assert_close(subject.scores(batch), together)


def test_libsvm_takes_no_words() -> None:
    with pytest.raises(ConfigError, match="'tfidf' goes with 'linear'"):
        parse_options("svm", {"machine": "libsvm", "features": "tfidf"})


def test_gamma_is_libsvms_or_scikit_learns() -> None:
    vectors, tags = blobs(3)
    for gamma, expected in (("libsvm", 1 / 6), (None, 1 / (6 * vectors.var())), (0.3, 0.3)):
        machine = PairwiseMachine(6, "rbf")
        machine.fit(vectors, tags, SvmOptions(machine="libsvm", gamma=gamma))
        assert float(machine.gamma) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ConfigError, match="gamma"):
        parse_options("svm", {"gamma": -1.0})
