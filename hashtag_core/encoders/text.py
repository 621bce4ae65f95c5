"""Text encoders: captions to one sentence vector and token states, by transformers.

Shapes: n captions, S tokens (special tokens included), D features.
"""

import hashlib
import logging
import uuid
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from hashtag_core.encoders import huggingface
from hashtag_core.encoders.packaged import MINILM_SHA256, cache_folder, check_sha256, minilm_folder

logger = logging.getLogger(__name__)

OUTPUTS = ("text_vector", "text_states")
"""What a text encoder can give."""

LENGTH_STEP = 8
"""Captions are padded to a multiple of this, so that a caption meets the same matrix shapes in whatever batch it stands."""


class TextEncoder:
    """A transformers text model; the sentence vector is the mean of the token states, scaled to length 1.

    That is how sentence-transformers reads MiniLM (Reimers & Gurevych 2019), and it is taken for every model.
    """

    def __init__(
        self,
        encoder: str,
        outputs: tuple[str, ...],
        *,
        max_tokens: int,
        batch_size: int,
        device: torch.device,
        precision: Literal["float32", "bfloat16"],
    ) -> None:
        from transformers import AutoTokenizer

        source = text_source(encoder)
        if encoder == "minilm":
            self.revision = check_sha256(Path(source, "model.safetensors"), MINILM_SHA256)
        model, missing = huggingface.load_model(source)
        huggingface.require_complete(missing, "pooler", source)
        if encoder != "minilm":
            self.revision = huggingface.revision_of(source, model)
        model = huggingface.half_of(model, "text_model")
        self.id = encoder
        self.outputs = outputs
        self.batch_size = batch_size
        self.device = device
        self.precision = precision
        self.model = model.to(device)
        self.tokenizer = AutoTokenizer.from_pretrained(source)
        positions = getattr(model.config, "max_position_embeddings", max_tokens)
        self.max_tokens = min(max_tokens, positions if isinstance(positions, int) and positions > 0 else max_tokens)
        self.dim = int(model.config.hidden_size)

    def encode(self, captions: list[str]) -> dict[str, np.ndarray]:
        """`text_vector` [n, D] and `text_states` [n, S, D] with `text_states_mask` [n, S], float32; n may be 0.

        Captions are sorted by length for speed and given back in order; S is the longest caption's token count.
        """
        ids = self.tokenizer(captions, truncation=True, max_length=self.max_tokens)["input_ids"] if captions else []
        lengths = np.array([len(row) for row in ids], dtype=np.int64)
        found: dict[str, np.ndarray] = {"text_vector": np.zeros((len(ids), self.dim), np.float32)}
        if "text_states" in self.outputs:
            longest = int(lengths.max(initial=0))
            found["text_states"] = np.zeros((len(ids), longest, self.dim), np.float32)
            found["text_states_mask"] = np.arange(longest) < lengths[:, None]
        order = np.argsort(lengths, kind="stable")
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            states, vectors = self._forward([ids[row] for row in rows])
            found["text_vector"][rows] = vectors
            if "text_states" in found:
                for row, state in zip(rows, states, strict=True):
                    found["text_states"][row, : lengths[row]] = state[: lengths[row]]
        if "text_vector" not in self.outputs:
            del found["text_vector"]
        return found

    def _forward(self, ids: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        longest = -(-max(len(row) for row in ids) // LENGTH_STEP) * LENGTH_STEP
        tokens = torch.full((len(ids), min(longest, self.max_tokens)), self.tokenizer.pad_token_id or 0)
        mask = torch.zeros(tokens.shape, dtype=torch.int64)
        for b, row in enumerate(ids):
            tokens[b, : len(row)] = torch.tensor(row)
            mask[b, : len(row)] = 1
        low = self.precision == "bfloat16"
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=low):
            states = self.model(input_ids=tokens.to(self.device), attention_mask=mask.to(self.device)).last_hidden_state
        states = states.float()
        weights = mask.to(self.device, torch.float32).unsqueeze(2)
        vectors = (states * weights).sum(1) / weights.sum(1).clamp(min=1.0)
        return states.cpu().numpy(), torch.nn.functional.normalize(vectors, dim=1).cpu().numpy()


def text_source(encoder: str) -> str:
    """The transformers folder (or hub name) of a text encoder; its weights are not touched."""
    return str(minilm_folder()) if encoder == "minilm" else huggingface.source_of(encoder, "encoders.text")


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
