"""Image encoders: pixels to one pooled vector and a grid of region features, by torch or ONNX Runtime.

Shapes: n images, D features, H x W cells of the network's last feature map, R = grid_side^2 regions.
"""

import logging
import math
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from hashtag_core.encoders import huggingface, published
from hashtag_core.encoders.backbone import Backbone, ImageCard, LoadedBackbone
from hashtag_core.encoders.packaged import EFFICIENTNET_SHA256, check_sha256, efficientnet_weights
from hashtag_core.errors import ConfigError
from hashtag_core.json_values import JsonObject

logger = logging.getLogger(__name__)

DEFAULT = "efficientnet_lite0"

OUTPUTS = ("image_vector", "image_grid")
"""What an image encoder can give."""

Precision = Literal["float32", "bfloat16"]


class EfficientNetLite0(Backbone):
    """EfficientNet-Lite0 (Tan & Le 2019, the variant without squeeze-and-excitation), ImageNet weights; 1280-d, 7x7."""

    side_px = 224
    mean = (127.0, 127.0, 127.0)
    std = (128.0, 128.0, 128.0)
    convolutional = True
    map_side = 7
    """Cells on a side of its feature map."""

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        self.network = EfficientNet.from_name("efficientnet-lite0")

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        map_BDHW = self.network.extract_features(pixels)
        return map_BDHW.mean(dim=(2, 3)), map_BDHW


