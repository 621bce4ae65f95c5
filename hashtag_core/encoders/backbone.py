"""What an image network is to its encoder: pixels to a pooled vector and a feature map.

Shapes: n images, D features, H x W cells of the network's last feature map.
"""

from dataclasses import dataclass

from torch import nn


class Backbone(nn.Module):
    """A pretrained vision network: normalised pixels [n, 3, side, side] -> (vector [n, D], map [n, D, H, W]).

    `convolutional` tells what is fast for it: channels-last memory and ONNX on CPUs, or bfloat16.
    """

    side_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    convolutional: bool


@dataclass(frozen=True)
class ImageCard:
    """What an image encoder is: `dim` is D, `convolutional` as in `Backbone`."""

    id: str
    revision: str
    dim: int
    side_px: int
    convolutional: bool


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone with its card."""

    card: ImageCard
    network: Backbone
