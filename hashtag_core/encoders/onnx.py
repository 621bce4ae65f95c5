"""Image encoders in ONNX Runtime: on CPUs several times the speed of eager torch for convolutional networks, in float32.

The graph is exported once per weights and outputs into the user's cache folder.
"""

import hashlib
import importlib.util
import logging
import os
import uuid
import warnings
from pathlib import Path

import numpy as np
import torch

from hashtag_core.encoders.backbone import LoadedBackbone
from hashtag_core.encoders.image import Pixels2Features
from hashtag_core.encoders.packaged import cache_folder
from hashtag_core.errors import ConfigError, NotFoundError

logger = logging.getLogger(__name__)

FORMAT = 1
"""To be raised when `Pixels2Features` computes something else."""

OPSET = 17

RUN_IMAGES = 16
"""Images a call of the session: as fast as 64 on a CPU, and 280 MiB of its arena instead of 860."""


class OnnxBackend:
    """`Pixels2Features` in ONNX Runtime on CPUs. `threads`: None takes all cores; waiting threads sleep."""

    name = "onnx-float32"

    def __init__(self, module: Pixels2Features, backbone: LoadedBackbone, threads: int | None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        graph = export(module, backbone)
        self.session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def run(self, pixels: np.ndarray) -> list[np.ndarray]:
        pieces = [pixels[start : start + RUN_IMAGES] for start in range(0, max(1, len(pixels)), RUN_IMAGES)]
        found = [self.session.run(None, {"pixels": piece}) for piece in pieces]
        return [np.concatenate(outputs) for outputs in zip(*found, strict=True)]


def can_export() -> bool:
    """Whether the packages that make and run a graph are installed (`onnx` comes with the `sample` extra)."""
    return all(importlib.util.find_spec(name) is not None for name in ("onnx", "onnxruntime"))


def export(module: Pixels2Features, backbone: LoadedBackbone) -> Path:
    """The graph of those weights and outputs, made now if it is not there.

    Any number of processes may ask at once: each writes a file of its own and renames it, the last one stays.
    NotFoundError where a package is missing, ConfigError where torch cannot trace the network.
    """
    if not can_export():
        raise NotFoundError(
            'encoders.backend = "onnx" needs the package onnx: pip install "hashtag-recommender[sample]"'
        )
    network = backbone.network
    made_of = [FORMAT, OPSET, torch.__version__, backbone.card, network.mean, network.std]
    made_of += [module.outputs, tuple(module.pooling_RC.shape)]
    graph = cache_folder("onnx") / f"{hashlib.sha256(repr(made_of).encode()).hexdigest()[:24]}.onnx"
    if graph.exists():
        return graph
    side_px = backbone.card.side_px
    temporary = graph.with_suffix(f".{uuid.uuid4().hex}.tmp")
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # the tracer warns of every shape that it takes as fixed
            torch.onnx.export(
                module,
                (torch.zeros(1, side_px, side_px, 3, dtype=torch.uint8),),
                str(temporary),
                input_names=["pixels"],
                output_names=list(module.outputs),
                dynamic_axes={name: {0: "n"} for name in ("pixels", *module.outputs)},
                opset_version=OPSET,
                dynamo=False,
            )
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(graph)
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        told = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f'encoders.backend = "onnx": {backbone.card.id} cannot be exported: {told}') from None
    finally:
        temporary.unlink(missing_ok=True)
    logger.info("exported %s to %s", backbone.card.id, graph)
    return graph
