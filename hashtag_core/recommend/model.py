"""A model folder with the encoders that were trained with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hashtag_core.config import EncodersSection
from hashtag_core.encoders import load_encoders
from hashtag_core.encoders.tops import EncoderTops
from hashtag_core.models import family
from hashtag_core.models.base import ModelOptions
from hashtag_core.models.folder import LoadedModel, load_model_folder


def load_model(folder: str | Path, device: torch.device | str = "cpu") -> LoadedModel:
    """As `load_model_folder`, whose errors it raises; a model that was trained through its encoders takes their trained part from
    the folder, and has to be given what the part below gives."""
    return load_model_folder(folder, device, _tops)


def _tops(described: Mapping[str, Any], options: ModelOptions) -> EncoderTops | None:
    section = EncodersSection(**described.get("recipe", {}).get("encoders", {}))
    if section.finetune == "none":
        return None
    return load_encoders(section, family(described["family"]).needs(options), "cpu").tops()
