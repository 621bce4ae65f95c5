"""What a model is given: `PostBatch`, what it is taught: `Targets`.

Shape legend, used all over `models/`, `training/` and `recommend/`:

    B  posts in the batch          V  tags of the vocabulary
    T  tokens of a caption         S  tokens the text encoder saw (its own word pieces)
    R  image regions (36)          L  tags of one post, padded; the end sign included
    H  posts of a history          D  features (D_t of text, D_v of image)

A model sees targets through `Targets` alone, which inference never builds: a target cannot leak into a score.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

END = 0
"""Index of the end-of-sequence sign in `Targets.sequence_BL` and in every decoder; tag v of the vocabulary is v + 1."""

PADDING = -100
"""Filler of `Targets.sequence_BL`; `cross_entropy(ignore_index=PADDING)` skips it."""

FEATURES = ("image_vector", "image_vector_second", "image_grid", "text_vector", "text_states", "tokens", "history")
"""Names a family may list in `needs`; each stands for the field or fields of `PostBatch` of that name."""


class _Tensors:
    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The same batch on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory, for asynchronous copies to a GPU."""
        return self._map(lambda tensor: tensor.pin_memory())

    def select(self, rows: slice) -> Self:
        """Some of the rows, of a batch that is tensors alone."""
        return self._map(lambda tensor: tensor[rows])

    def _map(self, move) -> Self:  # type: ignore[no-untyped-def]
        changed = {}
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                changed[item.name] = move(value)
            elif isinstance(value, _Tensors):
                changed[item.name] = value._map(move)
        return dataclasses.replace(self, **changed)  # type: ignore[type-var]


@dataclass(frozen=True)
class PostBatch(_Tensors):
    """Inputs of B posts. A field that the family did not ask for is None.

    Rows of an absent modality hold zeros and `*_present_B` is False there: a model replaces them by its own learned
    embedding of absence, and never reads the zeros as a picture or a text.
    """

    post_ids: list[str]
    user_ids: list[str | None]
    image_present_B: Tensor
    text_present_B: Tensor
    image_vector_BD: Tensor | None = None
    """float32; pooled output of the image encoder."""
    image_vector_second_BD: Tensor | None = None
    """float32; pooled output of the second image encoder (`encoders.image_second`)."""
    image_grid_BRD: Tensor | None = None
    """float32; one feature a region."""
    boxes_BR4: Tensor | None = None
    """float32; x0, y0, x1, y1 of each region in [0, 1]."""
    text_vector_BD: Tensor | None = None
    """float32; pooled output of the text encoder."""
    text_states_BSD: Tensor | None = None
    """float32; the text encoder's token vectors."""
    text_states_mask_BS: Tensor | None = None
    """bool; True where there is a token."""
    token_ids_BT: Tensor | None = None
    """int64; ids of the family's own tokenizer, padded with its pad id."""
    token_mask_BT: Tensor | None = None
    """bool; True where there is a token. A row of an absent caption is all False."""
    image_trunk_BXC: Tensor | None = None
    """float32; what the frozen part of an image encoder gives, whose last blocks are trained."""
    text_trunk_BSD: Tensor | None = None
    """float32; the same of a text encoder."""
    text_trunk_mask_BS: Tensor | None = None
    """bool; True where there is a token."""
    captions: list[str | None] = field(default_factory=list)
    """Cleaned captions, for families that read text themselves (TF-IDF)."""
    history: "HistoryBatch | None" = None

    def __len__(self) -> int:
        return len(self.post_ids)


@dataclass(frozen=True)
class HistoryBatch(_Tensors):
    """Up to H other posts of each post's user, newest first; H, and L of the tags, are as wide as the batch needs.

    Vectors and presence flags are there where the family's `needs` name `image_vector`, `text_vector` beside `history`.
    """

    mask_BH: Tensor
    """bool; True where there is a post."""
    tags_BHL: Tensor
    """int64; vocabulary indices of their tags, in the author's order, filled with -1."""
    image_vector_BHD: Tensor | None = None
    """float32; zeros where the post has no image."""
    text_vector_BHD: Tensor | None = None
    """float32; zeros where the post has no caption."""
    image_present_BH: Tensor | None = None
    """bool; given with `image_vector_BHD`."""
    text_present_BH: Tensor | None = None
    """bool; given with `text_vector_BHD`."""


@dataclass(frozen=True)
class Targets(_Tensors):
    """What B posts were really tagged with, inside the vocabulary."""

    labels_BV: Tensor
    """float32 multi-hot."""
    sequence_BL: Tensor
    """int64; `tag index + 1` in the order asked for, then END, then PADDING."""


def make_targets(tags: list[list[int]], vocabulary_size: int, max_tags: int = 30) -> Targets:
    """Targets from each post's vocabulary indices, in order; a repeated tag counts once.

    `labels_BV` holds all of them, `sequence_BL` the first `max_tags`.
    """
    unique = [list(dict.fromkeys(row)) for row in tags]
    labels_BV = torch.zeros(len(unique), vocabulary_size)
    longest = max((min(len(row), max_tags) for row in unique), default=0) + 1
    sequence_BL = torch.full((len(unique), longest), PADDING, dtype=torch.int64)
    for b, row in enumerate(unique):
        labels_BV[b, row] = 1.0
        kept = row[:max_tags]
        sequence_BL[b, : len(kept)] = torch.tensor(kept, dtype=torch.int64) + 1
        sequence_BL[b, len(kept)] = END
    return Targets(labels_BV=labels_BV, sequence_BL=sequence_BL)


