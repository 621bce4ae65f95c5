"""Text encoders: captions to one sentence vector and token states, by transformers.

Shapes: n captions, S tokens (special tokens included), D features.
"""

import hashlib
import logging
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from hashtag_core.encoders import huggingface
from hashtag_core.encoders.packaged import MINILM_SHA256, cache_folder, check_sha256, minilm_folder

logger = logging.getLogger(__name__)

DEFAULT = "minilm"

OUTPUTS = ("text_vector", "text_states")
"""What a text encoder can give."""

LENGTH_STEP = 8
"""Captions are padded to a multiple of this."""


@dataclass(frozen=True)
class TextCard:
    """What a text encoder is: `dim` is D, `max_tokens` what it sees of a caption."""

    id: str
    revision: str
    dim: int
    max_tokens: int


@dataclass(frozen=True)
class LoadedText:
    """A transformers text model with its tokenizer and its card."""

    card: TextCard
    model: Any
    tokenizer: Any


class FileTokenizer:
    """`tokenizer.json` read by the library `tokenizers`, called as transformers' tokenizers are: the same ids without the two
    seconds that importing transformers takes."""

    def __init__(self, file: Path, max_tokens: int) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(file))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self.pad_token_id: int = self._tokenizer.token_to_id("[PAD]") or 0

    def __call__(self, captions: list[str], truncation: bool, max_length: int) -> dict[str, list[list[int]]]:
        """Ids of each caption, special tokens included, cut to the length that the tokenizer was made for."""
        return {"input_ids": [found.ids for found in self._tokenizer.encode_batch(captions)]}


class Tokens2Features(nn.Module):
    """Token ids and mask [n, S] -> token states [n, S, D] and sentence vectors [n, D], float32: what a backend runs.

    The sentence vector is the mean of the token states, scaled to length 1. That is how sentence-transformers reads MiniLM
    (Reimers & Gurevych 2019), and it is taken for every model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        states = self.model(input_ids=tokens, attention_mask=mask).last_hidden_state.float()
        return states, sentence_vectors(states, mask)


def sentence_vectors(states: Tensor, mask: Tensor) -> Tensor:
    """[n, S, D] and [n, S] -> [n, D]."""
    weights = mask.to(torch.float32).unsqueeze(2)
    return torch.nn.functional.normalize((states * weights).sum(1) / weights.sum(1).clamp(min=1.0), dim=1)


class TextBackend(Protocol):
    """What runs `Tokens2Features`."""

    name: str

    def run(self, tokens: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 [n, S] twice -> float32 [n, S, D] and [n, D]."""
        ...


class TorchTextBackend:
    """Eager torch, in float32 or under bfloat16 autocast."""

    def __init__(self, model: nn.Module, device: torch.device, precision: Literal["float32", "bfloat16"]) -> None:
        self.name = f"torch-{precision}"
        self.model = model.to(device)
        self.device = device
        self.precision = precision

    def run(self, tokens: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        tokens_BS, mask_BS = (torch.from_numpy(value).to(self.device) for value in (tokens, mask))
        low = self.precision == "bfloat16"
        with torch.inference_mode():
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=low):
                states = self.model(input_ids=tokens_BS, attention_mask=mask_BS).last_hidden_state
            states = states.float()
            return states.cpu().numpy(), sentence_vectors(states, mask_BS).cpu().numpy()


