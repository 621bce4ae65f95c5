"""Text encoders in ONNX Runtime, float32: for processors that do not compute bfloat16, about twice eager torch.

Not in int8: with the activations of a whole tensor in one scale (dynamic or static quantisation) MiniLM's vectors have a mean
cosine of .992 with float32 and depend on the company that a caption is encoded in; scaled in blocks of 32 they are right (.9998), and
no faster than float32 (`tests/benchmarks/bench_encoders.py --int8`).
"""

import numpy as np
import torch

from hashtag_core.encoders import onnx
from hashtag_core.encoders.text import LoadedText, Tokens2Features


class OnnxTextBackend:
    """`Tokens2Features` in ONNX Runtime on CPUs. `threads`: None takes all cores; waiting threads sleep."""

    name = "onnx-float32"

    def __init__(self, loaded: LoadedText, outputs: tuple[str, ...], threads: int | None) -> None:
        """NotFoundError where a package is missing, ConfigError where torch cannot trace the model."""
        # Token states that no one reads need not leave the session.
        self._asked = None if "text_states" in outputs else ["vectors"]
        tokens = torch.ones(2, 16, dtype=torch.int64)
        mask = torch.ones_like(tokens)
        mask[1, 9:] = 0  # the tracer leaves out a mask that hides nothing
        rows = {0: "n", 1: "tokens"}
        graph = onnx.export_graph(
            Tokens2Features(loaded.model),
            (tokens, mask),
            inputs=["tokens", "mask"],
            outputs=["states", "vectors"],
            dynamic_axes={"tokens": rows, "mask": rows, "states": rows, "vectors": {0: "n"}},
            made_of=["text", loaded.card.id, loaded.card.revision, loaded.card.dim],
            name=loaded.card.id,
        )
        self.session = onnx.open_session(graph, threads)

    def run(self, tokens: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = self.session.run(self._asked, {"tokens": tokens, "mask": mask})
        if self._asked:
            return np.zeros((len(tokens), 0, 0), np.float32), found[0]
        return found[0], found[1]
