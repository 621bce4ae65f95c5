"""A small world of posts that every family can be tried on: 12 tags, each with a word, an image and a text direction.

What a post shows, says and is tagged with agree, so that any modality is enough to learn from. Presence can be set for
each row; `spoiled` fills whatever a model must not read with noise.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from hashtag_core.data.batches import FeaturizedPosts, HistoryBatch, PostBatch, Targets, collate, make_targets
from hashtag_core.data.tokens import CaptionTokenizer
from hashtag_core.data.vocabulary import Vocabulary
from hashtag_core.models import FittedModel, InputSpec, TagModel, create_model, family, list_models, parse_options
from hashtag_core.models.base import ModelOptions

TAGS = ["cat", "dog", "boat", "tree", "star", "moon", "fish", "bird", "car", "house", "cake", "king"]
FILLERS = ["a", "picture", "of", "the", "old", "small", "with", "funny"]
V, POSTS, USERS, H = len(TAGS), 64, 6, 3
IMAGE_DIM, SECOND_DIM, TEXT_DIM, SIDE, STATES = 24, 10, 16, 3, 9
VOCABULARY = Vocabulary(TAGS, np.arange(V, 0, -1) * 5, posts=POSTS)


@dataclass(frozen=True)
class World:
    captions: list[str]
    tags: list[list[int]]
    users: list[str]
    arrays: dict[str, np.ndarray]


@cache
def world() -> World:
    """The posts; every fifth has no tag of the vocabulary. Features are float16 as from the encoders."""
    rng = np.random.default_rng(0)
    shown, said = rng.normal(size=(V, IMAGE_DIM)), rng.normal(size=(V, TEXT_DIM))
    boxes = np.array([[x, y, x + 1, y + 1] for y in range(SIDE) for x in range(SIDE)]) / SIDE
    grid = rng.normal(size=(POSTS, SIDE * SIDE, IMAGE_DIM)) * 0.1
    states = rng.normal(size=(POSTS, STATES, TEXT_DIM)) * 0.1
    mask = np.zeros((POSTS, STATES), dtype=bool)
    captions, tags = [], []
    for post in range(POSTS):
        chosen = rng.choice(V, size=1 + post % 3, replace=False, p=np.arange(V, 0, -1) / np.arange(V + 1).sum())
        words = [TAGS[tag] for tag in chosen] + list(rng.choice(FILLERS, size=1 + post % 4))
        rng.shuffle(words)
        captions.append(" ".join(words))
        for tag in chosen:
            grid[post, rng.choice(SIDE * SIDE, size=3, replace=False)] += shown[tag]
            states[post, : len(words)] += said[tag]
        mask[post, : len(words)] = True
        tags.append([] if post % 5 == 4 else [int(tag) for tag in chosen])
    states[~mask] = 0
    arrays = {
        "image_grid": grid,
        "image_vector": grid.mean(1),
        "image_vector_second": grid.max(1)[:, -SECOND_DIM:],
        "text_states": states,
        "text_vector": states.sum(1) / mask.sum(1, keepdims=True),
    }
    arrays = {name: value.astype(np.float16) for name, value in arrays.items()}
    arrays |= {"boxes": boxes.astype(np.float16), "text_states_mask": mask}
    return World(captions, tags, [f"user-{post % USERS}" for post in range(POSTS)], arrays)


@cache
def wordpiece_file() -> Path:
    """A `tokenizer.json` such as a BERT has, with the world's words."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *FILLERS, *(tag for tag in TAGS if len(tag) < 5), "##e", "hous"]
    tokenizer = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    path = Path(mkdtemp()) / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@dataclass
