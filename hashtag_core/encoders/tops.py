"""Encoders that are trained through: a frozen trunk, whose output is cached once, and a top, which belongs to the model.

`finetune = "last:N"` cuts a network before its last N blocks. What comes out of the blocks below never changes while the model is
trained, so it is computed once a post and kept in the feature cache like any other feature; an epoch costs only the blocks
that learn. `finetune = "all"` cuts below the first block: the trunk of an image encoder is then the pixels themselves, that
of a text encoder the embeddings of its words, which stay as they were.

    trunk  image  uint8 [n, side, side, 3] -> image_trunk [n, X, C]     X = cells of the map at the cut, or pixels
           text   ids [n, S]               -> text_trunk [n, S, D]
    top    image_trunk -> image_vector [n, D], image_grid [n, R, D]      text_trunk -> text_vector [n, D], text_states [n, S, D]

`finetune = "lora"` cuts there too, and leaves every weight as it was: beside each linear layer, and each convolution over single cells,
stand two small matrices that learn what is to be added to its own (Hu et al. 2022, by peft).

Running means of batch normalisation stay those of the pretrained network, as is usual for small batches.
"""

import copy
import dataclasses
import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from hashtag_core.config import EncodersSection
from hashtag_core.data.batches import PostBatch
from hashtag_core.encoders.backbone import Backbone, LoadedBackbone
from hashtag_core.encoders.image import EfficientNetLite0, adaptive_pooling
from hashtag_core.encoders.text import LoadedText, sentence_vectors
from hashtag_core.errors import ConfigError
from hashtag_core.json_values import Options

SMALLEST_CROP = 0.5
"""Least share of a picture's area that a random resized crop keeps."""


def blocks_to_train(section: EncodersSection, blocks: int, which: str) -> int:
    """How many of the last blocks are trained; ConfigError where the network has fewer."""
    if through_all(section):
        return blocks
    n = int(section.finetune.removeprefix("last:"))
    if n > blocks:
        raise ConfigError(f'encoders.finetune: "{section.finetune}", and the {which} encoder has {blocks} blocks')
    return n


def through_all(section: EncodersSection) -> bool:
    """Whether gradients go through every block."""
    return section.finetune in ("all", "lora")


def tuned_needs(needs: frozenset[str], section: EncodersSection) -> frozenset[str]:
    """What the encoders are to give in place of `needs` where they are trained through.

    A model that reads the user's history keeps the vectors too: posts of a history are read by the pretrained encoder, whose
    vectors are cached, since a post stands in many histories.
    """
    if section.finetune == "none":
        return needs
    found = set(needs)
    kept = frozenset({"image_vector", "text_vector"} if "history" in needs else ())
    for modality, names, trunk in (
        ("image", {"image_vector", "image_grid"}, "image_trunk"),
        ("caption", {"text_vector", "text_states"}, "text_trunk"),
    ):
        if names & needs and modality in section.finetune_of:
            found = (found - (names - kept)) | {trunk}
    return frozenset(found)


