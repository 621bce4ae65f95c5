"""Tags that a model was not taught, known by their names alone, put behind those of its vocabulary."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from hashtag_core.data.hashtags import normalise_hashtag
from hashtag_core.data.vocabulary import Vocabulary
from hashtag_core.encoders import Encoders
from hashtag_core.errors import ConfigError
from hashtag_core.models import family, list_models, parse_options
from hashtag_core.models.base import ModelOptions
from hashtag_core.models.folder import LoadedModel


def with_tags(
    loaded: LoadedModel, encoders: Encoders, tags: Sequence[str], device: torch.device
) -> tuple[LoadedModel, list[str]]:
    """The model, which is changed, with its vocabulary grown, and the tags that are new, normalised. See `Recommender.add_tags`."""
    check_reads_names(loaded.family, loaded.options)
    wanted = {tag: normalise_hashtag(tag) for tag in tags}
    for tag, normal in wanted.items():
        if not normal:
            raise ConfigError(f"extra tags: {tag!r} is no hashtag")
    new = unknown_tags(wanted.values(), loaded.vocabulary)
    if not new:
        return loaded, new
    loaded.model.add_tags(torch.from_numpy(encoders.encode_tags(new)).to(device))
    return replace(loaded, vocabulary=loaded.vocabulary.with_tags(new)), new


def unknown_tags(tags: Iterable[str], vocabulary: Vocabulary) -> list[str]:
    """Those of these normalised tags that are not in the vocabulary, each once, synonyms replaced as its posts' tags were."""
    synonyms: dict[str, str] = vocabulary.config.get("synonyms", {})
    known = dict.fromkeys(synonyms.get(tag, tag) for tag in tags)
    return [tag for tag in known if tag not in vocabulary.index]


def check_reads_names(name: str, options: ModelOptions) -> None:
    """ConfigError for a family that, with these options, does not read what tags are called."""
    if not family(name).reads_tag_text(options):
        able = ", ".join(other for other in list_models() if family(other).reads_tag_text(parse_options(other, {})))
        raise ConfigError(f"extra tags: this {name} does not read what tags are called; {able} with captions does")