class TransformersVision(Backbone):
    """Any transformers vision model: ViT, DINOv2, SigLIP, CLIP, ResNet, ConvNeXt, ...

    The vector is `pooler_output`, or the mean over the map where the model has none, where the checkpoint lacks the
    pooler's weights or where it has another width than the map. The map is the feature map, or the patch tokens
    (those behind the class and register tokens) laid out as a square.
    """

    def __init__(self, network: nn.Module, settings: JsonObject, pooler: bool, source: str) -> None:
        super().__init__()
        self.network = network
        self.pooler = pooler
        self.source = source
        self.side_px = _side(settings, source)
        scale = 1.0 / float(settings.get("rescale_factor", 1 / 255)) if settings.get("do_rescale", True) else 1.0
        normalise = settings.get("do_normalize", True)
        self.mean = _channels(settings["image_mean"] if normalise else 0.0, scale)
        self.std = _channels(settings["image_std"] if normalise else 1.0, scale)
        with torch.inference_mode():
            states = network(pixel_values=torch.zeros(1, 3, self.side_px, self.side_px)).last_hidden_state
        self.convolutional = states.ndim == 4
        self.cells = math.prod(states.shape[2:]) if self.convolutional else self._patches(states.shape[1])

    def _patches(self, tokens: int) -> int:
        patch_px = getattr(self.network.config, "patch_size", None)
        patch_px = patch_px[0] if isinstance(patch_px, list | tuple) else patch_px
        cells = (self.side_px // patch_px) ** 2 if patch_px else tokens
        cells = min(cells, tokens)  # a hierarchical model (Swin) has fewer tokens than patches, and no class token
        if math.isqrt(cells) ** 2 != cells:
            raise ConfigError(f"hf:{self.source}: its {tokens} tokens are no square grid")
        return cells

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        found = self.network(pixel_values=pixels)
        map_BDHW = found.last_hidden_state
        if not self.convolutional:
            side = math.isqrt(self.cells)
            map_BDHW = map_BDHW[:, -self.cells :].transpose(1, 2).unflatten(2, (side, side))
        pooled = getattr(found, "pooler_output", None) if self.pooler else None
        if pooled is not None and pooled.flatten(1).shape[1] == map_BDHW.shape[1]:
            return pooled.flatten(1), map_BDHW
        return map_BDHW.mean(dim=(2, 3)), map_BDHW


def packaged_card(encoder: str) -> ImageCard | None:
    """The card of the default encoder, its weights file checked but not loaded; None for any other encoder."""
    if encoder != DEFAULT:
        return None
    revision = check_sha256(efficientnet_weights(), EFFICIENTNET_SHA256)
    return ImageCard(encoder, revision, 1280, EfficientNetLite0.side_px, EfficientNetLite0.convolutional)


def load_backbone(encoder: str) -> LoadedBackbone:
    """`efficientnet_lite0`, `hf:<name or folder>`, or one of `published.KINDS` with its weights file.

    NotFoundError where the weights are not there, IntegrityError where they are not those that were pinned, ConfigError
    where they are those of another network.
    """
    network: Backbone
    if encoder == DEFAULT:
        path = efficientnet_weights()
        revision = check_sha256(path, EFFICIENTNET_SHA256)
        network = EfficientNetLite0()
        network.network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    elif published.kind_of(encoder):
        network, revision = published.load_published(encoder)
    else:
        source = huggingface.source_of(encoder, "encoders.image")
        model, missing = huggingface.load_model(source)
        model = huggingface.half_of(model, "vision_model")
        pooler = huggingface.require_complete(missing, "pooler", source)
        revision = huggingface.revision_of(source, model)
        network = TransformersVision(model, huggingface.preprocessor_of(source), pooler, source)
    network.eval().requires_grad_(False)
    with torch.inference_mode():
        _, map_BDHW = network(torch.zeros(1, 3, network.side_px, network.side_px))
    card = ImageCard(encoder, revision, map_BDHW.shape[1], network.side_px, network.convolutional)
    return LoadedBackbone(card, network)


def map_side(network: Backbone) -> int:
    """Cells on a side of the network's last feature map; ConfigError where it is no square."""
    with torch.inference_mode():
        _, map_BDHW = network(torch.zeros(1, 3, network.side_px, network.side_px))
    if map_BDHW.shape[2] != map_BDHW.shape[3]:
        raise ConfigError(f"encoders.image: a map of {map_BDHW.shape[2]} x {map_BDHW.shape[3]} cells is no square")
    return int(map_BDHW.shape[2])


class Pixels2Features(nn.Module):
    """uint8 [n, side, side, 3] -> the named outputs, in that order, float32: what each backend runs whole."""

    pooling_RC: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, network: Backbone, outputs: tuple[str, ...], grid_side: int) -> None:
        super().__init__()
        self.network = network
        self.outputs = outputs
        with torch.inference_mode():
            _, map_BDHW = network(torch.zeros(1, 3, network.side_px, network.side_px))
        pooling = adaptive_pooling(map_BDHW.shape[2], map_BDHW.shape[3], grid_side)
        self.register_buffer("pooling_RC", torch.from_numpy(pooling))
        self.register_buffer("mean", torch.tensor(network.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(network.std).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        vector_BD, map_BDHW = self.network((pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std)
        found = {"image_vector": vector_BD.float()}
        if "image_grid" in self.outputs:
            found["image_grid"] = self.pooling_RC @ map_BDHW.float().flatten(2).transpose(1, 2)
        return tuple(found[name] for name in self.outputs)


class ImageBackend(Protocol):
    """What runs `Pixels2Features`."""

    name: str

    def run(self, pixels: np.ndarray) -> list[np.ndarray]:
        """uint8 [n, side, side, 3] -> one float32 array an output."""
        ...


class TorchBackend:
    """Eager torch, in float32 or under bfloat16 autocast, channels-last for a convolutional network."""

    def __init__(self, module: nn.Module, device: torch.device, precision: Precision) -> None:
        self.name = f"torch-{precision}"
        memory = torch.channels_last if getattr(module.network, "convolutional", False) else torch.contiguous_format
        self.module = module.to(device=device, memory_format=memory)  # type: ignore[call-overload]
        self.device = device
        self.precision = precision

    def run(self, pixels: np.ndarray) -> list[np.ndarray]:
        low = self.precision == "bfloat16"
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=low):
            found = self.module(torch.from_numpy(pixels).to(self.device))
        return [value.float().cpu().numpy() for value in found]


class ImageEncoder:
    """A backbone behind a backend: what `Encoders` calls."""

    def __init__(self, backend: ImageBackend, outputs: tuple[str, ...], side_px: int, batch_size: int) -> None:
        self.backend = backend
        self.outputs = outputs
        self.side_px = side_px
        self.batch_size = batch_size

    def encode(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """uint8 [n, side, side, 3] -> float32 arrays, one an output, `batch_size` images at a time; n may be 0."""
        # The first pass of an empty list tells the shapes.
        padded = images if len(images) else np.zeros((1, self.side_px, self.side_px, 3), np.uint8)
        found = [
            self.backend.run(np.ascontiguousarray(padded[start : start + self.batch_size]))
            for start in range(0, len(padded), self.batch_size)
        ]
        return {
            name: np.concatenate([part[position] for part in found])[: len(images)]
            for position, name in enumerate(self.outputs)
        }


def adaptive_pooling(height: int, width: int, side: int) -> np.ndarray:
    """float32 [side * side, height * width]: adaptive average pooling as a matrix (rows sum to 1).

    A region covers the cells from floor(i * n / side) to ceil((i + 1) * n / side), as torch's adaptive_avg_pool2d.
    """

    def weights(cells: int) -> np.ndarray:
        matrix = np.zeros((side, cells))
        for i in range(side):
            first, last = i * cells // side, -(-(i + 1) * cells // side)
            matrix[i, first:last] = 1.0 / (last - first)
        return matrix

    return np.kron(weights(height), weights(width)).astype(np.float32)


def _side(settings: JsonObject, source: str) -> int:
    cropped = settings.get("do_center_crop") and settings.get("crop_size")
    size = settings.get("crop_size") if cropped else settings.get("size")
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    if not isinstance(size, int):
        raise ConfigError(f"hf:{source}: preprocessor_config.json names no size")
    return size


def _channels(value: float | list[float], scale: float) -> tuple[float, float, float]:
    values = [value] * 3 if isinstance(value, int | float) else value
    return (values[0] * scale, values[1] * scale, values[2] * scale)
