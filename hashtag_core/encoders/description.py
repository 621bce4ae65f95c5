"""What a set of encoders is, in words that can be compared, and where their outputs are cached."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from hashtag_core.config import EncodersSection
from hashtag_core.data.feature_cache import FeatureKind
from hashtag_core.data.model_record import EncoderIdentity, EncodersIdentity
from hashtag_core.encoders import onnx
from hashtag_core.encoders.backbone import ImageCard
from hashtag_core.encoders.regions import DETECTOR, PRECOMPUTED
from hashtag_core.encoders.tops import EncoderTops, ImageTop, TextTop, trunk_layers
from hashtag_core.errors import ConfigError

if TYPE_CHECKING:
    from hashtag_core.encoders import Encoders

REGIONS = frozenset({"image_grid", "boxes"})

SECOND = "image_vector_second"
"""What the second image encoder gives."""


def identity_of(encoders: "Encoders") -> EncodersIdentity:
    """What their features depend on: equal identities mean equal features (to float16 rounding)."""
    found: EncodersIdentity = {}
    if encoders.image:
        found["image"] = {
            **_image(encoders.image),
            "regions": encoders.regions,
            "region_source": encoders.section.regions,
            **_cut(encoders, "image_trunk"),
        }
    if encoders.detector:
        found["regions"] = {"id": encoders.section.regions, "revision": encoders.detector.revision}
    if encoders.precomputed:
        # Files are added for new posts, so that their content is no part of it.
        dim = encoders.precomputed.dim
        found["regions"] = {"id": encoders.section.regions, "dim": dim, "regions": encoders.regions}
    if encoders.image_second:
        found["image_second"] = _image(encoders.image_second)
    if encoders.text:
        card = encoders.text
        found["text"] = {
            "id": card.id,
            "revision": card.revision,
            "dim": card.dim,
            "max_tokens": card.max_tokens,
            **_cut(encoders, "text_trunk"),
        }
    return found


def _image(card: ImageCard) -> EncoderIdentity:
    return {"id": card.id, "revision": card.revision, "dim": card.dim, "side_px": card.side_px}


def kinds_of(encoders: "Encoders") -> dict[str, FeatureKind]:
    """Their outputs, with the folder of the cache that each is kept in."""
    found: dict[str, FeatureKind] = {}
    if encoders.image:
        folder = f"{file_name(encoders.image.id)}/{encoders.image.revision}"
        side_px = encoders.image.side_px
        found["image_vector"] = FeatureKind("image", f"{folder}/image_vector-{side_px}px", encoders.image.dim)
        grid = f"{folder}/image_grid-{side_px}px-{encoders.section.grid_side}x{encoders.section.grid_side}"
        if encoders.detector:
            source = f"{file_name(encoders.section.regions)}/{encoders.detector.revision}"
            grid = f"{folder}/image_regions-{side_px}px-{encoders.regions}-{file_name(source)}"
            boxes = f"{source}/boxes-{side_px}px-{encoders.regions}"
            found["boxes"] = FeatureKind("image", boxes, 4, rows=encoders.regions)
        found["image_grid"] = FeatureKind("image", grid, encoders.image.dim, rows=encoders.regions)
        if "image_trunk" in encoders.needs:
            cells, dim = encoders.image_trunk.shape
            trunk = f"{folder}/image_trunk-{side_px}px-{cells}x{dim}"
            found["image_trunk"] = FeatureKind("image", trunk, dim, rows=cells)
    if encoders.precomputed:
        folder = f"{file_name(encoders.section.regions)}/{encoders.precomputed.revision}"
        features = f"{folder}/image_grid-{encoders.regions}"
        found["image_grid"] = FeatureKind("image", features, encoders.precomputed.dim, rows=encoders.regions)
        found["boxes"] = FeatureKind("image", f"{folder}/boxes-{encoders.regions}", 4, rows=encoders.regions)
    if encoders.image_second:
        folder = f"{file_name(encoders.image_second.id)}/{encoders.image_second.revision}"
        vector = f"{folder}/image_vector-{encoders.image_second.side_px}px"
        found[SECOND] = FeatureKind("image", vector, encoders.image_second.dim)
    if encoders.text:
        folder = f"{file_name(encoders.text.id)}/{encoders.text.revision}"
        found["text_vector"] = FeatureKind(
            "caption", f"{folder}/text_vector-{encoders.text.max_tokens}tokens", encoders.text.dim
        )
        states = f"{folder}/text_states-{encoders.text.max_tokens}tokens"
        found["text_states"] = FeatureKind("caption", states, encoders.text.dim, rows=0)
        if "text_trunk" in encoders.needs:
            layers = trunk_layers(encoders.loaded_text, encoders.section)
            trunk = f"{folder}/text_trunk-{layers}-{encoders.text.max_tokens}tokens"
            found["text_trunk"] = FeatureKind("caption", trunk, encoders.text.dim, rows=0)
    return {name: kind for name, kind in found.items() if name in encoders.needs}


def tops_of(encoders: "Encoders") -> EncoderTops | None:
    """As `Encoders.tops`."""
    section = encoders.section
    if section.finetune == "none":
        return None
    if section.regions != "grid" and REGIONS & encoders.wanted and "image_trunk" in encoders.needs:
        raise ConfigError(
            f'encoders.finetune: regions of an image encoder that is trained are its own cells: encoders.regions = "grid" is '
            f'needed, found "{section.regions}", or encoders.finetune_of without "image"'
        )
    image = ImageTop(encoders.backbone, section) if "image_trunk" in encoders.needs else None
    text = TextTop(encoders.loaded_text, section) if "text_trunk" in encoders.needs else None
    if image is None and text is None:
        raise ConfigError("encoders.finetune: this model reads no encoder of encoders.finetune_of")
    return EncoderTops(image, text, encoders.wanted, section.layer_decay)


def _cut(encoders: "Encoders", trunk: str) -> EncoderIdentity:
    return {"finetune": encoders.section.finetune} if trunk in encoders.needs else {}


def file_name(encoder: str) -> str:
    return "".join(sign if sign.isalnum() or sign in "._-" else "_" for sign in encoder).strip("._")


def check_section(section: EncodersSection, where: torch.device, backends: Mapping[str, str]) -> None:
    """ConfigError for what cannot be: regions that are not known, a backend that the device or the precision does not have."""
    kind, colon, name = section.regions.partition(":")
    if section.regions != "grid" and not (f"{kind}{colon}" in (DETECTOR, PRECOMPUTED) and name):
        raise ConfigError(
            f"encoders.regions: {section.regions!r} is not known; there are 'grid', 'detector:<hf name or folder>' and "
            "'precomputed:<URI>'"
        )
    if section.backend == "onnx" and section.precision == "bfloat16":
        raise ConfigError(
            'encoders.precision: "bfloat16" is computed by encoders.backend = "torch" alone; ONNX keeps float32'
        )
    if section.backend == "onnx" and where.type != "cpu":
        raise ConfigError(f'encoders.backend: "onnx" runs on CPUs, and this is {where}; take "torch" or "auto"')
    known = ["torch-float32", "torch-bfloat16", *([onnx.OnnxBackend.name] if where.type == "cpu" else [])]
    for which, name in backends.items():
        if name not in known:
            raise ConfigError(f"the {which} encoder cannot run as {name!r} on {where}; there is {', '.join(known)}")
