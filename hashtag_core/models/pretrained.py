"""Weights that a family starts from: what they are checked for before training, and how they are copied in whole or not at all.

A start that leaves a part of the model as it was drawn looks like success: it trains, and scores a little worse. So what the
source lacks is refused like what it has too much, by name.
"""

import itertools
import json
import logging
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from hashtag_core.data.tokens import CaptionTokenizer
from hashtag_core.errors import ConfigError, IntegrityError, NotFoundError

logger = logging.getLogger(__name__)

NAMED = 3
"""Parameters that a message names."""
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "vocab.json", "spiece.model")
WORDS = "words"
CHECKED_LINES = 1000
"""Lines of a file of word vectors that are looked at before training."""


def read_transformers(cls: Any, name: str, kind: str, where: str) -> Mapping[str, Tensor]:
    """The weights of a transformers model of class `cls` and `model_type` `kind`: a folder, or a name that the hub knows.

    NotFoundError where there is none, ConfigError for a model of another kind or for weights that lack a parameter of
    their own configuration (it would be drawn at random), IntegrityError for a file that cannot be read to its end.
    `where` heads each message.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise NotFoundError(f"{where}: no {kind.upper()} at {name!r}: {first_line(error)}") from None
    if config.model_type != kind:
        raise ConfigError(f"{where}: a {kind.upper()} expected, found {config.model_type!r} in {name!r}")
    try:
        model, report = cls.from_pretrained(name, output_loading_info=True)
    except (SafetensorError, EOFError, pickle.UnpicklingError, RuntimeError) as error:
        raise IntegrityError(f"{where}: the weights of {name!r} cannot be read: {first_line(error)}") from None
    except (OSError, ValueError) as error:
        raise NotFoundError(f"{where}: no {kind.upper()} at {name!r}: {first_line(error)}") from None
    lacking = sorted(key for key in report["missing_keys"] if "pooler" not in key or kind != "bert")
    if lacking:
        raise ConfigError(f"{where}: {name!r} lacks weights of its own configuration: {named(lacking)}")
    weights: Mapping[str, Tensor] = model.state_dict()
    return weights


def require_same(
    own: Mapping[str, Tensor], source: Mapping[str, Tensor], where: str, optional: Callable[[str], bool]
) -> list[str]:
    """The keys that are to be copied; those for which `optional` is true may be of another shape.

    ConfigError naming what the source lacks, has too much, or has in another shape. No value is read.
    """
    lacking = [key for key in own if key not in source]
    extra = [key for key in source if key not in own]
    shaped = [key for key in own if key in source and own[key].shape != source[key].shape and not optional(key)]
    faults = []
    if lacking:
        faults.append(f"it lacks {named(lacking)}, which would stay random")
    if extra:
        faults.append(f"it has more than the options ask for: {named(extra)}")
    if shaped:
        shapes = f"{tuple(source[shaped[0]].shape)}, here {tuple(own[shaped[0]].shape)}"
        faults.append(f"it has other sizes: {named(shaped)} ({shapes})")
    if faults:
        raise ConfigError(f"{where} has other sizes or layers than the options: {'; '.join(faults)}")
    return [key for key in own if own[key].shape == source[key].shape]


def require_same_words(tokenizer: CaptionTokenizer | None, name: str, where: str) -> None:
    """ConfigError where the model at `name` was trained with other ids for its words than this tokenizer gives.

    A folder without a tokenizer cannot be asked; that is said in the log.
    """
    if tokenizer is None:
        return
    if Path(name).is_dir() and not any(Path(name, file).is_file() for file in TOKENIZER_FILES):
        logger.warning(
            "%s: %s has no tokenizer: whether its word ids are the text encoder's cannot be told", where, name
        )
        return
    from transformers import AutoTokenizer

    try:
        theirs: dict[str, int] = AutoTokenizer.from_pretrained(name).get_vocab()
    except Exception as error:  # noqa: BLE001  the library raises whatever a broken file leads to
        raise IntegrityError(f"{where}: the tokenizer of {name!r} cannot be read: {first_line(error)}") from None
    ours = tokenizer.words()
    differing = sorted((number, word) for word, number in ours.items() if theirs.get(word) != number)
    if not differing:
        return
    word = differing[0][1]
    raise ConfigError(
        f"{where}: {name!r} has another vocabulary than the text encoder's tokenizer ({len(theirs)} words, here {len(ours)}): "
        f"{word!r} is {theirs.get(word, 'no word')} there and {ours.get(word, 'no word')} here; its embeddings would be "
        "those of other words. encoders.text names the tokenizer"
    )


def check_word_vectors(path: str, size: int) -> None:
    """NotFoundError where there is no such file, ConfigError where it has no line of vectors of `size` numbers."""
    for _ in itertools.islice(_vectors(path, size, None), CHECKED_LINES):
        return
    raise ConfigError(f"{path}: no word vectors in it: lines `word x1 x2 ...` with {size} numbers are expected")


def copy_word_vectors(weight_WE: Tensor, path: str, words: Mapping[str, int], what: str = WORDS) -> int:
    """Rows of `weight_WE` from a text file of word vectors (GloVe, fastText and word2vec text formats); returns how many.

    NotFoundError for a file that is not there, ConfigError for vectors of another size, and for a file that has none of the
    words of the captions. `what` they are called in messages.
    """
    copied = 0
    with torch.no_grad():
        for word, vector in _vectors(path, weight_WE.shape[1], words):
            weight_WE[words[word]] = torch.from_numpy(vector)
            copied += 1
    if words and not copied and what == WORDS:
        raise ConfigError(f"{path}: it has none of the {len(words)} {what}: {named(sorted(words))}")
    logger.info("%s: vectors of %d of %d %s; the others start at random", path, copied, len(words), what)
    return copied


def _vectors(path: str, size: int, words: Mapping[str, int] | None) -> Iterator[tuple[str, np.ndarray]]:
    """Those words of the file (None: all) with their vectors."""
    if not Path(path).is_file():
        raise NotFoundError(f"model.word_vectors: no file at {path}")
    with Path(path).open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            word, *values = line.rstrip().split(" ")
            if (words is not None and word not in words) or len(values) == 1:  # a fastText header is two numbers
                continue
            if len(values) != size:
                raise ConfigError(
                    f"{path}: line {number}: {size} numbers expected (model.embedding), found {len(values)}"
                )
            try:
                yield word, np.array(values, dtype=np.float32)
            except ValueError:
                raise ConfigError(f"{path}: line {number}: numbers expected, found {values[0]!r}") from None


def named(keys: list[str]) -> str:
    """The first of them, and how many more."""
    more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return ", ".join(keys[:NAMED]) + more


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
