"""Copies on a node's own disk: of models, histories, features, indexes that live elsewhere, made once a node and shared by its processes.

They lie in the temporary folder, below one folder a user, so that two users of a machine do not meet. A copy appears whole. Who
uses one holds a shared lock on it for as long as the process lives; a copy is removed only when nobody holds that lock, oldest
first, once it was not opened for `KEEP_S` seconds or the copies take more than their limit.
"""

import fcntl
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

KEEP_S = 24 * 3600.0
LIMIT_VARIABLE = "HASHTAG_NODE_CACHE_BYTES"
LIMIT_SHARE = 0.5
"""Of the disk, if `HASHTAG_NODE_CACHE_BYTES` does not say otherwise."""
SOURCE = ".source"
LOCK = ".in-use"
_held: dict[str, int] = {}
"""Locks of this process, a file descriptor a copy: they end with the process, whatever ends it."""


def node_root() -> Path:
    """The folder of this user's copies on this node. TMPDIR says where the temporary folder is."""
    root = Path(tempfile.gettempdir(), f"hashtag-recommender-{os.getuid()}")
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    return root


def node_folder(kind: str, name: str, build: Callable[[Path], None], source: str = "") -> Path:
    """The copy `name` among those of a kind, built by the first process that asks for it.

    `source`: what it is a copy of, for `drop_copies`. What `build` raises is raised, and nothing is left of the copy.
    """
    root = node_root() / kind
    root.mkdir(exist_ok=True)
    folder = root / name
    with open(root / ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _make_room(root.parent)
            building = root / f".building-{uuid.uuid4().hex[:8]}"
            building.mkdir()
            try:
                build(building)
                (building / LOCK).touch()
                (building / SOURCE).write_text(source, encoding="utf-8")
                building.rename(folder)
            except BaseException:
                shutil.rmtree(building, ignore_errors=True)
                raise
        os.utime(folder)
        hold(folder)
    return folder


def open_root(kind: str) -> Path:
    """The folder of a kind whose copies are built and named by who asks for them, room made first. Who opens one calls `hold`."""
    root = node_root()
    _make_room(root)
    folder = root / kind
    folder.mkdir(exist_ok=True)
    return folder


def drop_copies(kind: str, below: str) -> None:
    """Remove this node's copies of what lies below a URI, whoever has them open: who needs one builds it anew."""
    for folder in _copies(node_root()):
        with suppress(OSError):
            if folder.parent.name == kind and (folder / SOURCE).read_text(encoding="utf-8").startswith(
                below.rstrip("/") + "/"
            ):
                shutil.rmtree(folder, ignore_errors=True)


def hold(folder: Path) -> None:
    """Keep a copy from being removed for as long as this process lives. FileNotFoundError where it is gone."""
    if str(folder) not in _held:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        _held[str(folder)] = descriptor


def _make_room(root: Path) -> None:
    """Remove copies that nobody uses: old ones, and the oldest while all take more than the limit."""
    total = shutil.disk_usage(root).total
    limit = int(os.environ.get(LIMIT_VARIABLE) or LIMIT_SHARE * total)
    found = sorted((folder.stat().st_mtime, folder, _size(folder)) for folder in _copies(root))
    taken = sum(size for _, _, size in found)
    for opened, folder, size in found:
        if time.time() - opened < KEEP_S and taken <= limit:
            break
        if _is_free(folder):
            shutil.rmtree(folder, ignore_errors=True)
            taken -= size


def _copies(root: Path) -> Iterator[Path]:
    for kind in root.iterdir():
        if kind.is_dir():
            yield from (folder for folder in kind.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _is_free(folder: Path) -> bool:
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _size(folder: Path) -> int:
    """Bytes on disk: files with holes take less than their length."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
