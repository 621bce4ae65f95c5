"""TAB-LSTM's topical attention in NumPy; its topic vectors against scikit-learn."""

import numpy as np
import pytest
import torch

from hashtag_core.models.base import InputSpec
from hashtag_core.models.registry import create_model
from hashtag_core.models.tab_lstm import TopicalAttention
from tests.models.small import assert_paper_parameters, batch_of
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


def test_topical_attention_is_the_papers():
    torch.manual_seed(0)
    attention = TopicalAttention(topics=3, size=4)
    h, theta = torch.randn(1, 5, 4), torch.tensor([[0.2, 0.5, 0.3]])
    mask = torch.tensor([[True, True, True, False, False]])
    vec, a = attention(h, theta, mask)
    W, U, v = (
        p.detach().double().numpy() for p in (attention.topics.weight, attention.words.weight, attention.score.weight)
    )
    states = h[0, :3].double().numpy()
    g = np.array([(v @ np.tanh(W @ theta[0].double().numpy() + U @ h_j))[0] for h_j in states])
    expected = np.exp(g) / np.exp(g).sum()
    np.testing.assert_allclose(a[0, :3].detach(), expected, atol=1e-6)
    np.testing.assert_allclose(vec[0].detach(), expected @ states, atol=1e-6)
    assert not a[0, 3:].any()


def test_no_captions_leave_topics_uniform():
    model = create_model("tab_lstm", InputSpec(vocabulary_size=2, token_vocabulary_size=5), {"topics": 3})
    model.prepare(Captions([None, None], words=5), seed=0)
    ids = torch.tensor([[2, 3]])
    np.testing.assert_allclose(
        model.topic_model(ids, torch.ones(1, 2, dtype=torch.bool)), np.full((1, 3), 1 / 3), rtol=1e-5
    )


def test_the_fitted_topics_are_saved_weights(two_topics):
    options = {"topics": 2, "topic_passes": 1, "embedding": 3, "hidden": 3}
    model = create_model("tab_lstm", two_topics.spec, options)
    model.prepare(two_topics, seed=0)
    again = create_model("tab_lstm", two_topics.spec, options)
    again.load_state_dict(model.state_dict())
    batch = batch_of(two_topics.spec, captions=[[2, 3], None])
    torch.testing.assert_close(model.eval().score(batch), again.eval().score(batch))


def test_parameters_of_the_paper_recipe():
    spec = InputSpec(vocabulary_size=500, token_vocabulary_size=20_000)
    words, lstm = 20_000 * 300, 4 * (300 * 300 + 300 * 300 + 2 * 300)
    attention = 300 * 100 + 300 * 300 + 300
    assert_paper_parameters("tab_lstm", spec, words + lstm + 300 + attention + 300 * 500 + 500)
    assert create_model("tab_lstm", spec).topic_model.words_KW.shape == (100, 20_000)