class ImageTrunk(nn.Module):
    """uint8 [n, side, side, 3] -> (image_trunk [n, X, C],), float32: what is below the cut."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, section: EncodersSection) -> None:
        super().__init__()
        self.network = backbone
        self.stem: nn.Module | None = None
        if isinstance(backbone, EfficientNetLite0) and not through_all(section):
            blocks = backbone.network._blocks
            below = len(blocks) - blocks_to_train(section, len(blocks), "image")
            self.stem = _EfficientNetStem(backbone.network, below)
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        if self.stem is None:
            return (pixels.flatten(1, 2).float(),)  # whole numbers up to 255: float16 keeps them
        map_BCHW = self.stem((pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std)
        return (map_BCHW.flatten(2).transpose(1, 2),)

    @cached_property
    def shape(self) -> tuple[int, int]:
        """X and C."""
        side = self.network.side_px
        with torch.inference_mode():
            found = self(torch.zeros(1, side, side, 3, dtype=torch.uint8))[0]
        return found.shape[1], found.shape[2]


class _EfficientNetStem(nn.Module):
    def __init__(self, network: Any, below: int) -> None:
        super().__init__()
        self.conv, self.norm, self.activation = network._conv_stem, network._bn0, network._swish
        self.blocks = network._blocks[:below]

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.norm(self.conv(x)))
        for block in self.blocks:
            x = block(x)
        return x


class ImageTop(nn.Module):
    """image_trunk [n, X, C] -> image_vector [n, D] and image_grid [n, R, D]; the part of an image encoder that learns."""

    pooling_RC: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, loaded: LoadedBackbone, section: EncodersSection) -> None:
        super().__init__()
        backbone = copy.deepcopy(loaded.network)
        self.section = section
        self.from_pixels = not isinstance(backbone, EfficientNetLite0) or through_all(section)
        self.side_px = backbone.side_px
        with torch.inference_mode():
            _, map_BDHW = backbone(torch.zeros(1, 3, backbone.side_px, backbone.side_px))
        pooling = adaptive_pooling(map_BDHW.shape[2], map_BDHW.shape[3], section.grid_side)
        self.register_buffer("pooling_RC", torch.from_numpy(pooling), persistent=False)
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1), persistent=False)
        if isinstance(backbone, EfficientNetLite0) and not self.from_pixels:
            network = backbone.network
            below = len(network._blocks) - blocks_to_train(section, len(network._blocks), "image")
            self.blocks = nn.ModuleList(network._blocks[below:])
            self.conv, self.norm, self.activation = network._conv_head, network._bn1, network._swish
            self.requires_grad_(True)
        else:
            self.network = backbone
            self.blocks = nn.ModuleList()
            _train_last(backbone, section)
        if section.augment and not self.from_pixels:
            raise ConfigError(
                'encoders.augment: pictures are flipped and cropped as pixels: encoders.finetune = "all" is needed with '
                f"{loaded.card.id}"
            )

    def forward(self, trunk_BXC: Tensor) -> tuple[Tensor, Tensor]:
        side = math.isqrt(trunk_BXC.shape[1])
        x = trunk_BXC.transpose(1, 2).reshape(len(trunk_BXC), -1, side, side)
        if self.from_pixels:
            if self.training and self.section.augment:
                x = augmented(x)
            vector_BD, map_BDHW = self._run(self.network, (x - self.mean) / self.std)
        else:
            for block in self.blocks:
                x = self._run(block, x)
            map_BDHW = self.activation(self.norm(self.conv(x)))
            vector_BD = map_BDHW.mean(dim=(2, 3))
        return vector_BD.float(), self.pooling_RC @ map_BDHW.float().flatten(2).transpose(1, 2)

    def _run(self, block: nn.Module, x: Tensor) -> Any:
        if self.training and self.section.checkpoint_gradients:
            return checkpoint(block, x, use_reentrant=False)
        return block(x)

    def train(self, mode: bool = True) -> "ImageTop":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def depths(self) -> dict[str, int]:
        """Of each parameter that learns, how many blocks lie above it; what comes after the last block counts as one."""
        name, stack = ("blocks", self.blocks)
        if self.from_pixels and (largest := _largest_stack(self.network)):
            name, stack = f"network.{largest[0]}", largest[1]
        return _depths(self, {f"{name}.{n}.": len(stack) - n for n in range(len(stack))})


class TextTop(nn.Module):
    """text_trunk [n, S, D] and its mask [n, S] -> text_vector [n, D] and text_states [n, S, D]."""

    def __init__(self, loaded: LoadedText, section: EncodersSection) -> None:
        super().__init__()
        layers = layers_of(loaded)
        self.section = section
        self.layers = nn.ModuleList(copy.deepcopy(layer) for layer in layers[trunk_layers(loaded, section) :])
        self.requires_grad_(True)
        if section.finetune == "lora":
            add_lora(self.layers, section.lora_rank)

    def forward(self, trunk_BSD: Tensor, mask_BS: Tensor) -> tuple[Tensor, Tensor]:
        # Not minus infinity: a row without any token would be NaN.
        bias = torch.zeros(mask_BS.shape, dtype=trunk_BSD.dtype, device=trunk_BSD.device)
        bias = bias.masked_fill(~mask_BS, torch.finfo(trunk_BSD.dtype).min)[:, None, None, :]
        states = trunk_BSD
        for layer in self.layers:
            if self.training and self.section.checkpoint_gradients:
                states = checkpoint(layer, states, bias, use_reentrant=False)
            else:
                states = layer(states, bias)
            states = states[0] if isinstance(states, tuple) else states
        states = states.float() * mask_BS.unsqueeze(2)
        return sentence_vectors(states, mask_BS), states

    def depths(self) -> dict[str, int]:
        """As of `ImageTop`."""
        return _depths(self, {f"layers.{n}.": len(self.layers) - 1 - n for n in range(len(self.layers))})


class EncoderTops(nn.Module):
    """The parts of both encoders that learn: a batch with trunks in, the same batch with the features that the family reads out."""

    def __init__(self, image: ImageTop | None, text: TextTop | None, needs: frozenset[str], decay: float) -> None:
        super().__init__()
        self.image, self.text, self.needs, self.decay = image, text, needs, decay

    def forward(self, batch: PostBatch) -> PostBatch:
        found: Options = {}
        if self.image is not None and batch.image_trunk_BXC is not None:
            vector_BD, grid_BRD = self.image(batch.image_trunk_BXC)
            here_B = batch.image_present_B
            if "image_vector" in self.needs:
                found["image_vector_BD"] = vector_BD * here_B[:, None]
            if "image_grid" in self.needs:
                found["image_grid_BRD"] = grid_BRD * here_B[:, None, None]
        if self.text is not None and batch.text_trunk_BSD is not None and batch.text_trunk_mask_BS is not None:
            mask_BS = batch.text_trunk_mask_BS
            vector_BD, states_BSD = self.text(batch.text_trunk_BSD, mask_BS)
            if "text_vector" in self.needs:
                found["text_vector_BD"] = vector_BD * batch.text_present_B[:, None]
            if "text_states" in self.needs:
                found |= {"text_states_BSD": states_BSD, "text_states_mask_BS": mask_BS}
        return dataclasses.replace(batch, **found)

    def rate_scales(self) -> dict[str, float]:
        """Parameter -> share of the encoder's learning rate: `layer_decay` to the power of the blocks above it."""
        found: dict[str, float] = {}
        for name, top in (("image", self.image), ("text", self.text)):
            depths = {} if top is None else top.depths()
            found |= {f"{name}.{parameter}": self.decay**depth for parameter, depth in depths.items()}
        return found

    def levels(self) -> dict[str, int]:
        """Parameter -> how many steps of gradual unfreezing come before it learns: the blocks above it. What comes after the last
        block learns with it."""
        image = {} if self.image is None else {name: max(0, depth - 1) for name, depth in self.image.depths().items()}
        text = {} if self.text is None else self.text.depths()
        return {
            f"{top}.{name}": level for top, found in (("image", image), ("text", text)) for name, level in found.items()
        }


