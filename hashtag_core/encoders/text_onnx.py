"""Text encoders in ONNX Runtime, float32: for processors that do not compute bfloat16, about twice eager torch.

Not in int8: with the activations of a whole tensor in one scale (dynamic or static quantisation) MiniLM's vectors have a mean
cosine of .992 with float32 and depend on the company that a caption is encoded in; scaled in blocks of 32 they are right (.9998), and
no faster than float32 (`tests/benchmarks/bench_encoders.py --int8`).
"""

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from hashtag_core.encoders import onnx
from hashtag_core.encoders.text import (
    FileTokenizer,
    LoadedText,
    TextCard,
    Tokens2Features,
    packaged_card,
    tokenizer_file,
)
from hashtag_core.errors import ConfigError

LARGEST_DIFFERENCE = 1e-3
"""Of a sentence vector's values from eager torch; float32 in another order of sums gives 1e-6."""


class OnnxTextBackend:
    """`Tokens2Features` in ONNX Runtime on CPUs. `threads`: None takes all cores; waiting threads sleep."""

    name = "onnx-float32"

    def __init__(self, loaded: LoadedText, outputs: tuple[str, ...], threads: int | None) -> None:
        """NotFoundError where a package is missing, ConfigError where torch cannot trace the model, or traces it wrongly."""
        # Token states that no one reads need not leave the session.
        self._asked = None if "text_states" in outputs else ["vectors"]
        tokens = torch.ones(2, 16, dtype=torch.int64)
        mask = torch.ones_like(tokens)
        mask[1, 9:] = 0  # the tracer leaves out a mask that hides nothing
        rows = {0: "n", 1: "tokens"}
        module = Tokens2Features(loaded.model).eval()

        def check(graph: Path) -> None:
            """Whatever a model computes from a length in Python stands in its graph as a constant, for the example's length."""
            session = onnx.open_session(graph, threads)
            rng = np.random.default_rng(0)
            for rows, width in ((3, 8), (2, 24), (2, 64)):
                sample = rng.integers(0, 5, (rows, min(width, loaded.card.max_tokens)))
                shown = np.ones_like(sample)
                shown[1, max(1, sample.shape[1] // 2) :] = 0
                (found,) = session.run(["vectors"], {"tokens": sample, "mask": shown})
                with torch.inference_mode():
                    expected = module(torch.from_numpy(sample), torch.from_numpy(shown))[1].numpy()
                off = float(np.abs(found - expected).max())
                if not off <= LARGEST_DIFFERENCE:
                    raise ConfigError(
                        f"{loaded.card.id}: its ONNX graph gives other vectors than torch, off by {off:.2g}"
                    )

        graph = onnx.export_graph(
            module,
            (tokens, mask),
            inputs=["tokens", "mask"],
            outputs=["states", "vectors"],
            dynamic_axes={"tokens": rows, "mask": rows, "states": rows, "vectors": {0: "n"}},
            made_of=_made_of(loaded.card),
            name=loaded.card.id,
            check=check,
        )
        self.session = onnx.open_session(graph, threads)

    @classmethod
    def ready(
        cls, encoder: str, max_tokens: int, outputs: tuple[str, ...], threads: int | None
    ) -> tuple[LoadedText, Self] | None:
        """The default encoder from the graph that an earlier run exported, with its tokenizer: transformers is not imported and
        no weights are read. None for another encoder, and where no graph is there yet."""
        card = packaged_card(encoder, max_tokens)
        graph = None if card is None else onnx.graph_file(_made_of(card))
        if card is None or graph is None or not graph.exists():
            return None
        backend = cls.__new__(cls)
        backend._asked = None if "text_states" in outputs else ["vectors"]
        backend.session = onnx.open_session(graph, threads)
        return LoadedText(card, None, FileTokenizer(tokenizer_file(encoder), card.max_tokens)), backend

    def run(self, tokens: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = self.session.run(self._asked, {"tokens": tokens, "mask": mask})
        if self._asked:
            return np.zeros((len(tokens), 0, 0), np.float32), found[0]
        return found[0], found[1]


def _made_of(card: TextCard) -> list[Any]:
    """What the graph of a text encoder depends on."""
    return ["text", card.id, card.revision, card.dim]
