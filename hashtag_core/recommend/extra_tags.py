"""Tags that a model was not taught, known by their names alone, put behind those of its vocabulary."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from hashtag_core.data.hashtags import normalise_hashtag
from hashtag_core.encoders import Encoders
from hashtag_core.errors import ConfigError
from hashtag_core.models import family, list_models, parse_options
from hashtag_core.models.folder import LoadedModel


def with_tags(
    loaded: LoadedModel, encoders: Encoders, tags: Sequence[str], device: torch.device
) -> tuple[LoadedModel, list[str]]:
    """The model, which is changed, with its vocabulary grown, and the tags that are new, normalised. See `Recommender.add_tags`."""
    if not loaded.model.reads_tag_text(loaded.options):
        able = ", ".join(name for name in list_models() if family(name).reads_tag_text(parse_options(name, {})))
        raise ConfigError(
            f"extra tags: this {loaded.family} does not read what tags are called; {able} with captions does"
        )
    vocabulary = loaded.vocabulary
    wanted = {tag: normalise_hashtag(tag) for tag in tags}
    for tag, normal in wanted.items():
        if not normal:
            raise ConfigError(f"extra tags: {tag!r} is no hashtag")
    new = [tag for tag in dict.fromkeys(wanted.values()) if tag not in vocabulary.index]
    if not new:
        return loaded, new
    vectors = encoders.encode_captions(new)["text_vector"]
    loaded.model.add_tags(torch.from_numpy(vectors).to(device))
    counts = np.concatenate([vocabulary.counts, np.zeros(len(new), np.int64)])
    return replace(loaded, vocabulary=replace(vocabulary, tags=[*vocabulary.tags, *new], counts=counts)), new
