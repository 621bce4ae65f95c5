"""Neighbour voting by hand and in NumPy; the search of the post memory against a plain matrix product."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfTransformer

from hashtag_core.errors import ConfigError
from hashtag_core.models import create_model, parse_options
from hashtag_core.models.amnn import Amnn
from hashtag_core.models.neighbor_voting import TINY_AMNN, NeighborVoting
from hashtag_core.models.post_memory import PostMemory
from tests.models.world import POSTS, Subject, TrainPosts, V, make, world


def memory_of(vectors: list[list[float]], tags: list[list[int]], sparse: bool = False) -> PostMemory:
    memory = PostMemory(len(vectors[0]), 3, sparse=sparse)
    rows = torch.tensor(vectors)
    memory.fill(
        [(rows[:2], torch.ones(2, dtype=torch.bool), tags[:2]), (rows[2:], rows[2:].any(1), tags[2:])], len(rows)
    )
    return memory


@pytest.mark.parametrize("sparse", [False, True])
def test_votes_by_hand(sparse: bool) -> None:
    """Five posts, the last unknown: tags 0 and 1 on the right, tag 2 on top; k = 2."""
    memory = memory_of([[1, 0], [0.8, 0.6], [0, 1], [0.6, 0.8], [0, 0]], [[0], [0, 1], [2], [], [1]], sparse)
    assert len(memory) == 4
    assert memory.shares().tolist() == [0.5, 0.25, 0.25]
    query = torch.tensor([[1.0, 0.1], [0.0, 1.0], [0.0, 0.0]])
    votes, voters = memory.votes_of_nearest(query, query.any(1), 2)
    assert votes.tolist() == [[2, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert voters.tolist() == [2, 2, 0]


def test_the_score_is_the_papers_relevance() -> None:
    """(votes - k prior) / k, brought from [-1, 1] to [0, 1]; neighbours from a plain matrix product."""
    subject = make("neighbor_voting", "image", neighbours=7).fitted()
    unit = world().arrays["image_vector"].astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    labels = np.zeros((POSTS, V))
    for row, tags in enumerate(world().tags):
        labels[row, tags] = 1
    nearest = np.argsort(-(unit @ unit.astype(np.float16).astype(np.float32).T), axis=1)[:, :7]
    relevance = labels[nearest].sum(1) - 7 * labels.mean(0)
    found = subject.scores(subject.batch(range(POSTS)))
    np.testing.assert_allclose(found, (relevance / 7 + 1) / 2, atol=1e-6)
    blind = subject.scores(subject.batch([0], [False]))
    np.testing.assert_allclose(blind[0], (labels.mean(0) + 1) / 2, atol=1e-6)


def test_the_memory_stays_on_the_cpu_in_float16() -> None:
    memory = memory_of([[1, 0], [0, 1], [1, 1]], [[0], [1], [2]])
    memory.to(torch.float64)
    assert memory.vectors_ND.dtype == torch.float16
    assert memory.vectors_ND.element_size() * memory.vectors_ND.numel() == 2 * 3 * 2


def test_words_are_weighed_as_scikit_learn_does() -> None:
    subject = make("neighbor_voting", "tfidf").fitted()
    assert isinstance(subject.model, NeighborVoting)
    batch = subject.batch(range(POSTS))
    vectors, known = subject.model.vectors(batch)
    assert known.all()
    counts = np.zeros((POSTS, subject.spec.token_vocabulary_size))
    assert batch.token_ids_BT is not None
    assert batch.token_mask_BT is not None
    for row, (ids, mask) in enumerate(zip(batch.token_ids_BT, batch.token_mask_BT, strict=True)):
        np.add.at(counts[row], ids[mask].numpy(), 1)
    np.testing.assert_allclose(vectors, TfidfTransformer().fit_transform(csr_matrix(counts)).toarray(), atol=1e-6)
    _, known = subject.model.vectors(subject.batch([0, 1], caption=[True, False]))
    assert known.tolist() == [True, False]


def built_on(base: Subject) -> Subject:
    """Neighbour voting on that AMNN."""
    options = NeighborVoting.on_base(
        parse_options("neighbor_voting", {"features": "amnn", "amnn_model": "somewhere", "neighbours": 5}), base.model
    )
    model = create_model("neighbor_voting", base.spec, options)
    assert isinstance(model, NeighborVoting)
    model.take_base(base.model)
    return Subject(model, options, base.spec, base.tokenizer)


def test_amnn_becomes_a_part_of_the_model() -> None:
    base = make("amnn", seed=5)
    base.model.eval()
    assert isinstance(base.model, Amnn)
    subject = built_on(base)
    assert isinstance(subject.model, NeighborVoting)
    assert subject.needs == base.needs
    assert subject.model.tokenizer(subject.options) == base.model.tokenizer(base.options)
    subject.model.fit(TrainPosts(subject), seed=0)
    batch = subject.batch(range(POSTS), [True, False] * 32, [True, True, False, False] * 16)
    expected = torch.nn.functional.normalize(base.model.features(batch), dim=1)
    torch.testing.assert_close(subject.model.vectors(batch)[0], expected)
    assert not [key for key in subject.model.state_dict() if "output" in key or "cell" in key]


def test_amnn_has_to_be_one_and_be_named() -> None:
    options = parse_options("neighbor_voting", {"features": "amnn"})
    with pytest.raises(ConfigError, match=r"set model\.amnn_model"):
        NeighborVoting.base_model(options)
    with pytest.raises(ConfigError, match="'amnn' expected, found 'nic'"):
        NeighborVoting.on_base(options, make("nic").model)
    with pytest.raises(ConfigError, match=r"reads \['image'\] alone"):
        NeighborVoting.on_base(
            parse_options("neighbor_voting", {"features": "amnn", "inputs": ["caption"]}), make("amnn", "image").model
        )
    with pytest.raises(ConfigError, match="inputs must name 'caption'"):
        parse_options("neighbor_voting", {"features": "tfidf", "inputs": ["image"]})
    assert NeighborVoting.base_model(parse_options("neighbor_voting", {"amnn": TINY_AMNN})) is None
