"""ML-kNN: a case worked by hand, and the article's algorithm written out as loops."""

from fractions import Fraction

import numpy as np
import torch

from hashtag_core.models.base import InputSpec
from hashtag_core.models.mlknn import Mlknn
from hashtag_core.models.registry import create_model, parse_options
from tests.models.small import batch_of
from tests.models.world import POSTS, TrainPosts, V, make, world


class Source:
    """Train posts of one image number pair each."""

    def __init__(self, vectors, tags):
        self.vectors, self.tags = vectors, tags
        self.vocabulary_size, self.posts = 2, len(tags)

    def batches(self, batch_size):
        yield posts_of(self.vectors), self.tags


def posts_of(vectors):
    """A batch whose images are those vectors."""
    batch = batch_of(InputSpec(vocabulary_size=2, image_dim=2, regions=1), images=[True] * len(vectors))
    batch.image_vector_BD.copy_(torch.tensor(vectors))
    return batch


def test_posteriors_by_hand():
    """Angles 0, 10, 20 carry tag 0; 80, 90 do not; k = 2, s = 1.

    Neighbours: of 0 -> 10, 20 (two carry); 10 -> 0, 20 (two); 20 -> 10, 0 (two); 80 -> 90, 20 (one); 90 -> 80, 20 (one).
    P(H_1) = (1 + 3) / (2 + 5) = 4/7; c_1 = [0, 0, 3], c_0 = [0, 2, 0].
    P(E_j | H_1) = [1, 1, 4] / 6; P(E_j | H_0) = [1, 3, 1] / 5.
    """
    degrees = [0, 10, 20, 80, 90]
    vectors = [[float(np.cos(np.radians(d))), float(np.sin(np.radians(d)))] for d in degrees]
    spec = InputSpec(vocabulary_size=2, image_dim=2, regions=1)
    model = create_model("mlknn", spec, parse_options("mlknn", {"inputs": ["image"], "neighbours": 2}))
    model.fit(Source(vectors, [[0], [0], [0], [], []]), seed=0)
    carries, not_carries = Fraction(4, 7), Fraction(3, 7)
    given_1, given_0 = [Fraction(n, 6) for n in (1, 1, 4)], [Fraction(n, 5) for n in (1, 3, 1)]
    expected = [
        float(carries * one / (carries * one + not_carries * zero)) for one, zero in zip(given_1, given_0, strict=True)
    ]
    np.testing.assert_allclose(model.posterior_JV[:, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(expected, [10 / 19, 10 / 37, 40 / 49], rtol=1e-6)
    np.testing.assert_allclose(model.prior_V, [4 / 7, 1 / 7], rtol=1e-6)
    scores = model.eval().score(posts_of([[1.0, 0.0], [0.0, 1.0], [0.7, 0.5]]))
    np.testing.assert_allclose(scores[:, 0], [40 / 49, 10 / 19, 40 / 49], rtol=1e-6)


def test_the_articles_loops_give_the_same():
    k, s = 5, 1.0
    subject = make("mlknn", inputs=["image"], smoothing=s).fitted()
    unit = world().arrays["image_vector"].astype(np.float32)
    unit = (unit / np.linalg.norm(unit, axis=1, keepdims=True)).astype(np.float16).astype(np.float64)
    labels = np.zeros((POSTS, V), dtype=bool)
    for row, tags in enumerate(world().tags):
        labels[row, tags] = True
    similar = unit @ unit.T
    expected = np.zeros((POSTS, V))
    for tag in range(V):
        counts = np.zeros((2, k + 1))
        for post in range(POSTS):
            others = [o for o in np.argsort(-similar[post]) if o != post][:k]
            counts[int(labels[post, tag]), labels[others, tag].sum()] += 1
        prior = (s + labels[:, tag].sum()) / (2 * s + POSTS)
        for post in range(POSTS):
            found = labels[np.argsort(-similar[post])[:k], tag].sum()
            one = prior * (s + counts[1, found]) / (s * (k + 1) + counts[1].sum())
            zero = (1 - prior) * (s + counts[0, found]) / (s * (k + 1) + counts[0].sum())
            expected[post, tag] = one / (one + zero)
    np.testing.assert_allclose(subject.scores(subject.batch(range(POSTS))), expected, atol=1e-5)


def test_copies_of_a_post_do_not_let_it_vote_for_itself():
    """Four posts that look the same: each has the other three as neighbours, whichever the search names first."""
    spec = InputSpec(vocabulary_size=2, image_dim=2, regions=1)
    model = create_model("mlknn", spec, parse_options("mlknn", {"inputs": ["image"], "neighbours": 3}))
    assert isinstance(model, Mlknn)
    model.fit(Source([[1.0, 0.0]] * 4, [[0], [], [], []]), seed=0)
    with_JV, without_JV = model._counts(np.arange(4))
    assert with_JV[:, 0].tolist() == [1, 0, 0, 0]
    assert without_JV[:, 0].tolist() == [0, 3, 0, 0]


def test_counting_over_a_part_of_the_posts():
    subject = make("mlknn", counted_posts=10)
    assert subject.model.fit(TrainPosts(subject), seed=0) == {"posts_kept": POSTS, "posts_counted": 10}
    scores = subject.scores(subject.batch(range(5)))
    assert ((scores > 0) & (scores < 1)).all()


def test_a_post_without_anything_takes_the_prior():
    subject = make("mlknn").fitted()
    scores = subject.scores(subject.batch([3], [False], [False]))
    torch.testing.assert_close(scores[0], subject.model.prior_V)
