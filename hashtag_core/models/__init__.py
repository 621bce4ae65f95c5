"""The model families. A new one is a file in this folder and a line here."""

from hashtag_core.models import linear, popularity
from hashtag_core.models.base import FittedModel, InputSpec, ModelOptions, NeuralModel, TagModel
from hashtag_core.models.registry import create_model, family, list_models, parse_options

__all__ = [
    "FittedModel",
    "InputSpec",
    "ModelOptions",
    "NeuralModel",
    "TagModel",
    "create_model",
    "family",
    "linear",
    "list_models",
    "parse_options",
    "popularity",
]