class Subject:
    """A family with one of its examples, built for the world. `model` is new; `fit` or train it."""

    model: TagModel
    options: ModelOptions
    spec: InputSpec
    tokenizer: CaptionTokenizer | None

    @property
    def needs(self) -> frozenset[str]:
        return self.model.needs(self.options)

    def batch(
        self,
        rows: Sequence[int],
        image: Sequence[bool] | None = None,
        caption: Sequence[bool] | None = None,
        history: bool = True,
    ) -> PostBatch:
        """Those posts; `image` and `caption` say which rows have one (None: all)."""
        here, n = world(), len(rows)
        index = np.asarray(rows)
        arrays = {name: value if name == "boxes" else value[index] for name, value in here.arrays.items()}
        shows = np.ones(n, dtype=bool) if image is None else np.asarray(image, dtype=bool)
        says = np.ones(n, dtype=bool) if caption is None else np.asarray(caption, dtype=bool)
        posts = FeaturizedPosts(
            [f"post-{row}" for row in rows],
            [here.users[row] for row in rows],
            [here.captions[row] if seen else None for row, seen in zip(rows, says, strict=True)],
            shows,
            says,
            arrays,
        )
        past = history_of(rows) if history else empty_history(n)
        return collate(posts, self.needs, self.tokenizer, self.options.inputs, past)

    def fitted(self) -> "Subject":
        """Itself, with a fitted family fitted on the whole world."""
        if isinstance(self.model, FittedModel):
            self.model.fit(TrainPosts(self), seed=0)
        self.model.eval()
        return self

    def scores(self, batch: PostBatch) -> Tensor:
        self.model.eval()
        with torch.inference_mode():
            return self.model.score(batch)


class TrainPosts:
    """The world as a `FitSource`."""

    vocabulary_size = V
    posts = POSTS

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def batches(self, batch_size: int) -> Iterator[tuple[PostBatch, list[list[int]]]]:
        for start in range(0, POSTS, batch_size):
            rows = range(start, min(start + batch_size, POSTS))
            yield self.subject.batch(rows), [world().tags[row] for row in rows]


def history_of(rows: Sequence[int]) -> HistoryBatch:
    """Up to H earlier posts of the same user, newest first; some of them without image, some without caption."""
    here = world()
    past = [[other for other in range(row - 1, -1, -1) if here.users[other] == here.users[row]][:H] for row in rows]
    history = empty_history(len(rows))
    assert history.image_present_BH is not None
    assert history.text_present_BH is not None
    assert history.image_vector_BHD is not None
    assert history.text_vector_BHD is not None
    for b, others in enumerate(past):
        for h, other in enumerate(others):
            history.mask_BH[b, h] = True
            kept = here.tags[other]
            history.tags_BHL[b, h, : len(kept)] = torch.tensor(kept, dtype=torch.int64)
            history.image_present_BH[b, h] = other % 4 != 3
            history.text_present_BH[b, h] = other % 7 != 6
            if other % 4 != 3:
                vector = here.arrays["image_vector"][other].astype(np.float32)
                history.image_vector_BHD[b, h] = torch.from_numpy(vector)
            if other % 7 != 6:
                vector = here.arrays["text_vector"][other].astype(np.float32)
                history.text_vector_BHD[b, h] = torch.from_numpy(vector)
    return history


def empty_history(n: int) -> HistoryBatch:
    return HistoryBatch(
        mask_BH=torch.zeros(n, H, dtype=torch.bool),
        tags_BHL=torch.full((n, H, 3), -1),
        image_vector_BHD=torch.zeros(n, H, IMAGE_DIM),
        text_vector_BHD=torch.zeros(n, H, TEXT_DIM),
        image_present_BH=torch.zeros(n, H, dtype=torch.bool),
        text_present_BH=torch.zeros(n, H, dtype=torch.bool),
    )


def cases() -> list[tuple[str, str]]:
    """(family, example) of everything that is registered."""
    return [(name, example) for name in list_models() for example in family(name).examples]


def make(name: str, example: str = "default", seed: int = 0, **changes: Any) -> Subject:
    """A new model of a family for the world."""
    return build(name, {**family(name).examples[example], **changes}, seed)


