"""Topics of captions."""

import numpy as np
import pytest
from sklearn.decomposition import LatentDirichletAllocation

from hashtag_core.models.topics import TopicModel
from tests.models.small import batch_of
from tests.models.two_topics import Captions


@pytest.fixture
def two_topics():
    """Captions of words 2-6 or of words 7-11, every third of them absent, word 12 in all of them."""
    random = np.random.default_rng(0)
    captions = []
    for index in range(300):
        low = 2 if index % 2 else 7
        captions.append(None if index % 3 == 0 else [12, *(int(w) for w in random.integers(low, low + 5, 6))])
    return Captions(captions, words=14)


def test_inference_is_scikit_learns(two_topics):
    """The same components, and `transform` on the same bags of words."""
    topics, words = 4, 14
    model = TopicModel(topics, words)
    model.fit(two_topics, seed=0, passes=2, max_share=1.0)
    oracle = LatentDirichletAllocation(topics, total_samples=200, random_state=0)
    bags = []
    for _ in range(2):
        for batch, _ in two_topics.batches(256):
            counts = np.array(
                [np.bincount(row[row > 0], minlength=words) for row in batch.token_ids_BT.numpy() if row.any()]
            )
            oracle.partial_fit(counts[:, 2:13])
            bags.append(counts)
    captions = [[2, 3, 3, 12], [7, 8], [2, 7, 12, 12, 11, 5], [12]]
    batch = batch_of(two_topics.spec, captions=captions)
    counts = np.array([np.bincount(row, minlength=words) for row in captions])[:, 2:13]
    found = model(batch.token_ids_BT, batch.token_mask_BT).numpy()
    np.testing.assert_allclose(found, oracle.transform(counts), atol=2e-4)


def test_topics_are_found_and_common_words_left_out(two_topics):
    model = TopicModel(2, 14)
    model.fit(two_topics, seed=0, passes=5, max_share=0.6)
    assert not model.words_KW[:, [0, 1, 12, 13]].any()
    batch = batch_of(two_topics.spec, captions=[[2, 3, 4], [7, 8, 9], [12], None])
    theta = model(batch.token_ids_BT, batch.token_mask_BT)
    assert theta[0].argmax() != theta[1].argmax()
    assert theta[:2].max(1).values.min() > 0.8
    np.testing.assert_allclose(theta[2:], 0.5)
    np.testing.assert_allclose(theta.sum(1), 1.0, rtol=1e-6)
