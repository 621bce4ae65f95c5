"""The train posts that a model keeps."""

import numpy as np
import pytest
import torch

from hashtag_core.models import post_memory as post_memory_module
from hashtag_core.models.post_memory import PostMemory


def test_blocks_are_searched_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 8)).astype(np.float32)
    memory = PostMemory(8, 3, sparse=False)
    memory.fill([(torch.from_numpy(vectors), torch.ones(50, dtype=torch.bool), [[]] * 50)], 50)
    query = rng.normal(size=(4, 8)).astype(np.float32)
    expected = np.argsort(-(query @ vectors.astype(np.float16).astype(np.float32).T), axis=1)
    monkeypatch.setattr(post_memory_module, "BLOCK_POSTS", 7)
    np.testing.assert_array_equal(memory.nearest(query, 9), expected[:, :9])
    np.testing.assert_array_equal(memory.nearest(query, 60)[:, :50], expected)
    assert (memory.nearest(query, 60)[:, 50:] == -1).all()