@dataclass
class FeaturizedPosts:
    """Features of n posts, row-aligned, as they come out of the encoders, a cache or a memory map.

    `arrays` holds, under the names of `FEATURES`: `image_vector` [n, D_v], `image_vector_second` [n, D_v of the second
    encoder], `image_grid` [n, R, D_v], `boxes` [n, R, 4] or [R, 4], `text_vector` [n, D_t], `text_states` [n, S, D_t] with `text_states_mask` [n, S]. Values are float16
    (masks bool); rows of an absent modality are zeros.
    """

    post_ids: list[str]
    user_ids: list[str | None]
    captions: list[str | None]
    image_present: np.ndarray
    text_present: np.ndarray
    arrays: dict[str, np.ndarray]
    history: "HistoryBatch | None" = None


class Tokenizer(Protocol):
    """Captions to ids; see `hashtag_core.data.tokens`."""

    def encode(self, captions: list[str | None]) -> tuple[Tensor, Tensor]:
        """ids_BT int64 and mask_BT bool; an absent caption is a row of padding."""
        ...


def collate(
    posts: FeaturizedPosts,
    needs: frozenset[str],
    tokenizer: Tokenizer | None = None,
    inputs: Sequence[str] = ("image", "caption", "history"),
    history: "HistoryBatch | None" = None,
) -> PostBatch:
    """The batch of those posts with the features in `needs`; a modality not in `inputs` is absent on every row.

    `history` stands in for the posts' own.
    """
    sees_image, sees_text = "image" in inputs, "caption" in inputs
    arrays = posts.arrays
    values: dict[str, Tensor] = {}
    image_present = np.asarray(posts.image_present, dtype=bool) & sees_image
    text_present = np.asarray(posts.text_present, dtype=bool) & sees_text

    def tensor(name: str, present: np.ndarray) -> Tensor:
        value = np.array(arrays[name], dtype=np.float32)
        value[~present] = 0.0
        return torch.from_numpy(value)

    if "image_vector" in needs:
        values["image_vector_BD"] = tensor("image_vector", image_present)
    if "image_vector_second" in needs:
        values["image_vector_second_BD"] = tensor("image_vector_second", image_present)
    if "image_grid" in needs:
        values["image_grid_BRD"] = tensor("image_grid", image_present)
        values["boxes_BR4"] = _boxes(arrays["boxes"], len(posts.post_ids))
    if "text_vector" in needs:
        values["text_vector_BD"] = tensor("text_vector", text_present)
    if "text_states" in needs:
        values["text_states_BSD"] = tensor("text_states", text_present)
        values["text_states_mask_BS"] = torch.from_numpy(
            np.array(arrays["text_states_mask"], dtype=bool) & text_present[:, None]
        )
    if "image_trunk" in needs:
        values["image_trunk_BXC"] = tensor("image_trunk", image_present)
    if "text_trunk" in needs:
        values["text_trunk_BSD"] = tensor("text_trunk", text_present)
        values["text_trunk_mask_BS"] = torch.from_numpy(
            np.array(arrays["text_trunk_mask"], dtype=bool) & text_present[:, None]
        )
    if "image_grid" not in needs and "image_trunk" in needs and "boxes" in arrays:
        values["boxes_BR4"] = _boxes(arrays["boxes"], len(posts.post_ids))
    captions = [caption if seen else None for caption, seen in zip(posts.captions, text_present, strict=True)]
    if "tokens" in needs:
        if tokenizer is None:
            raise ValueError("a family that needs `tokens` needs a tokenizer")
        values["token_ids_BT"], values["token_mask_BT"] = tokenizer.encode(captions)
    return PostBatch(
        post_ids=list(posts.post_ids),
        user_ids=list(posts.user_ids),
        image_present_B=torch.from_numpy(image_present.copy()),
        text_present_B=torch.from_numpy(text_present.copy()),
        captions=captions,
        history=_seen_history(history or posts.history, inputs) if "history" in needs else None,
        **values,
    )


def _boxes(boxes: np.ndarray, n: int) -> Tensor:
    """[n, R, 4], of boxes of each image or of those that all share."""
    boxes = np.asarray(boxes, dtype=np.float32)
    return torch.from_numpy(np.array(boxes if boxes.ndim == 3 else np.broadcast_to(boxes, (n, *boxes.shape))))


def _seen_history(history: HistoryBatch | None, inputs: Sequence[str]) -> HistoryBatch | None:
    """What a model of those inputs sees of a history: a modality taken away is absent on its posts too."""
    if history is None or "history" not in inputs:
        return None
    changes: dict[str, Tensor] = {}
    for modality, name in (("image", "image"), ("caption", "text")):
        vector, present = getattr(history, f"{name}_vector_BHD"), getattr(history, f"{name}_present_BH")
        if modality not in inputs and vector is not None and present is not None:
            changes |= {f"{name}_vector_BHD": torch.zeros_like(vector), f"{name}_present_BH": torch.zeros_like(present)}
    return dataclasses.replace(history, **changes)
