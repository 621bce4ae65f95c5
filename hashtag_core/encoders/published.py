"""VGG-16 and Inception v3, which transformers does not have: their layers, for weights files that others publish.

    vgg16:<file>          Simonyan & Zisserman 2015, configuration D; 512-d, 7x7 cells; the vector is the cells' mean
    vgg16_fc7:<file>      the same network's second fully connected layer after its ReLU; 4096-d, one cell: the whole picture
    inception_v3:<file>   Szegedy et al. 2016; 2048-d, 8x8 cells; the vector is the cells' mean

A file is a state dict as `.safetensors`, or as `.pth` read without running anything in it, under torchvision's names
(`vgg16-397923af.pth` and `inception_v3_google-0cc3c7bd.pth` are such files). What is behind the features (the last
classifier, the auxiliary head) may be in the file, trained on any number of classes, or not.

Shapes: n images, D features, H x W cells.
"""

import pickle
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from hashtag_core.encoders.backbone import Backbone
from hashtag_core.encoders.packaged import file_sha256
from hashtag_core.errors import ConfigError, NotFoundError

KINDS = ("vgg16", "vgg16_fc7", "inception_v3")

VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
"""Channels of each 3x3 convolution; 0 is a pooling."""

NOT_TRAINED = ".num_batches_tracked"
"""A count that older files do not have, and that nothing here reads."""


class Vgg16(Backbone):
    """VGG-16; with `fc7` the vector is that layer's, and the map is the vector as a single cell."""

    side_px = 224
    mean = (0.485 * 255, 0.456 * 255, 0.406 * 255)
    std = (0.229 * 255, 0.224 * 255, 0.225 * 255)
    convolutional = True

    def __init__(self, fc7: bool = False, classes: int = 1000) -> None:
        super().__init__()
        self.fc7 = fc7
        layers: list[nn.Module] = []
        inputs = 3
        for channels in VGG16:
            layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU()] if channels else [nn.MaxPool2d(2, 2)]
            inputs = channels or inputs
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, classes),
        )

    def trim(self) -> None:
        """Drop the layers that no feature comes from."""
        self.classifier = nn.Sequential(*list(self.classifier)[: 5 if self.fc7 else 0])

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        map_BDHW: Tensor = self.features(pixels)
        if not self.fc7:
            return map_BDHW.mean(dim=(2, 3)), map_BDHW
        vector_BD: Tensor = self.classifier[:5](map_BDHW.flatten(1))
        return vector_BD, vector_BD[..., None, None]


class Convolution(nn.Module):
    """Convolution, batch normalisation, ReLU. `layer` is written "channels height x width", "/2" for a stride of two.

    Without a stride the size stays; with one, or with `shrink`, there is no padding.
    """

    def __init__(self, inputs: int, layer: str, shrink: bool = False) -> None:
        super().__init__()
        channels, _, shape = layer.partition(" ")
        shape, _, stride = shape.partition("/")
        height, width = map(int, shape.split("x"))
        padding = (0, 0) if stride or shrink else (height // 2, width // 2)
        self.conv = nn.Conv2d(inputs, int(channels), (height, width), int(stride or 1), padding, bias=False)
        self.bn = nn.BatchNorm2d(int(channels), eps=0.001)

    def forward(self, map_BDHW: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(map_BDHW)))


class Mixed(nn.Module):
    """An Inception block: branches side by side, their channels concatenated, a pooled one last.

    A branch is its layers, ", " between them; two shapes at the end, "|" between them, are applied side by side.
    `pooled`: channels of the 1x1 convolution after average pooling; None for max pooling of stride two alone.
    """

    def __init__(self, inputs: int, branches: dict[str, str], pooled: int | None) -> None:
        super().__init__()
        self.branches: list[list[list[str]]] = []
        for branch, written in branches.items():
            steps: list[list[str]] = []
            size, layers = inputs, written.split(", ")
            for number, layer in enumerate(layers, 1):
                channels, _, shapes = layer.partition(" ")
                name = branch if len(layers) == 1 else f"{branch}_{number}"
                split = shapes.split("|")
                steps.append([name + part for part in ("ab" if len(split) > 1 else [""])])
                for key, shape in zip(steps[-1], split, strict=True):
                    self.add_module(key, Convolution(size, f"{channels} {shape}"))
                size = int(channels)
            self.branches.append(steps)
        self.branch_pool = None if pooled is None else Convolution(inputs, f"{pooled} 1x1")

    def forward(self, map_BDHW: Tensor) -> Tensor:
        found = []
        for steps in self.branches:
            branch_BDHW = map_BDHW
            for names in steps:
                branch_BDHW = torch.cat([self.get_submodule(name)(branch_BDHW) for name in names], dim=1)
            found.append(branch_BDHW)
        if self.branch_pool is None:
            found.append(functional.max_pool2d(map_BDHW, 3, stride=2))
        else:
            found.append(self.branch_pool(functional.avg_pool2d(map_BDHW, 3, stride=1, padding=1)))
        return torch.cat(found, dim=1)


