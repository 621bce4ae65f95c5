"""Loading `hf:<name or folder>`: any transformers model, its revision, and whether all of its weights were there."""

import logging
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from hashtag_core.encoders.packaged import file_sha256
from hashtag_core.errors import ConfigError, IntegrityError, NotFoundError
from hashtag_core.json_values import JsonObject

logger = logging.getLogger(__name__)

PREFIX = "hf:"


def source_of(encoder: str, section_key: str) -> str:
    """The name or folder behind `hf:`; ConfigError for anything else."""
    source = encoder.removeprefix(PREFIX)
    if source == encoder or not source:
        raise ConfigError(f"{section_key}: {encoder!r} is no encoder; name the default one, or hf:<name or folder>")
    folder = Path(source).expanduser()
    if folder.is_dir() or source.startswith((".", "/", "~")):
        if not (folder / "config.json").is_file():
            raise NotFoundError(f"{section_key}: no transformers model in {folder}: there is no config.json")
        return str(folder)
    return source


def load_model(source: str, cls: Any = None) -> tuple[Any, set[str]]:
    """The bare model (or one of the class `cls`) in eval mode, and the names of parameters that the checkpoint lacks (randomly initialised).

    A dual model (CLIP, SigLIP) and an encoder-decoder come whole: the caller takes its half.
    NotFoundError where there is no such model, or no safe weights file (pickled weights are not loaded), IntegrityError
    for a file that is cut or of other shapes than its configuration.
    """
    from transformers import AutoModel
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        model, report = (cls or AutoModel).from_pretrained(source, output_loading_info=True, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise NotFoundError(f"{PREFIX}{source}: cannot be loaded: {_first_line(error)}") from None
    except (SafetensorError, RuntimeError) as error:
        raise IntegrityError(f"{PREFIX}{source}: its weights cannot be read: {_first_line(error)}") from None
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
    return model.eval().requires_grad_(False), set(report["missing_keys"])


def half_of(model: Any, name: str) -> Any:
    """The tower `name` of a dual model, the encoder of an encoder-decoder, any other model as it is."""
    model = getattr(model, name, model)
    return model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model


def revision_of(source: str, model: Any) -> str:
    """The hub's commit hash, or the SHA-256 of the folder's weights files."""
    if Path(source).is_dir():
        weights = sorted(Path(source).glob("*.safetensors"))
        if not weights:
            raise NotFoundError(f"{PREFIX}{source}: no .safetensors file in it")
        return file_sha256(*weights)
    commit = getattr(model.config, "_commit_hash", None)
    if not commit:
        raise NotFoundError(f"{PREFIX}{source}: its revision (commit hash) cannot be told")
    return str(commit)


def require_complete(missing: set[str], allowed: str, source: str) -> bool:
    """False where parameters with `allowed` in their name are missing; ConfigError where any other is.

    A pooler that the checkpoint lacks is drawn anew in every process: its output must not be used.
    """
    others = sorted(name for name in missing if allowed not in name)
    if others:
        raise ConfigError(f"{PREFIX}{source}: its weights lack {others[0]} ({len(missing)} parameters in all)")
    return not missing


def preprocessor_of(source: str) -> JsonObject:
    """`preprocessor_config.json`; NotFoundError where there is none."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        found, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except OSError as error:
        raise NotFoundError(f"{PREFIX}{source}: no preprocessor_config.json: {_first_line(error)}") from None
    return dict(found)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