def augmented(pixels_BCHW: Tensor) -> Tensor:
    """Each picture flipped left to right with a chance of one half, and a random part of it (half of its area or more) at the
    size of the whole, as article 004 (docs/models.md) trains. The randomness is torch's own, which a checkpoint keeps."""
    n = len(pixels_BCHW)
    draw = torch.rand(4, n, device=pixels_BCHW.device)
    scale = (SMALLEST_CROP + (1 - SMALLEST_CROP) * draw[0]).sqrt()
    theta = torch.zeros(n, 2, 3, device=pixels_BCHW.device)
    theta[:, 0, 0] = torch.where(draw[1] < 0.5, -scale, scale)
    theta[:, 1, 1] = scale
    theta[:, :, 2] = ((2 * draw[2:] - 1) * (1 - scale)).T
    grid = functional.affine_grid(theta, list(pixels_BCHW.shape), align_corners=False)
    return functional.grid_sample(pixels_BCHW, grid, padding_mode="border", align_corners=False)


def layers_of(loaded: LoadedText) -> nn.ModuleList:
    """The layers of a text encoder; ConfigError for a network that is no stack of BERT's layers."""
    encoder = getattr(loaded.model, "encoder", None)
    layers = getattr(encoder, "layer", None)
    if not isinstance(layers, nn.ModuleList) or getattr(encoder, "relative_attention_bias", None) is not None:
        raise ConfigError(
            f"encoders.finetune: {loaded.card.id} is a {type(loaded.model).__name__}; BERT, RoBERTa and what is built as they are "
            "can be trained through; leave the captions out of encoders.finetune_of"
        )
    return layers


