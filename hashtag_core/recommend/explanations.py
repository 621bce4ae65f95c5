"""Why a post is given its tags, as a column beside the tags: parts of each tag's logit, which add up to it."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import pyarrow as pa
import torch

from hashtag_core.data.batches import PostBatch
from hashtag_core.models.base import TagModel
from hashtag_core.models.explanation import Explanation

FROM_POST = pa.struct([("post_id", pa.string()), ("amount", pa.float32())])
EXPLAINED = pa.struct(
    [
        ("hashtag", pa.string()),
        ("base", pa.float32()),
        ("image", pa.float32()),
        ("caption", pa.float32()),
        ("tag_text", pa.float32()),
        ("history", pa.list_(FROM_POST)),
        ("neighbours", pa.list_(FROM_POST)),
    ]
)
"""One tag of a post. The score is 1 / (1 + exp(-sum of all amounts)); null is what the model does not read. Posts are those of
the user's history and those of other users that were learned from, the weightiest first, those without an amount left out."""


class ExplainedPost(TypedDict):
    """A value of FROM_POST."""

    post_id: str
    amount: float


class ExplainedTag(TypedDict):
    """A value of EXPLAINED."""

    hashtag: str
    base: float
    image: float | None
    caption: float | None
    tag_text: float | None
    history: list[ExplainedPost]
    neighbours: list[ExplainedPost]


def explained(
    model: TagModel, batch: PostBatch, indices_BK: np.ndarray, tags: Sequence[str], past: Sequence[Sequence[str]]
) -> list[list[ExplainedTag]]:
    """Of each post, of each of its tags (vocabulary indices, best first), a value of EXPLAINED. `past`: the post ids of
    each post's history, newest first."""
    with torch.inference_mode():
        found = model.explain(batch, torch.from_numpy(indices_BK).to(batch.image_present_B.device))
    return [
        [_tag(found, post, position, tags[index], past[post]) for position, index in enumerate(row)]
        for post, row in enumerate(indices_BK.tolist())
    ]


def _tag(found: Explanation, post: int, index: int, tag: str, past: Sequence[str]) -> ExplainedTag:
    parts = {name: float(values[post, index]) for name, values in found.parts_BT.items()}
    return {
        "hashtag": tag,
        "base": float(found.base_BT[post, index]),
        "image": parts.get("image"),
        "caption": parts.get("caption"),
        "tag_text": parts.get("tag_text"),
        "history": _posts(past, found.history_BTH[post, index].tolist()),
        "neighbours": _posts(found.neighbour_ids[post], found.neighbours_BTK[post, index].tolist()),
    }


def _posts(ids: Sequence[str], amounts: Sequence[float]) -> list[ExplainedPost]:
    pairs = [(name, amount) for name, amount in zip(ids, amounts, strict=False) if amount]
    return [{"post_id": name, "amount": amount} for name, amount in sorted(pairs, key=lambda pair: -abs(pair[1]))]
