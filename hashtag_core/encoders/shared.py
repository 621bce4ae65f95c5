"""Encoders of several models that see the same posts in one process: what two of them would both compute is computed once.

Each model has encoders of its own, which say what it reads and how they run; the networks are those of all models whose encoders
are the same in what a feature depends on. Encoders that are trained with a model (`finetune`) and those that are not are never the same.
"""

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, Literal, cast

import numpy as np
import torch

from hashtag_core.config import EncodersSection
from hashtag_core.encoders import Encoders, load_encoders
from hashtag_core.encoders.description import REGIONS, SECOND

Modality = Literal["image", "caption"]

OUTPUTS: Mapping[Modality, frozenset[str]] = {
    "image": frozenset({"image_vector", "image_grid", "image_trunk", "boxes", SECOND}),
    "caption": frozenset({"text_vector", "text_states", "text_trunk"}),
}
"""What an encoder of each modality can give."""

NO_MATTER: Mapping[Modality, frozenset[str]] = {
    "image": frozenset({"text", "max_tokens"}),
    "caption": frozenset({"image", "image_second", "regions", "grid_side"}),
}
"""Keys of `[encoders]` that a feature of the modality does not depend on."""

OF_TRAINING = frozenset({"cache", "layer_decay", "augment", "checkpoint_gradients"})
"""Keys that no feature depends on."""

WEIGHTS: Mapping[str, tuple[str, ...]] = {
    "backbone": ("image",),
    "_backbone_second": ("image_second",),
    "loaded_text": ("text", "max_tokens"),
}
"""Attributes of `Encoders` that hold weights, and the keys that say which."""


class SharedEncoders:
    """The encoders of the models of one process; `load` in place of `load_encoders`, and `forget` once a batch of posts is done."""

    def __init__(self) -> None:
        self._members: list[_MemberEncoders] = []
        self._runners: dict[tuple[object, ...], Encoders] = {}
        self._found: dict[tuple[object, ...], tuple[list[Any], dict[str, np.ndarray]]] = {}

    def load(
        self, section: EncodersSection, needs: frozenset[str], device: str = "auto", *, threads: int | None = None
    ) -> Encoders:
        """As `load_encoders`."""
        member = load_encoders(section, needs, device, threads=threads, make=partial(_MemberEncoders, self))
        self._members.append(cast(_MemberEncoders, member))
        return member

    def forget(self) -> None:
        """Drop the features that were computed; those of the next posts are computed anew."""
        self._found.clear()

    def adopt_weights(self, encoders: Encoders) -> None:
        """Give encoders the weights that others have read already."""
        for other in [*self._runners.values(), *self._members]:
            for name, keys in WEIGHTS.items():
                same = all(getattr(other.section, key) == getattr(encoders.section, key) for key in keys)
                if same and name in other.__dict__:
                    encoders.__dict__.setdefault(name, other.__dict__[name])

    def encoded(self, member: "_MemberEncoders", of: Modality, values: list[Any]) -> dict[str, np.ndarray]:
        """What `member` reads of these images (the same objects) or captions, computed for all that read something of them."""
        runner = self._runner(member, of)
        key = (runner, of, *(map(id, values) if of == "image" else values))
        if key not in self._found:
            run: Callable[[Any], dict[str, np.ndarray]]
            run = runner.encode_images if of == "image" else runner.encode_captions
            self._found[key] = (
                values,
                run(values),
            )  # with the images, whose ids are those of other objects once they are gone
        found = self._found[key][1]
        return {name: value for name, value in found.items() if member.reads(name)}

    def _runner(self, member: "_MemberEncoders", of: Modality) -> Encoders:
        """The encoders that run, for all members that run in the same way; made anew where one came that reads more."""
        way = member.ways[of]
        together = [other for other in self._members if other.ways[of] == way]
        needs = frozenset().union(*(other.needs & OUTPUTS[of] for other in [*together, member]))
        made = self._runners.get(way)
        if made is None or not needs <= made.needs:
            made = Encoders(member.section, needs, member.device, member.threads, member.backends, as_they_are=True)
            self.adopt_weights(made)
            self._runners[way] = made
        return made


class _MemberEncoders(Encoders):
    """Those of one model."""

    def __init__(
        self,
        shared: SharedEncoders,
        section: EncodersSection,
        needs: frozenset[str],
        device: torch.device,
        threads: int | None = None,
        pinned: Mapping[str, str] | None = None,
        as_they_are: bool = False,
    ) -> None:
        super().__init__(section, needs, device, threads, pinned, as_they_are)
        self._shared = shared
        shared.adopt_weights(self)

    def encode_images(self, images: list[np.ndarray]) -> dict[str, np.ndarray]:
        return self._shared.encoded(self, "image", images)

    def encode_captions(self, captions: list[str]) -> dict[str, np.ndarray]:
        return self._shared.encoded(self, "caption", captions)

    def reads(self, output: str) -> bool:
        """Whether this model reads what an encoder gives under that name; boxes come with the regions alone."""
        name = output.removesuffix("_mask")
        return name in self.needs or (name == "boxes" and bool(REGIONS & self.needs))

    @cached_property
    def ways(self) -> dict[Modality, tuple[object, ...]]:
        """All that the features of each modality depend on beside the posts; regions that are no cells depend on what else is read."""
        backends, ways = self.backends, dict[Modality, tuple[object, ...]]()
        for of, outputs in OUTPUTS.items():
            section = self.section.model_dump_json(exclude=set(NO_MATTER[of] | OF_TRAINING))
            runs = tuple(sorted((name, run) for name, run in backends.items() if (name == "text") == (of == "caption")))
            alone = () if self.section.regions == "grid" or of == "caption" else tuple(sorted(self.needs & outputs))
            ways[of] = (of, section, str(self.device), self.threads, runs, alone)
        return ways