def trunk_layers(loaded: LoadedText, section: EncodersSection) -> int:
    """Layers of a text encoder below the cut."""
    layers = layers_of(loaded)
    return len(layers) - blocks_to_train(section, len(layers), "text")


def text_trunk(loaded: LoadedText, section: EncodersSection) -> LoadedText:
    """The text encoder without the layers that are trained: its token states are the trunk's."""
    model = copy.copy(loaded.model)
    model._modules = dict(loaded.model._modules)
    encoder = copy.copy(loaded.model.encoder)
    encoder._modules = dict(loaded.model.encoder._modules)
    encoder.layer = layers_of(loaded)[: trunk_layers(loaded, section)]
    model.encoder = encoder
    return LoadedText(loaded.card, model, loaded.tokenizer)


def add_lora(network: nn.Module, rank: int) -> None:
    """Freeze a network and add to its linear layers and 1x1 convolutions W the product B A of two matrices of that rank, times 2.
    B begins at zero: before the first step the network gives what it gave. ConfigError where there is nothing to add to."""
    from peft import LoraConfig, inject_adapter_in_model  # it brings transformers and accelerate: seconds

    found = []
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Linear):
            found.append(name)
        if isinstance(module, nn.Conv2d) and (module.kernel_size, module.groups) == ((1, 1), 1):
            found.append(name)
            if type(module) is not nn.Conv2d and tuple(module.stride) == (1, 1):
                # EfficientNet's own class pads, which a 1x1 convolution does not need, and peft cannot make one of it.
                network.set_submodule(name, _plain(module))
    if not found:
        raise ConfigError(
            'encoders.finetune: "lora" adds to linear layers and 1x1 convolutions, and this encoder has none'
        )
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=found), network)


def _plain(module: nn.Conv2d) -> nn.Conv2d:
    """The same 1x1 convolution, of torch's own class."""
    plain = nn.Conv2d(module.in_channels, module.out_channels, 1, bias=module.bias is not None)
    plain.weight, plain.bias = module.weight, module.bias
    return plain


def _train_last(backbone: Backbone, section: EncodersSection) -> None:
    """Let the last blocks of a network learn, and whatever comes after them; ConfigError where it is not told what its blocks are."""
    backbone.requires_grad_(True)
    if section.finetune == "lora":
        add_lora(backbone, section.lora_rank)
    if through_all(section):
        return
    largest = _largest_stack(backbone)
    if largest is None:
        raise ConfigError(f'encoders.finetune: the blocks of {section.image} are not known; there is "all"')
    _, stack = largest
    below = len(stack) - blocks_to_train(section, len(stack), "image")
    learning, seen = set(), False
    for name, parameter in backbone.named_parameters():
        inside = [n for n, block in enumerate(stack) if any(parameter is other for other in block.parameters())]
        seen = seen or bool(inside and inside[0] >= below)
        if seen and not (inside and inside[0] < below):
            learning.add(name)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name in learning)


def _largest_stack(network: nn.Module) -> tuple[str, nn.ModuleList] | None:
    """The blocks of a network, with their name in it: of its lists of two modules or more, the one with most parameters."""
    stacks = [(name, one) for name, one in network.named_modules() if isinstance(one, nn.ModuleList) and len(one) > 1]
    return max(stacks, key=lambda found: sum(value.numel() for value in found[1].parameters()), default=None)


def _depths(top: nn.Module, above: dict[str, int]) -> dict[str, int]:
    """`above`: what the names of a block's parameters begin with -> the blocks above it. What comes after the blocks has none above
    it, what comes before them has all."""
    found, seen = {}, not above
    for name, parameter in top.named_parameters():
        depth = next((depth for prefix, depth in above.items() if name.startswith(prefix)), None)
        seen = seen or depth is not None
        if parameter.requires_grad:
            found[name] = depth if depth is not None else 0 if seen else max(above.values()) + 1
    return found