class AuxiliaryHead(nn.Module):
    """The layers of Inception v3's second classifier; it plays no part in features."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.conv0 = Convolution(inputs, "128 1x1")
        self.conv1 = Convolution(128, "768 5x5", shrink=True)
        self.fc = nn.Linear(768, classes)


class InceptionV3(Backbone):
    """Inception v3. Its pixels are scaled to [-1, 1], as in the network that the published weights come from."""

    side_px = 299
    mean = (127.5, 127.5, 127.5)
    std = (127.5, 127.5, 127.5)
    convolutional = True

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, "32 3x3/2")
        self.Conv2d_2a_3x3 = Convolution(32, "32 3x3", shrink=True)
        self.Conv2d_2b_3x3 = Convolution(32, "64 3x3")
        self.Conv2d_3b_1x1 = Convolution(64, "80 1x1")
        self.Conv2d_4a_3x3 = Convolution(80, "192 3x3", shrink=True)
        for name, block in _blocks().items():
            self.add_module(name, block)
        self.AuxLogits = AuxiliaryHead(768, classes)
        self.fc = nn.Linear(2048, classes)

    def trim(self) -> None:
        """Drop the layers that no feature comes from."""
        del self.AuxLogits, self.fc

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        map_BDHW = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(pixels)))
        map_BDHW = self.Conv2d_3b_1x1(functional.max_pool2d(map_BDHW, 3, stride=2))
        map_BDHW = functional.max_pool2d(self.Conv2d_4a_3x3(map_BDHW), 3, stride=2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                map_BDHW = block(map_BDHW)
        return map_BDHW.mean(dim=(2, 3)), map_BDHW


def kind_of(encoder: str) -> str | None:
    """Which of `KINDS` an encoder's name begins with, None for any other name."""
    kind = encoder.partition(":")[0]
    return kind if kind in KINDS else None


def load_published(encoder: str) -> tuple[Backbone, str]:
    """The network of `<kind>:<file>` with the file's weights, and the file's SHA-256.

    NotFoundError where there is no such file; ConfigError where it is no state dict, or one of another network.
    """
    kind, _, file = encoder.partition(":")
    path = Path(file).expanduser()
    if not file:
        raise ConfigError(f"encoders: {encoder!r}: name its weights file, as in {kind}:<file>")
    if not path.is_file():
        raise NotFoundError(f"encoders: {encoder!r}: no weights file at {path}")
    with torch.device("meta"):
        network = InceptionV3() if kind == "inception_v3" else Vgg16(fc7=kind == "vgg16_fc7")
    whole = set(network.state_dict())
    network.trim()
    wanted = network.state_dict()
    found = _read(path)
    for name in sorted(wanted.keys() - found.keys()):
        if not name.endswith(NOT_TRAINED):
            raise ConfigError(f"{path}: not the weights of {kind}: there is no {name}")
        found[name] = torch.zeros((), dtype=torch.int64)
    for name, value in found.items():
        if name not in whole:
            raise ConfigError(f"{path}: not the weights of {kind}: it has no {name}")
        if name in wanted and value.shape != wanted[name].shape:
            shapes = f"{list(wanted[name].shape)} expected, found {list(value.shape)}"
            raise ConfigError(f"{path}: not the weights of {kind}: {name}: {shapes}")
    network.load_state_dict({name: found[name].to(value.dtype) for name, value in wanted.items()}, assign=True)
    return network, file_sha256(path)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        found: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{path}: not a file of weights: {cause}") from None
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ConfigError(f"{path}: not a file of weights: a state dict (name to tensor) expected")
    return found


def _blocks() -> dict[str, Mixed]:
    """The Mixed blocks of Inception v3, in order (figures 5, 6, 7 and 10 of its paper)."""

    def fives(inputs: int, pooled: int) -> Mixed:
        branches = {"branch1x1": "64 1x1", "branch5x5": "48 1x1, 64 5x5", "branch3x3dbl": "64 1x1, 96 3x3, 96 3x3"}
        return Mixed(inputs, branches, pooled)

    def sevens(inner: int) -> Mixed:
        single = f"{inner} 1x1, {inner} 1x7, 192 7x1"
        double = f"{inner} 1x1, {inner} 7x1, {inner} 1x7, {inner} 7x1, 192 1x7"
        return Mixed(768, {"branch1x1": "192 1x1", "branch7x7": single, "branch7x7dbl": double}, 192)

    def wide(inputs: int) -> Mixed:
        branches = {
            "branch1x1": "320 1x1",
            "branch3x3": "384 1x1, 384 1x3|3x1",
            "branch3x3dbl": "448 1x1, 384 3x3, 384 1x3|3x1",
        }
        return Mixed(inputs, branches, 192)

    halving = {"branch3x3": "384 3x3/2", "branch3x3dbl": "64 1x1, 96 3x3, 96 3x3/2"}
    last_halving = {"branch3x3": "192 1x1, 320 3x3/2", "branch7x7x3": "192 1x1, 192 1x7, 192 7x1, 192 3x3/2"}
    return {
        "Mixed_5b": fives(192, 32),
        "Mixed_5c": fives(256, 64),
        "Mixed_5d": fives(288, 64),
        "Mixed_6a": Mixed(288, halving, None),
        "Mixed_6b": sevens(128),
        "Mixed_6c": sevens(160),
        "Mixed_6d": sevens(160),
        "Mixed_6e": sevens(192),
        "Mixed_7a": Mixed(768, last_halving, None),
        "Mixed_7b": wide(1280),
        "Mixed_7c": wide(2048),
    }
