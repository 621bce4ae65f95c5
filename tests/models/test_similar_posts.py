"""Posts of other users that are like a post: exact and approximate search."""

import pytest
import torch

from hashtag_core.models import similar_posts
from hashtag_core.models.regression_kriging import RegressionKriging
from hashtag_core.models.similar_posts import Neighbours, owners
from tests.models.world import Subject, TrainPosts, make


def units(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def fitted(**changes: object) -> tuple[Subject, RegressionKriging]:
    subject = make("regression_kriging", **changes).fitted()
    assert isinstance(subject.model, RegressionKriging)
    return subject, subject.model


def test_neighbours_are_the_nearest_of_other_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, owner = units(300, 8), torch.arange(300) % 20
    vectors[7] = 0
    kept = Neighbours(8)
    kept.keep(vectors, owner, [[post % 5, 5] for post in range(300)], [f"post {post}" for post in range(300)])
    assert len(kept) == 299
    query, asking = units(6, 8, seed=4), torch.arange(6)
    query[5] = 0
    rows, cosine = kept.nearest(query, asking, 4)
    products = (query @ kept.vectors_ND.float().t()).masked_fill(asking[:, None] == kept.owner_N, -9)
    torch.testing.assert_close(rows[:5], products.topk(4).indices[:5])
    torch.testing.assert_close(cosine[:5], products.topk(4).values[:5])
    assert (rows[5] == -1).all()
    assert kept.post_ids[7] == "post 8"  # post 7 has no vector
    assert kept.tags_of(rows)[0, 0].tolist() == [int(rows[0, 0] + (rows[0, 0] >= 7)) % 5, 5]
    monkeypatch.setattr(similar_posts, "EXACT_POSTS", 100)
    kept.keep(vectors, owner, [[0]] * 300, [""] * 300)
    found, _ = kept.nearest(query, asking, 4)
    assert (kept.owner_N[found[:5]] != asking[:5, None]).all()
    shared = [len(set(a) & set(b)) for a, b in zip(found[:5].tolist(), rows[:5].tolist(), strict=True)]
    assert sum(shared) >= 15  # of 20: an inverted file looks into some of its lists


def test_a_user_s_own_posts_are_never_its_neighbours_while_fitting() -> None:
    subject, model = fitted()
    for batch, _ in TrainPosts(subject).batches(16):
        reading = model.read(batch)
        mine_B1 = owners(batch)[:, None]
        assert (model.neighbours.owner_N[reading.rows_BK.clamp(min=0)] != mine_B1).all()


@pytest.mark.parametrize("exact_posts", [100_000, 100])
def test_columns_that_no_post_has_are_not_read(exact_posts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No post kept has a picture; the one that asks has. Later all have."""
    monkeypatch.setattr(similar_posts, "EXACT_POSTS", exact_posts)
    monkeypatch.setattr(similar_posts, "PROBED_LISTS", 1000)
    vectors, owner, query = units(300, 8), torch.arange(300), units(6, 8, seed=4)
    kept = Neighbours(8)
    for width in (3, 8):
        vectors[:, :width] = units(300, width, seed=width)
        vectors[:, width:] = 0
        kept.keep(vectors, owner, [[0]] * 300, [""] * 300)
        rows, cosine = kept.nearest(query, torch.full((6,), -5), 4)
        assert len(kept._prepared()[0]) == width
        products = query @ kept.vectors_ND.float().t()
        expected = products.topk(4)
        torch.testing.assert_close(cosine, expected.values, atol=1e-6 if exact_posts > 300 else 0.02, rtol=0)
        if exact_posts > 300:
            assert torch.equal(rows, expected.indices)
