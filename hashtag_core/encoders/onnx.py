"""Encoders in ONNX Runtime: on CPUs several times the speed of eager torch for convolutional networks, up to twice for
transformers, in float32.

A graph is exported once per weights and outputs into the user's cache folder.
"""

import hashlib
import importlib.util
import logging
import os
import uuid
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from hashtag_core.encoders.backbone import ImageCard, LoadedBackbone
from hashtag_core.encoders.image import EfficientNetLite0, Pixels2Features, packaged_card
from hashtag_core.encoders.packaged import cache_folder
from hashtag_core.errors import ConfigError, NotFoundError

logger = logging.getLogger(__name__)

FORMAT = 1
"""To be raised when `Pixels2Features` or `Tokens2Features` computes something else."""

OPSET = 17

RUN_IMAGES = 16
"""Images a call of the session: as fast as 64 on a CPU, and 280 MiB of its arena instead of 860."""


class OnnxBackend:
    """`Pixels2Features` in ONNX Runtime on CPUs. `threads`: None takes all cores; waiting threads sleep."""

    name = "onnx-float32"

    def __init__(self, module: Pixels2Features, backbone: LoadedBackbone, threads: int | None) -> None:
        self.session = open_session(export(module, backbone), threads)

    @classmethod
    def ready(cls, encoder: str, outputs: tuple[str, ...], grid_side: int, threads: int | None) -> Self | None:
        """The default encoder from the graph that an earlier run exported: its network is not made and runs no probe, which is
        most of what a single picture would wait for. None for another encoder, and where no graph is there yet."""
        card = packaged_card(encoder)
        if card is None:
            return None
        shape = (grid_side**2, EfficientNetLite0.map_side**2)
        graph = graph_file(_made_of(card, EfficientNetLite0.mean, EfficientNetLite0.std, outputs, shape))
        if not graph.exists():
            return None
        backend = cls.__new__(cls)
        backend.session = open_session(graph, threads)
        return backend

    def run(self, pixels: np.ndarray) -> list[np.ndarray]:
        pieces = [pixels[start : start + RUN_IMAGES] for start in range(0, max(1, len(pixels)), RUN_IMAGES)]
        found = [self.session.run(None, {"pixels": piece}) for piece in pieces]
        return [np.concatenate(outputs) for outputs in zip(*found, strict=True)]


def open_session(graph: Path, threads: int | None) -> Any:
    """An ONNX Runtime session of a graph on this CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def runtime_version() -> str:
    """Of ONNX Runtime; the empty string where it is not installed."""
    try:
        return metadata.version("onnxruntime")
    except metadata.PackageNotFoundError:
        return ""


def can_export() -> bool:
    """Whether the packages that make and run a graph are installed (`onnx` comes with the `encoders` extra)."""
    return all(importlib.util.find_spec(name) is not None for name in ("onnx", "onnxruntime"))


def export(module: Pixels2Features, backbone: LoadedBackbone) -> Path:
    """The graph of those weights and outputs, made now if it is not there; errors as of `export_graph`."""
    network, side_px = backbone.network, backbone.card.side_px
    return export_graph(
        module,
        (torch.zeros(1, side_px, side_px, 3, dtype=torch.uint8),),
        inputs=["pixels"],
        outputs=module.outputs,
        dynamic_axes={name: {0: "n"} for name in ("pixels", *module.outputs)},
        made_of=_made_of(backbone.card, network.mean, network.std, module.outputs, tuple(module.pooling_RC.shape)),
        name=backbone.card.id,
    )


def _made_of(card: ImageCard, mean: Any, std: Any, outputs: tuple[str, ...], pooling: tuple[int, ...]) -> list[Any]:
    """What the graph of an image encoder depends on; `pooling` is the shape of its matrix, regions by cells."""
    return [card, mean, std, outputs, pooling]


def graph_file(made_of: list[Any]) -> Path:
    """Where the graph that was `made_of` this lies, or will."""
    key = hashlib.sha256(repr([FORMAT, OPSET, torch.__version__, *made_of]).encode()).hexdigest()[:24]
    return cache_folder("onnx") / f"{key}.onnx"


def export_graph(
    module: nn.Module,
    example: tuple[Tensor, ...],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic_axes: dict[str, dict[int, str]],
    made_of: list[Any],
    name: str,
    check: Callable[[Path], None] | None = None,
) -> Path:
    """The ONNX graph of a module, made now unless one that was `made_of` the same is in the cache folder.

    Any number of processes may ask at once: each writes a file of its own and renames it, the last one stays.
    `example` are inputs that the tracer follows, `name` is what a message calls the module; `check` raises where the graph that
    was made is not right, which is then not kept. NotFoundError where a package is missing, ConfigError where torch cannot trace
    the module.
    """
    if not can_export():
        raise NotFoundError(
            'encoders.backend = "onnx" needs the package onnx: pip install "hashtag-recommender[sample]"'
        )
    graph = graph_file(made_of)
    if graph.exists():
        return graph
    temporary = graph.with_suffix(f".{uuid.uuid4().hex}.tmp")
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # the tracer warns of every shape that it takes as fixed
            torch.onnx.export(
                module.eval(),  # the exporter gives a module back in the mode that it had, its parts with it
                example,
                str(temporary),
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_axes=dynamic_axes,
                opset_version=OPSET,
                dynamo=False,
            )
        if check is not None:
            check(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(graph)
    except (RuntimeError, TypeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f'encoders.backend = "onnx": {name} cannot be exported: {cause}') from None
    finally:
        temporary.unlink(missing_ok=True)
    logger.info("exported %s to %s", name, graph)
    return graph
