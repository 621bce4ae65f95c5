"""`popularity` by hand."""

import numpy as np

from tests.models.world import POSTS, TAGS, TrainPosts, V, make, world


def labels() -> np.ndarray:
    wanted = np.zeros((POSTS, V))
    for row, tags in enumerate(world().tags):
        wanted[row, tags] = 1
    return wanted


def test_popularity_is_the_share_of_posts() -> None:
    subject = make("popularity").fitted()
    scores = subject.scores(subject.batch([1, 2]))
    np.testing.assert_allclose(scores.numpy(), np.tile(labels().mean(axis=0), (2, 1)), rtol=1e-6)
    assert len(TAGS) == V


def test_popularity_counts_a_repeated_tag_once() -> None:
    class Repeats(TrainPosts):
        posts = 2

        def batches(self, batch_size: int):  # type: ignore[no-untyped-def]
            yield self.subject.batch([0, 1]), [[3, 3, 3], []]

    subject = make("popularity")
    subject.model.fit(Repeats(subject), seed=0)  # type: ignore[operator]
    assert subject.scores(subject.batch([0]))[0, 3] == 0.5