class TextEncoder:
    """A transformers text model behind a backend.

    Every forward pass has one of a few fixed shapes: captions of one padded length, as many as make about
    `LENGTH_STEP * batch_size` tokens, filled up with empty rows. Matrix kernels are chosen by shape, and in bfloat16
    another kernel moves a token state by up to 0.02: so a caption has the same vectors in whatever company it is encoded.
    """

    def __init__(self, loaded: LoadedText, backend: TextBackend, outputs: tuple[str, ...], batch_size: int) -> None:
        self.card = loaded.card
        self.tokenizer = loaded.tokenizer
        self.backend = backend
        self.outputs = outputs
        self.batch_size = batch_size

    def encode(self, captions: list[str]) -> dict[str, np.ndarray]:
        """`text_vector` [n, D] and `text_states` [n, S, D] with `text_states_mask` [n, S], float32; n may be 0.

        Captions are grouped by length and given back in order; S is the longest caption's token count.
        """
        ids = (
            self.tokenizer(captions, truncation=True, max_length=self.card.max_tokens)["input_ids"] if captions else []
        )
        lengths = np.array([len(row) for row in ids], dtype=np.int64)
        found: dict[str, np.ndarray] = {"text_vector": np.zeros((len(ids), self.card.dim), np.float32)}
        if "text_states" in self.outputs:
            longest = int(lengths.max(initial=0))
            found["text_states"] = np.zeros((len(ids), longest, self.card.dim), np.float32)
            found["text_states_mask"] = np.arange(longest) < lengths[:, None]
        padded = np.minimum(-(-lengths // LENGTH_STEP) * LENGTH_STEP, self.card.max_tokens)
        for width in np.unique(padded).tolist():
            group = np.flatnonzero(padded == width)
            size = rows_of(width, self.batch_size)
            for start in range(0, len(group), size):
                rows = group[start : start + size]
                states, vectors = self._forward([ids[row] for row in rows], size, width)
                found["text_vector"][rows] = vectors[: len(rows)]
                if "text_states" in found:
                    for row, state in zip(rows, states, strict=False):
                        found["text_states"][row, : lengths[row]] = state[: lengths[row]]
        if "text_vector" not in self.outputs:
            del found["text_vector"]
        return found

    def _forward(self, ids: list[list[int]], size: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.full((size, width), self.tokenizer.pad_token_id or 0, np.int64)
        mask = np.zeros(tokens.shape, np.int64)
        mask[:, 0] = 1  # a row of none at all would be NaN
        for b, row in enumerate(ids):
            tokens[b, : len(row)] = row
            mask[b, : len(row)] = 1
        return self.backend.run(tokens, mask)


def rows_of(width: int, batch_size: int) -> int:
    """Captions of one padded length that one forward pass takes."""
    return max(1, LENGTH_STEP * batch_size // width)


def sample_batches(card: TextCard, batch_size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Tokens and masks of the shapes that short, middling and long captions give, for measuring."""
    rng = np.random.default_rng(0)
    found = []
    for width in sorted({min(width, card.max_tokens) for width in (2 * LENGTH_STEP, 3 * LENGTH_STEP, 5 * LENGTH_STEP)}):
        tokens = rng.integers(0, 5, (rows_of(width, batch_size), width))  # which tokens does not matter
        found.append((tokens, np.ones_like(tokens)))
    return found


def load_text(encoder: str, max_tokens: int) -> LoadedText:
    """`minilm` or `hf:<name or folder>`. NotFoundError, IntegrityError, ConfigError as of `huggingface.load_model`."""
    from transformers import AutoTokenizer

    source = text_source(encoder)
    known = packaged_card(encoder, max_tokens)
    model, missing = huggingface.load_model(source)
    huggingface.require_complete(missing, "pooler", source)
    revision = known.revision if known else huggingface.revision_of(source, model)
    model = huggingface.half_of(model, "text_model")
    positions = getattr(model.config, "max_position_embeddings", None) or max_tokens
    card = known or TextCard(encoder, revision, int(model.config.hidden_size), min(max_tokens, positions))
    return LoadedText(card, model, AutoTokenizer.from_pretrained(source))


def packaged_card(encoder: str, max_tokens: int) -> TextCard | None:
    """The card of the default encoder, its weights file checked but not loaded; None for any other encoder."""
    if encoder != DEFAULT:
        return None
    revision = check_sha256(minilm_folder() / "model.safetensors", MINILM_SHA256)
    return TextCard(encoder, revision, 384, min(max_tokens, 512))


def text_source(encoder: str) -> str:
    """The transformers folder (or hub name) of a text encoder; its weights are not touched."""
    return str(minilm_folder()) if encoder == DEFAULT else huggingface.source_of(encoder, "encoders.text")


def tokenizer_file(encoder: str) -> Path:
    """`tokenizer.json` of a text encoder; made from its fast tokenizer where the folder has none (a vocabulary file alone)."""
    source = text_source(encoder)
    if Path(source, "tokenizer.json").is_file():
        return Path(source, "tokenizer.json")
    from transformers import AutoTokenizer

    made = cache_folder("tokenizers") / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.json"
    temporary = made.with_suffix(f".{uuid.uuid4().hex}.tmp")
    AutoTokenizer.from_pretrained(source).backend_tokenizer.save(str(temporary))
    temporary.replace(made)
    return made
