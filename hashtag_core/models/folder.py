"""The model folder: what training leaves, MLflow stores, tagging loads and a person can copy. No pickle in it.

    weights.safetensors   parameters and buffers
    model.json            the family, its options and sizes, what the caller tells of the run, SHA-256 of the other files
    vocabulary.json       the hashtags
    tokenizer.json        where the family has a tokenizer of its own
    extra.json            where it has state that is no tensor
    thresholds.json       optional, by `recommend.policy`: what of the ranked list may be given; no part of the version
    README.md             the model card

`model.json` is written last: a folder without it is no model.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from hashtag_core.config import HistorySection
from hashtag_core.data.history import HistoryRule
from hashtag_core.data.model_files import (
    CHECKSUM,
    DESCRIPTION,
    check_model_files,
    content_hash,
    hash_files,
    model_version,
    read_description,
)
from hashtag_core.data.model_record import ModelDescription, ModelInfo
from hashtag_core.data.tokens import CaptionTokenizer
from hashtag_core.data.vocabulary import Vocabulary
from hashtag_core.errors import HashtagError, IntegrityError
from hashtag_core.models.base import InputSpec, ModelOptions, TagModel
from hashtag_core.models.card import model_card
from hashtag_core.models.registry import create_model, parse_options
from hashtag_core.models.tuned import with_encoder

FORMAT = 1
WEIGHTS, VOCABULARY, TOKENIZER, EXTRA, CARD = (
    "weights.safetensors",
    "vocabulary.json",
    "tokenizer.json",
    "extra.json",
    "README.md",
)
RESERVED = ("format", "family", "options", "spec", "history", "version", "files", CHECKSUM)


@dataclass(frozen=True)
class LoadedModel:
    """A model folder in memory."""

    model: TagModel
    """In eval mode, on the device asked for."""
    family: str
    options: ModelOptions
    spec: InputSpec
    vocabulary: Vocabulary
    tokenizer: CaptionTokenizer | None
    info: ModelInfo
    """What training told of it."""
    version: str
    """First 12 hex digits of the SHA-256 over weights, vocabulary, tokenizer, options, sizes, history, encoders and caption rules."""
    history: HistoryRule | None = None
    """What it reads as a post's history; None where it reads none."""
    content_hash: str = ""
    """SHA-256 over every file of the folder, as it was when it was loaded (`data.model_files`)."""


