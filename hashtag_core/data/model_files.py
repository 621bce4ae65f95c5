"""The files of a model folder, checked one by one: what a folder is, and not what it says of itself.

`model.json` lists the other files with their SHA-256 and tells a version, which is computed from that list and from all
that decides what the model does. Here the hashes are computed from the bytes, the version from the hashes, and a file that
no model folder has is refused, and a list that was written anew. Who changes list, checksum and version alike has made
another model, with another version. Whether it is the model that was registered is answered by the content hash, which covers every byte and is kept where the folder's writer cannot reach it (a tag of the
registered version).
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from hashtag_core.data.model_record import ModelDescription
from hashtag_core.errors import IntegrityError, NotFoundError
from hashtag_core.json_values import JsonObject
from hashtag_core.storage.node_local import LOCK, SOURCE, node_folder

logger = logging.getLogger(__name__)

DESCRIPTION = "model.json"
CHECKSUM = "files_hash"
"""Key of `model.json`: `content_hash` of the list, so that a list that was written anew is noticed."""
UNLISTED = frozenset({DESCRIPTION, "README.md", "thresholds.json", "config.json"})
"""Files that are no part of the version: the card, the policy of tags, and what the Hugging Face hub wants to see."""
LEFTOVERS = frozenset({".DS_Store", ".cache", ".git", ".gitattributes", ".gitignore", SOURCE, LOCK})
"""What file managers and the clients of git and the hub leave in a folder, and what a node's copy has beside its content. No
model reads them."""
EXECUTABLE = frozenset({".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".npy", ".npz", ".py", ".so"})
_DECIDING = ("format", "family", "options", "spec", "history")
"""Keys of `model.json` that are part of the version; so are its encoders and caption rules, which decide what the model sees."""


@dataclass(frozen=True)
class ModelFiles:
    """A folder whose files are what its description says."""

    description: ModelDescription
    files: dict[str, str]
    """Every file's SHA-256 (hex), by its path in the folder."""
    content_hash: str
    version: str
    """The version that files and description make, whatever the description tells."""


def hash_files(folder: str | Path) -> dict[str, str]:
    """The SHA-256 (hex) of every file below a local folder but `LEFTOVERS`, by path with `/`, sorted.

    IntegrityError for a link to a folder (what is in it would go unseen) and for a file that cannot be read.
    """
    root = Path(folder)
    found = {}
    for parent, names, files in os.walk(root):
        names[:] = sorted(name for name in names if Path(parent) != root or name not in LEFTOVERS)
        for name in names:
            if Path(parent, name).is_symlink():
                raise IntegrityError(f"{Path(parent, name)}: a link to a folder is no part of a model folder")
        for name in files:
            if Path(parent) == root and name in LEFTOVERS:
                continue
            path = Path(parent, name)
            try:
                with path.open("rb") as stream:
                    found[path.relative_to(root).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
            except OSError as error:
                raise IntegrityError(f"{path}: cannot be read: {error.strerror}") from None
    return dict(sorted(found.items()))


def content_hash(files: Mapping[str, str]) -> str:
    """One SHA-256 (hex) over the names and hashes of all files."""
    return hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()


def model_version(described: ModelDescription, files: Mapping[str, str]) -> str:
    """12 hex digits over the listed files' hashes and all of `model.json` that decides what the model does."""
    identity: JsonObject = {key: value for key, value in described.items() if key in _DECIDING}
    identity |= {"files": dict(files), "encoders": described.get("encoders"), "captions": described.get("captions")}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def read_description(folder: str | Path) -> ModelDescription:
    """`model.json`. NotFoundError where there is none, IntegrityError where it is no JSON object."""
    file = Path(folder, DESCRIPTION)
    if not file.is_file():
        raise NotFoundError(f"no model at {folder}: {DESCRIPTION} is not there")
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{file}: not a model description: {type(error).__name__}: {error}") from None
    if not isinstance(described, dict):
        raise IntegrityError(f"{file}: not a model description: an object expected, found {type(described).__name__}")
    return cast(ModelDescription, described)


def check_model_files(folder: str | Path) -> ModelFiles:
    """The folder's description, hashes and version, after every file was compared with the list, and the list with its own
    checksum (of an older release's folder, which has none: with the version).

    IntegrityError that names the file: one that is missing, changed or added (a pickle above all), a list without hashes,
    a list that was written anew.
    """
    folder = Path(folder)
    described, found = read_description(folder), hash_files(folder)
    listed = described.get("files")
    if not isinstance(listed, dict) or not all(isinstance(value, str) for value in listed.values()):
        raise IntegrityError(f"{folder / DESCRIPTION}: not a model description: `files` is no list of hashes")
    for name, expected in listed.items():
        if name not in found:
            raise IntegrityError(f"{folder / name}: not there, but {DESCRIPTION} lists it")
        if found[name] != expected:
            raise IntegrityError(
                f"{folder / name}: its SHA-256 is not the one in {DESCRIPTION} ({found[name][:12]}, expected {expected[:12]})"
            )
    for name in sorted(found.keys() - listed.keys() - UNLISTED):
        kind = "a file that can hold code is" if Path(name).suffix.lower() in EXECUTABLE else "is"
        raise IntegrityError(f"{folder / name}: {kind} no part of a model folder: {DESCRIPTION} does not list it")
    version, stated = model_version(described, listed), described.get("version")
    if described.get(CHECKSUM, content_hash(listed)) != content_hash(listed) or (
        CHECKSUM not in described and version != stated
    ):
        raise IntegrityError(
            f"{folder / DESCRIPTION}: says version {stated}, its files make {version}: a file was exchanged and the list of "
            "hashes written anew"
        )
    if version != stated:
        logger.warning("%s says version %s and was changed since: it is %s", folder / DESCRIPTION, stated, version)
    return ModelFiles(described, found, content_hash(found), version)


def has_model(folder: str | Path, version: str) -> bool:
    """Whether the folder is there on this node and says it is that version (its files are checked when it is loaded)."""
    try:
        return bool(json.loads(Path(folder, "model.json").read_bytes())["version"] == version)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def local_model(folder: str, version: str, files: dict[str, bytes] | None) -> Path:
    """The model folder on this node: where the driver has it, or a copy made once from `files`."""
    if files is None or has_model(folder, version):
        return Path(folder)
    given = files

    def build(made: Path) -> None:
        for name, content in given.items():
            target = made / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)

    return node_folder("models", version, build, folder)
