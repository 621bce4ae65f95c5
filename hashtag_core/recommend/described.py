"""A model folder as it describes itself: family, options, vocabulary, encoders; no weight is read into memory.

For who plans what others do with the model: the driver of an evaluation is on a machine with little memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hashtag_core.config import EncodersSection
from hashtag_core.data.history import HistoryRule
from hashtag_core.data.model_files import check_model_files
from hashtag_core.data.model_record import EncodersIdentity, ModelInfo
from hashtag_core.data.vocabulary import Vocabulary
from hashtag_core.encoders import Encoders, load_encoders
from hashtag_core.errors import HashtagError, IntegrityError
from hashtag_core.models.base import ModelOptions, TagModel
from hashtag_core.models.folder import RESERVED, VOCABULARY
from hashtag_core.models.registry import family, parse_options


@dataclass(frozen=True)
class DescribedModel:
    """What is known of a model without its weights."""

    folder: Path
    family: type[TagModel]
    options: ModelOptions
    vocabulary: Vocabulary
    history: HistoryRule | None
    info: ModelInfo
    """What training told of it."""
    encoders: Encoders
    """Those that it was trained on; the packaged ones are opened when something is encoded, and not before."""
    version: str


def describe_model(folder: Path, uri: str) -> DescribedModel:
    """The model of a folder, whose files are compared with their hashes; `uri` names it in messages.

    NotFoundError where there is none, IntegrityError for a broken folder or for encoders that are not those the model was
    trained on, ConfigError for a family that this release does not have.
    """
    checked = check_model_files(folder)
    described = cast(Mapping[str, Any], checked.description)
    name = str(described.get("family"))
    try:
        options = parse_options(name, dict(described.get("options") or {}))
    except HashtagError as error:
        raise type(error)(f"{folder}: {error}") from None
    info = cast(ModelInfo, {key: value for key, value in described.items() if key not in RESERVED})
    section = EncodersSection(**info.get("recipe", {}).get("encoders", {}))
    encoders = load_encoders(section, family(name).needs(options), "cpu")
    check_identity(uri, info.get("encoders", {}), encoders.identity)
    return DescribedModel(
        folder=folder,
        family=family(name),
        options=options,
        vocabulary=Vocabulary.load(str(folder / VOCABULARY)),
        history=HistoryRule.from_json(described.get("history")),
        info=info,
        encoders=encoders,
        version=checked.version,
    )


def check_identity(model: str, trained: EncodersIdentity, here: EncodersIdentity) -> None:
    """IntegrityError if the encoders are not those whose features the model learned from."""
    before = cast(Mapping[str, Mapping[str, object]], trained)
    for modality, found in cast(Mapping[str, Mapping[str, object]], here).items():
        expected = before.get(modality)
        if expected != found:
            differing = [key for key in found if not isinstance(expected, Mapping) or expected.get(key) != found[key]]
            differences = "; ".join(f"{key}: {(expected or {}).get(key)!r}, here {found[key]!r}" for key in differing)
            raise IntegrityError(
                f"model {model} was trained on another {modality} encoder than is here ({differences})"
            )