def save_model_folder(
    folder: str | Path,
    model: TagModel,
    options: ModelOptions,
    vocabulary: Vocabulary,
    tokenizer: CaptionTokenizer | None,
    info: ModelInfo,
) -> str:
    """Write the folder (its old content is replaced file by file) and return the version.

    The card shows of `info` what is given. Which posts a history is made of is written down
    for a family that reads one, from its options and the recipe's `[history]`.
    """
    clash = sorted(set(info) & set(RESERVED))
    if clash:
        raise ValueError(f"info: {', '.join(clash)} are written by the folder itself")
    if len(vocabulary) != model.spec.vocabulary_size:
        raise ValueError(f"a model of {model.spec.vocabulary_size} tags cannot be saved with {len(vocabulary)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (DESCRIPTION, TOKENIZER, EXTRA):
        (folder / name).unlink(missing_ok=True)
    tensors = {key: value.detach().cpu().clone().contiguous() for key, value in model.state_dict().items()}
    safetensors.torch.save_file(tensors, folder / WEIGHTS)
    _write_json(folder / VOCABULARY, vocabulary.to_json())
    if tokenizer is not None:
        tokenizer.save(folder / TOKENIZER)
    extra = model.extra_state()
    if extra:
        _write_json(folder / EXTRA, extra)
    described: ModelDescription = {
        "format": FORMAT,
        "family": model.name,
        "options": options.model_dump(mode="json"),
        "spec": asdict(model.spec),
    }
    section = HistorySection(**(info.get("recipe") or {}).get("history", {}))
    history = HistoryRule.of(model.needs(options), options, section)
    if history is not None:
        described["history"] = history.as_record()
    here = hash_files(folder)
    files = {name: here[name] for name in (WEIGHTS, VOCABULARY, TOKENIZER, EXTRA) if name in here}
    described = {**described, "files": files, "files_hash": content_hash(files), **info}
    described["version"] = version = model_version(json.loads(json.dumps(described)), files)
    parameters = sum(value.numel() for value in tensors.values())
    (folder / CARD).write_text(model_card(described, model.paper, len(vocabulary), parameters), encoding="utf-8")
    _write_json(folder / DESCRIPTION, described)
    return version


BuildTops = Callable[[ModelDescription, frozenset[str]], nn.Module | None]
"""`model.json` and the family's needs -> the encoders' parts that were trained with the model, None where none were."""


def load_model_folder(
    folder: str | Path, device: torch.device | str = "cpu", build_tops: BuildTops | None = None
) -> LoadedModel:
    """The model of a folder, every file checked (`data.model_files`) before one is read. `build_tops`: what makes the modules of
    encoders that were trained through (`encoders.trained.trained_tops`).

    Raises NotFoundError where there is no `model.json`, IntegrityError naming the file that is missing, added or not what
    was saved, ConfigError for a family that this release does not have.
    """
    folder = Path(folder)
    described = read_description(folder)
    try:
        if described["format"] != FORMAT:
            raise IntegrityError(f"{folder / DESCRIPTION}: format {FORMAT} expected, found {described['format']!r}")
        name, files = str(described["family"]), dict(described["files"])
        spec, stored_options = InputSpec(**described["spec"]), dict(described["options"])
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{folder / DESCRIPTION}: not a model description: {type(error).__name__}: {error}"
        ) from None
    for file in (WEIGHTS, VOCABULARY):
        if file not in files:
            raise IntegrityError(f"{folder / DESCRIPTION}: lists no {file}")
    checked = check_model_files(folder)
    vocabulary = Vocabulary.load(str(folder / VOCABULARY))
    if len(vocabulary) != spec.vocabulary_size:
        raise IntegrityError(
            f"{folder / VOCABULARY}: {spec.vocabulary_size} tags expected by {DESCRIPTION}, found {len(vocabulary)}"
        )
    tokenizer = CaptionTokenizer.from_file(folder / TOKENIZER) if TOKENIZER in files else None
    try:
        options = parse_options(name, stored_options)
    except HashtagError as error:
        raise type(error)(f"{folder / DESCRIPTION}: {error}") from None
    model = create_model(name, spec, options)
    model = with_encoder(model, build_tops(described, model.needs(options)) if build_tops else None)
    if EXTRA in files:
        model.load_extra_state(json.loads((folder / EXTRA).read_text(encoding="utf-8")))
    try:
        tensors = safetensors.torch.load_file(folder / WEIGHTS)
        _check_shapes(model, tensors)
        model.load_state_dict(tensors)
    except (SafetensorError, RuntimeError, AttributeError) as error:
        raise IntegrityError(f"{folder / WEIGHTS}: not the weights of a {name} with these options: {error}") from None
    return LoadedModel(
        model=model.to(device).eval(),
        family=name,
        options=options,
        spec=spec,
        vocabulary=vocabulary,
        tokenizer=tokenizer,
        info=cast(ModelInfo, {key: value for key, value in described.items() if key not in RESERVED}),
        version=checked.version,
        history=HistoryRule.from_json(described.get("history")),
        content_hash=checked.content_hash,
    )


def _check_shapes(model: TagModel, tensors: Mapping[str, torch.Tensor]) -> None:
    """RuntimeError for a tensor of another shape than a new model of these sizes has.

    A family that stores its train posts takes what the file has: a side that is empty or 1 in a new model is free.
    """
    for key, fresh in model.state_dict().items():
        found = tensors[key].shape if key in tensors else fresh.shape
        if len(found) != fresh.dim() or any(
            new > 1 and new != old for new, old in zip(fresh.shape, found, strict=True)
        ):
            raise RuntimeError(f"{key} is of shape {list(found)}, {list(fresh.shape)} expected")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")
