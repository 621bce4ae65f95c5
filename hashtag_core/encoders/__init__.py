"""Pretrained encoders of images and captions, behind one object: frozen, or the part below the blocks that are trained (`tops`).

    encoders = load_encoders(recipe.encoders, needs)
    encoders.encode_images([pixels, ...])   -> {"image_vector": float16 [n, D], "image_grid": float16 [n, R, D], ...}
    encoders.encode_captions(["a red bird"]) -> {"text_vector": float16 [n, D], "text_states": [n, S, D], "text_states_mask": [n, S]}

Every output is rounded to float16, whether it goes to the cache or straight to a model: both see the same numbers.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from hashtag_core.config import EncodersSection
from hashtag_core.data.feature_cache import FeatureCache, FeatureKind
from hashtag_core.data.model_record import EncodersIdentity
from hashtag_core.encoders import choice, description, huggingface, onnx, text_onnx
from hashtag_core.encoders import image as image_encoders
from hashtag_core.encoders import text as text_encoders
from hashtag_core.encoders.backbone import ImageCard, LoadedBackbone
from hashtag_core.encoders.choice import Precision
from hashtag_core.encoders.description import REGIONS, SECOND
from hashtag_core.encoders.image import ImageEncoder, Pixels2Features, TorchBackend
from hashtag_core.encoders.regions import DETECTOR, PRECOMPUTED, Detector, Precomputed, cells_under, grid_boxes
from hashtag_core.encoders.tag_words import TagWords
from hashtag_core.encoders.text import LoadedText, TextBackend, TextCard, TextEncoder, TorchTextBackend
from hashtag_core.encoders.tops import EncoderTops, ImageTrunk, text_trunk, tuned_needs
from hashtag_core.errors import ConfigError

__all__ = ["Encoders", "load_encoders"]


class Encoders:
    """The encoders that a set of `needs` asks for; a modality that is not needed has none (its `dim` is 0). The default encoders' weights are read when the first image or caption is encoded: who finds everything in the
    cache never loads them. Not for threads; each process loads its own.
    """

    def __init__(
        self,
        section: EncodersSection,
        needs: frozenset[str],
        device: torch.device,
        threads: int | None = None,
        pinned: Mapping[str, str] | None = None,
        as_they_are: bool = False,
    ) -> None:
        self.section = section
        self.wanted = needs
        """What the model reads; `needs` has trunks in place of what is computed from them."""
        needs = needs if as_they_are else tuned_needs(needs, section)
        if needs & REGIONS and section.regions != "grid":
            needs = needs | REGIONS  # boxes are each image's own, and cached like the features
        self.needs = needs
        self.device = device
        self.threads = threads
        self.pinned = pinned or {}

    @cached_property
    def image(self) -> ImageCard | None:
        """What the image encoder is, None where no image is needed."""
        if not (self._image_outputs or "image_trunk" in self.needs):
            return None
        known = image_encoders.packaged_card(self.section.image)
        return known or self.backbone.card

    @cached_property
    def image_second(self) -> ImageCard | None:
        """What the second image encoder is, None where its vector is not needed."""
        if SECOND not in self.needs:
            return None
        if self.section.image_second is None:
            raise ConfigError("encoders.image_second: this model reads two image encoders; name the second one")
        known = image_encoders.packaged_card(self.section.image_second)
        return known or self._backbone_second.card

    @cached_property
    def text(self) -> TextCard | None:
        """What the text encoder is, None where no caption is needed."""
        if not (self._outputs(text_encoders.OUTPUTS) or "text_trunk" in self.needs):
            return None
        known = text_encoders.packaged_card(self.section.text, self.section.max_tokens)
        return known or self.loaded_text.card

    @cached_property
    def precomputed(self) -> Precomputed | None:
        """Where regions come from a file: what finds them by a post's id."""
        if not (self.needs & REGIONS and self.section.regions.startswith(PRECOMPUTED)):
            return None
        return Precomputed(self.section.regions.removeprefix(PRECOMPUTED), self.regions)

    @cached_property
    def detector(self) -> Detector | None:
        """Where regions are those of a detection model: that model."""
        if not (self.needs & REGIONS and self.section.regions.startswith(DETECTOR)):
            return None
        source = huggingface.source_of(f"hf:{self.section.regions.removeprefix(DETECTOR)}", "encoders.regions")
        return Detector(source, self.regions, self.device)

    @property
    def image_dim(self) -> int:
        """D of `image_vector` and `image_grid`; ConfigError where precomputed regions make two of it."""
        vector = self.image.dim if self.image else 0
        grid = self.precomputed.dim if self.precomputed else vector
        if grid and vector and grid != vector:
            raise ConfigError(
                f"encoders.regions: {self.section.regions} has {grid} features a region, {self.section.image} gives vectors "
                f"of {vector}, and this model reads both; name an image encoder of {grid} features"
            )
        return grid or vector

    @property
    def image_second_dim(self) -> int:
        """D of `image_vector_second`."""
        return self.image_second.dim if self.image_second else 0

    @property
    def text_dim(self) -> int:
        """D of `text_vector` and `text_states`."""
        return self.text.dim if self.text else 0

    @property
    def regions(self) -> int:
        """R of `image_grid`."""
        return self.section.grid_side**2

    @cached_property
    def boxes(self) -> np.ndarray | None:
        """float32 [R, 4]: x0, y0, x1, y1 of each region in [0, 1]; None where each image has its own."""
        return grid_boxes(self.section.grid_side) if self.section.regions == "grid" else None

    @property
    def image_side_px(self) -> int:
        """Side that `decode_image` must decode to; 0 where no image is needed."""
        card = self.image or self.image_second
        return card.side_px if card else 0

    @property
    def identity(self) -> EncodersIdentity:
        """What the features depend on, for `model.json`: equal identities mean equal features (to float16 rounding)."""
        return description.identity_of(self)

    @property
    def backends(self) -> dict[str, str]:
        """How they run here, for a plan or a log: `{"image": "onnx-float32", "text": "torch-bfloat16"}`.

        Where that is not settled by the recipe the text encoder is loaded and measured, once a machine (`choice.choose`). Trunks
        run in torch and float32, and are not told.
        """
        found = {}
        if self.image and self._image_outputs:
            found["image"] = self._image_backend(self.image, "image")
        if self.image_second:
            found["image_second"] = self._image_backend(self.image_second, "image_second")
        if self._outputs(text_encoders.OUTPUTS):
            found["text"] = self._text_backend
        return found

    @property
    def kinds(self) -> dict[str, FeatureKind]:
        """The outputs, with the folder of the cache that each is kept in."""
        return description.kinds_of(self)

    def open_cache(self, root: str) -> FeatureCache:
        """The cache below `root` of what these encoders give."""
        return FeatureCache(root, self.kinds, self.boxes if {"image_grid", "image_trunk"} & self.kinds.keys() else None)

    def tops(self) -> EncoderTops | None:
        """The parts that are trained with the model, pretrained; None where none is. ConfigError for what cannot be trained."""
        return description.tops_of(self)

    def precomputed_regions(self, post_ids: list[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Which posts have regions [n], and theirs: `image_grid` and `boxes`, float16; of `precomputed:` regions alone."""
        assert self.precomputed is not None
        return self.precomputed.find(post_ids)

    def encode_images(self, images: list[np.ndarray]) -> dict[str, np.ndarray]:
        """uint8 [side, side, 3] each -> `image_vector`, `image_grid`, `boxes` (a detector's) and `image_vector_second`, float16,
        as far as needed. Precomputed regions are no encoder's: see `precomputed_regions`."""
        side = self.image_side_px
        stacked = np.stack(images) if images else np.zeros((0, side, side, 3), np.uint8)
        found = self._image_encoder.encode(stacked) if self._image_outputs else {}
        if "image_trunk" in self.needs:
            found |= self._image_trunk_encoder.encode(stacked)
        if self.detector and "image_grid" in found:
            found["boxes"] = self.detector.boxes(stacked, self.section.batch_size)
            cells = math.isqrt(found["image_grid"].shape[1])
            found["image_grid"] = cells_under(found["boxes"], cells, cells) @ found["image_grid"]
        if self.image_second:
            found[SECOND] = self._image_encoder_second.encode(stacked)["image_vector"]
        return {name: _half(value) for name, value in found.items()}

    def encode_captions(self, captions: list[str]) -> dict[str, np.ndarray]:
        """Captions -> `text_vector`, `text_states` (float16) and `text_states_mask` (bool), as far as they are needed."""
        if self.text is None:
            return {}
        found = self._text_encoder.encode(captions) if self._outputs(text_encoders.OUTPUTS) else {}
        if "text_trunk" in self.needs:
            trunk = self._text_trunk_encoder.encode(captions)
            found |= {name.replace("states", "trunk"): value for name, value in trunk.items()}
        return {name: value if value.dtype == bool else _half(value) for name, value in found.items()}

    def encode_tags(self, tags: Sequence[str]) -> np.ndarray:
        """What tags say, cut into words (`tag_words`), as captions are encoded: `text_vector` [V, D], float16."""
        words = TagWords(self.text_tokenizer_file)
        return self.encode_captions([words.split(tag) for tag in tags])["text_vector"]

    @property
    def text_folder(self) -> str:
        """Transformers folder (or hub name) of the text encoder, whether or not it is loaded."""
        return text_encoders.text_source(self.section.text)

    @property
    def text_tokenizer_file(self) -> Path:
        """`tokenizer.json` of the text encoder, whether or not it is loaded."""
        return text_encoders.tokenizer_file(self.section.text)

    def _outputs(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in names if name in self.needs)

    @property
    def _image_outputs(self) -> tuple[str, ...]:
        """What the image encoder is to give: precomputed regions are not its own."""
        wanted = self._outputs(image_encoders.OUTPUTS)
        return tuple(name for name in wanted if name != "image_grid" or self.precomputed is None)

    @cached_property
    def backbone(self) -> LoadedBackbone:
        return image_encoders.load_backbone(self.section.image)

    @cached_property
    def _backbone_second(self) -> LoadedBackbone:
        assert self.section.image_second is not None
        return image_encoders.load_backbone(self.section.image_second)

    @cached_property
    def _image_encoder(self) -> ImageEncoder:
        card, names = self.image, self._image_outputs
        if card and not self.detector and self._image_backend(card, "image") == onnx.OnnxBackend.name:
            ready = onnx.OnnxBackend.ready(self.section.image, names, self.section.grid_side, self.threads)
            if ready is not None:
                return ImageEncoder(ready, names, card.side_px, self.section.batch_size)
        return self._image_encoder_of(self.backbone, self._image_outputs, "image")

    @cached_property
    def _image_encoder_second(self) -> ImageEncoder:
        return self._image_encoder_of(self._backbone_second, ("image_vector",), "image_second")

    def _image_encoder_of(self, backbone: LoadedBackbone, outputs: tuple[str, ...], which: str) -> ImageEncoder:
        # Under a detector's boxes lie the cells themselves, and no pooled ones.
        side = image_encoders.map_side(backbone.network) if self.detector else self.section.grid_side
        module = Pixels2Features(backbone.network, outputs, side).eval()
        backend: image_encoders.ImageBackend
        name = self._image_backend(backbone.card, which)
        if name == onnx.OnnxBackend.name:
            backend = onnx.OnnxBackend(module, backbone, self.threads)
        else:
            backend = TorchBackend(module, self.device, "bfloat16" if name == "torch-bfloat16" else "float32")
        return ImageEncoder(backend, outputs, backbone.card.side_px, self.section.batch_size)

    @cached_property
    def image_trunk(self) -> ImageTrunk:
        return ImageTrunk(self.backbone.network, self.section).eval()

    @cached_property
    def _image_trunk_encoder(self) -> ImageEncoder:
        backend = TorchBackend(self.image_trunk, self.device, "float32")
        return ImageEncoder(backend, ("image_trunk",), self.backbone.card.side_px, self.section.batch_size)

    @cached_property
    def loaded_text(self) -> LoadedText:
        return text_encoders.load_text(self.section.text, self.section.max_tokens)

    @cached_property
    def _text_trunk_encoder(self) -> TextEncoder:
        trunk = text_trunk(self.loaded_text, self.section)
        backend = TorchTextBackend(trunk.model, self.device, "float32")
        return TextEncoder(trunk, backend, ("text_states",), self.section.batch_size)

    @cached_property
    def _text_encoder(self) -> TextEncoder:
        chosen = self._text_backend
        if chosen == text_onnx.OnnxTextBackend.name:
            names = self._outputs(text_encoders.OUTPUTS)
            made = text_onnx.OnnxTextBackend.ready(self.section.text, self.section.max_tokens, names, self.threads)
            if made is not None:
                return self._text_encoder_of(*made)
        return self._text_encoder_of(self.loaded_text, self._text_backend_of(self.loaded_text, chosen, self.threads))

    def _text_encoder_of(self, loaded: LoadedText, backend: TextBackend) -> TextEncoder:
        return TextEncoder(loaded, backend, self._outputs(text_encoders.OUTPUTS), self.section.batch_size)

    def _text_backend_of(self, loaded: LoadedText, name: str, threads: int | None) -> TextBackend:
        if name == text_onnx.OnnxTextBackend.name:
            return text_onnx.OnnxTextBackend(loaded, self._outputs(text_encoders.OUTPUTS), threads)
        precision: Precision = "bfloat16" if name == "torch-bfloat16" else "float32"
        return TorchTextBackend(loaded.model, self.device, precision)

    @cached_property
    def _text_backend(self) -> str:
        """The name of what runs the text encoder."""
        if "text" in self.pinned:
            return self.pinned["text"]
        allowed = self._allowed_text_backends()
        if len(allowed) == 1:
            return allowed[0]
        loaded = text_encoders.load_text(self.section.text, self.section.max_tokens)
        samples = text_encoders.sample_batches(loaded.card, self.section.batch_size)

        def candidate(name: str) -> Callable[[], Callable[[], object]]:
            def load() -> Callable[[], object]:
                backend = self._text_backend_of(loaded, name, 1)
                return lambda: [backend.run(*batch) for batch in samples]

            return load

        # Not of the outputs: two models in one run, of which one reads more, would have the network run twice.
        made_of = [loaded.card, self.section.batch_size, torch.__version__, onnx.runtime_version()]
        # On one thread: several wait for each other by spinning, which on a busy machine is most of what they do.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            found, _ = choice.choose({name: candidate(name) for name in allowed}, made_of, what=loaded.card.id)
        finally:
            torch.set_num_threads(threads)
        return found

    def _allowed_text_backends(self) -> list[str]:
        """Those that the recipe and the device leave, in order of preference; equal to float32 in eager torch by tests."""
        by_torch, by_onnx = f"torch-{self._precision}", text_onnx.OnnxTextBackend.name
        if self.section.backend != "auto":
            return [by_onnx if self.section.backend == "onnx" else by_torch]
        if self.device.type != "cpu" or self.section.precision == "bfloat16" or not onnx.can_export():
            return [by_torch]
        return [by_torch, by_onnx]

    def _image_backend(self, card: ImageCard, which: str) -> str:
        """The name of what runs that image encoder."""
        if which in self.pinned:
            return self.pinned[which]
        return onnx.OnnxBackend.name if self._takes_onnx(card) else f"torch-{self._image_precision(card)}"

    def _takes_onnx(self, card: ImageCard) -> bool:
        """`auto`: for a convolutional network on a CPU, where it is by far the fastest and keeps float32."""
        if self.section.backend != "auto":
            return self.section.backend == "onnx"
        return card.convolutional and self.device.type == "cpu" and onnx.can_export()

    def _image_precision(self, card: ImageCard) -> Precision:
        """Float32 for a convolutional network: bfloat16 changed one in twenty of its top ten tags."""
        return "float32" if card.convolutional else self._precision

    @property
    def _precision(self) -> Precision:
        return choice.precision_of(self.section, self.device)


def load_encoders(
    section: EncodersSection,
    needs: frozenset[str],
    device: str = "auto",
    *,
    threads: int | None = None,
    backends: Mapping[str, str] | None = None,
    as_they_are: bool = False,
    make: Callable[..., Encoders] = Encoders,
) -> Encoders:
    """The encoders that `needs` (names of `batches.FEATURES`) asks for; trunks for those that `section.finetune` trains, unless
    the needs are to be taken `as_they_are`.

    `device`: a torch device, or `auto` for the first GPU, else the CPU. `threads`: CPU threads of this process's
    encoders; None leaves the library's choice (an actor that shares a machine passes its own share). `backends`: how they
    have to run, as `Encoders.backends` told it in another process of the run; None: as the section says, `auto` as measured here.
    NotFoundError where weights are missing, IntegrityError where they are not the pinned ones, ConfigError where the
    section asks for what cannot be.
    """
    where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    description.check_section(section, where, backends or {})
    if threads is not None:
        torch.set_num_threads(threads)
    encoders = make(section, needs, where, threads, backends, as_they_are)
    first, second, _ = encoders.image, encoders.image_second, encoders.text  # what is missing or broken is said now
    _ = encoders.detector, encoders.image_dim
    if first and second and first.side_px != second.side_px:
        raise ConfigError(
            f"encoders.image_second: {second.id} reads pictures of {second.side_px} px and {first.id} of {first.side_px} px; "
            "two encoders of one size are needed, since a picture is decoded once"
        )
    return encoders


def _half(values: np.ndarray) -> np.ndarray:
    top = float(np.finfo(np.float16).max)
    return np.asarray(np.clip(values, -top, top), dtype=np.float16)