def build(name: str, values: Mapping[str, Any], seed: int = 0) -> Subject:
    cls, options = family(name), parse_options(name, values)
    wanted = cls.tokenizer(options)
    tokenizer = None
    if wanted is not None and wanted.kind == "words":
        tokenizer = CaptionTokenizer.build_words(world().captions, wanted)
    elif wanted is not None:
        tokenizer = CaptionTokenizer.from_file(wordpiece_file(), wanted.max_tokens)
    spec = InputSpec(
        vocabulary_size=V,
        image_dim=IMAGE_DIM,
        image_second_dim=SECOND_DIM,
        text_dim=TEXT_DIM,
        regions=SIDE * SIDE,
        token_vocabulary_size=tokenizer.size if tokenizer else 0,
        pad_token_id=tokenizer.pad_id if tokenizer else 0,
        max_tokens=tokenizer.max_tokens if tokenizer else 0,
    )
    torch.manual_seed(seed)
    return Subject(create_model(name, spec, options, TAGS), options, spec, tokenizer)


def targets(rows: Sequence[int]) -> Targets:
    return make_targets([world().tags[row] for row in rows], V)


def spoiled(batch: PostBatch, subject: Subject, extra: int = 0) -> PostBatch:
    """The same posts with noise wherever a mask or a presence flag says that there is nothing, and `extra` more columns of it."""
    rng = torch.Generator().manual_seed(9)
    changes: dict[str, Any] = {}

    def noise(shape: Sequence[int]) -> Tensor:
        return torch.randn(*shape, generator=rng) * 100

    def widened(value: Tensor, filler: Tensor) -> Tensor:
        return torch.cat([value, filler], dim=1)

    for name, present in (
        ("image_vector_BD", batch.image_present_B),
        ("image_vector_second_BD", batch.image_present_B),
        ("image_grid_BRD", batch.image_present_B),
        ("text_vector_BD", batch.text_present_B),
    ):
        value = getattr(batch, name)
        if value is not None:
            changes[name] = torch.where(present.reshape(-1, *[1] * (value.ndim - 1)), value, noise(value.shape))
    if batch.text_states_BSD is not None and batch.text_states_mask_BS is not None:
        b, _, d = batch.text_states_BSD.shape
        mask = widened(batch.text_states_mask_BS, torch.zeros(b, extra, dtype=torch.bool))
        states = widened(batch.text_states_BSD, torch.zeros(b, extra, d))
        changes["text_states_BSD"] = torch.where(mask[..., None], states, noise(states.shape))
        changes["text_states_mask_BS"] = mask
    if batch.token_ids_BT is not None and batch.token_mask_BT is not None:
        b = len(batch)
        mask = widened(batch.token_mask_BT, torch.zeros(b, extra, dtype=torch.bool))
        ids = widened(batch.token_ids_BT, torch.zeros(b, extra, dtype=torch.int64))
        wrong = torch.randint(0, subject.spec.token_vocabulary_size, ids.shape, generator=rng)
        changes["token_ids_BT"], changes["token_mask_BT"] = torch.where(mask, ids, wrong), mask
    if batch.history is not None:
        changes["history"] = _spoiled_history(batch.history, extra, rng)
    return dataclasses.replace(batch, **changes)


def _spoiled_history(history: HistoryBatch, extra: int, rng: torch.Generator) -> HistoryBatch:
    b, _, slots = history.tags_BHL.shape
    mask = torch.cat([history.mask_BH, torch.zeros(b, extra, dtype=torch.bool)], dim=1)
    tags = torch.cat([history.tags_BHL, torch.full((b, extra, slots), -1)], dim=1)
    tags = torch.where(mask[..., None], tags, torch.randint(0, V, tags.shape, generator=rng))
    tags = torch.cat([tags, torch.full((*mask.shape, extra), -1)], dim=2)
    changes: dict[str, Tensor] = {}
    for modality in ("image", "text"):
        value, present = getattr(history, f"{modality}_vector_BHD"), getattr(history, f"{modality}_present_BH")
        if value is None or present is None:
            continue
        wider = torch.cat([value, torch.zeros(b, extra, value.shape[2])], dim=1)
        there = torch.cat([present, torch.zeros(b, extra, dtype=torch.bool)], dim=1)
        noise = torch.randn(*wider.shape, generator=rng) * 100
        changes[f"{modality}_vector_BHD"] = torch.where(there[..., None], wider, noise)
        changes[f"{modality}_present_BH"] = there
    return HistoryBatch(mask_BH=mask, tags_BHL=tags, **changes)
