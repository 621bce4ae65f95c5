"""Batches of a few posts written out by hand, for tests of one family's equations."""

from collections.abc import Sequence
from pathlib import Path

import torch

from hashtag_core.config import read_recipe
from hashtag_core.data.batches import PostBatch
from hashtag_core.models import InputSpec, create_model

RECIPES = Path(__file__).parents[2] / "jobs" / "recipes"


def batch_of(
    spec: InputSpec, captions: Sequence[list[int] | None] | None = None, images: Sequence[bool] | None = None
) -> PostBatch:
    """Posts with those token ids (None: no caption) and with random features where there is an image."""
    posts = len(captions if captions is not None else images or ())
    rows = [caption or [] for caption in captions or [None] * posts]
    longest = max(1, *map(len, rows), 1)
    ids_BT = torch.tensor([row + [spec.pad_token_id] * (longest - len(row)) for row in rows])
    mask_BT = torch.tensor([[t < len(row) for t in range(longest)] for row in rows])
    present_B = torch.tensor(images or [False] * posts)
    random = torch.Generator().manual_seed(1)
    grid_BRD = torch.randn(posts, spec.regions, spec.image_dim, generator=random) * present_B[:, None, None]
    return PostBatch(
        post_ids=[str(post) for post in range(posts)],
        user_ids=[None] * posts,
        image_present_B=present_B,
        text_present_B=mask_BT.any(1),
        image_vector_BD=torch.randn(posts, spec.image_dim, generator=random) * present_B[:, None],
        image_grid_BRD=grid_BRD,
        image_vector_second_BD=torch.randn(posts, spec.image_second_dim, generator=random) * present_B[:, None],
        token_ids_BT=ids_BT,
        token_mask_BT=mask_BT,
    )


def assert_paper_parameters(family: str, spec: InputSpec, expected: int) -> None:
    """The recipe `<family>.toml` makes a model of that many parameters, and says so."""
    path = RECIPES / f"{family}.toml"
    model = create_model(family, spec, read_recipe(path).model.options)
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == expected
    assert f"{expected:,} parameters" in path.read_text(encoding="utf-8")
