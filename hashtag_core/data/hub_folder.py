"""A model folder in the layout of the Hugging Face hub, and back.

    config.json          the family and the version; what the hub looks for
    model.safetensors    the weights, under the hub's name
    README.md            the card, with the hub's metadata before it
    all else             as in the model folder

`huggingface_hub.upload_folder` pushes it; `hf:OWNER/NAME[@REVISION]` is a MODEL that pulls it. Nothing that the hub says is
believed: the folder that comes back is checked file by file as every other one.
"""

import json
import shutil
from pathlib import Path

from hashtag_core.data.model_files import DESCRIPTION, LEFTOVERS, check_model_files, read_description
from hashtag_core.errors import ConfigError, NotFoundError, StorageError

SCHEME = "hf:"
CONFIG, CARD = "config.json", "README.md"
WEIGHTS, HUB_WEIGHTS = "weights.safetensors", "model.safetensors"
MODEL_TYPE = "hashtag-recommender"


def to_hub_folder(folder: str | Path, into: str | Path) -> Path:
    """Write the hub's layout of a checked model folder to `into`, which must be empty or not there.

    IntegrityError for a folder that is not what it says, ConfigError for an `into` that holds something.
    """
    source, target = Path(folder), Path(into)
    if target.exists() and any(target.iterdir()):
        raise ConfigError(f"{target}: an empty folder expected, it holds {next(target.iterdir()).name}")
    described = check_model_files(source).description
    target.mkdir(parents=True, exist_ok=True)
    for name in sorted(check_model_files(source).files):
        if name not in (CARD, CONFIG):
            shutil.copyfile(source / name, target / (HUB_WEIGHTS if name == WEIGHTS else name))
    config = {"model_type": MODEL_TYPE, "family": described["family"], "version": described["version"]}
    (target / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    card = (source / CARD).read_text(encoding="utf-8") if (source / CARD).is_file() else ""
    metadata = ["---", f"library_name: {MODEL_TYPE}", "tags:", "- hashtags", f"- {described['family']}", "---", ""]
    (target / CARD).write_text("\n".join(metadata) + card, encoding="utf-8")
    return target


def from_hub_folder(folder: str | Path, into: str | Path) -> Path:
    """The model folder of a hub folder, in `into`; checked. NotFoundError for a folder that is none."""
    source, target = Path(folder), Path(into)
    if not (source / DESCRIPTION).is_file() or not (source / HUB_WEIGHTS).is_file():
        raise NotFoundError(f"{source}: no model of this project: {DESCRIPTION} and {HUB_WEIGHTS} expected")
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.name not in (*LEFTOVERS, CONFIG):
            name = WEIGHTS if path.name == HUB_WEIGHTS else path.name
            if path.is_dir():
                shutil.copytree(path, target / name)  # no model has one: the check says so
            else:
                shutil.copyfile(path, target / name)
    check_model_files(target)
    return target


def pull(model: str, into: str | Path) -> Path:
    """The model folder of `hf:OWNER/NAME[@REVISION]`, or of `hf:` and a local folder in the hub's layout.

    ConfigError for another form, NotFoundError for a repository that is not there, StorageError where the hub is away.
    """
    location = model.removeprefix(SCHEME)
    if Path(location).is_dir():
        return from_hub_folder(location, into)
    name, _, revision = location.partition("@")
    if name.count("/") != 1 or not all(name.split("/")):
        raise ConfigError(
            f"{model}: a model of the hub is hf:OWNER/NAME or hf:OWNER/NAME@REVISION (or hf: and a folder)"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        found = snapshot_download(name, revision=revision or None)
    except RepositoryNotFoundError:
        raise NotFoundError(f"{model}: the hub has no such model, or does not show it to you") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        cause = str(error).strip().split("\n", 1)[0]
        raise StorageError(f"{model}: cannot be downloaded: {cause}") from None
    read_description(found)
    return from_hub_folder(found, into)
