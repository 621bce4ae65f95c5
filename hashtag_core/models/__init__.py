"""The model families. A new one is a file in this folder and a line in the list below: importing it registers it."""

from hashtag_core.models import (  # noqa: F401
    amnn,
    co_attention,
    design,
    linear,
    lstm_cnn,
    lxmert4hashtag,
    macon,
    mlknn,
    neighbor_voting,
    nic,
    okboomer,
    popularity,
    regression_kriging,
    resnet_multilabel,
    show_attend_tell,
    svm,
    tab_lstm,
    tagnet,
    tweet_embedding,
    user_frequency,
    vgg_object_scene,
)
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
    "list_models",
    "parse_options",
]
