"""The side of the local disk: each function does what that of its name in `hashtag_core.storage` promises."""

import errno
import fcntl
import functools
import hashlib
import logging
import os
import random
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, BinaryIO, cast

import pyarrow as pa
import pyarrow.fs as pafs

from hashtag_core.errors import AlreadyExistsError, NotFoundError
from hashtag_core.redaction import one_line
from hashtag_core.storage.base import FileInfo, check_size, guard, writing

logger = logging.getLogger(__name__)

LOCK_WAIT_S = 5.0
MARK_DIGITS = 16


def local_path(uri: str) -> str:
    """The path of a local URI: `file:/path`, `file:///path`, `file://localhost/path` or the path itself. Not percent-decoded."""
    if uri[:5].lower() != "file:":
        return uri
    path = uri[5:]
    return path[2:].removeprefix("localhost") if path.startswith("//") else path


def exists(uri: str) -> bool:
    """Whether something is there, a link followed."""
    return os.path.exists(local_path(uri))


def file_info(uri: str) -> FileInfo:
    """By one stat."""
    with guard(uri, "look-up"):
        return _info(local_path(uri), uri.rstrip("/").rsplit("/", 1)[-1])


def list_files(uri: str) -> Iterator[FileInfo]:
    """Every file below a folder, hidden ones too, in no order."""
    root = local_path(uri)
    with guard(uri, "listing"):
        if os.path.isfile(root):
            yield _info(root, os.path.basename(root))
            return
        if not os.path.isdir(root):
            raise FileNotFoundError(root)
        for folder, names in _walk(root, hidden=True):
            for name in names:
                path = os.path.join(folder, name)
                with suppress(FileNotFoundError):  # a temporary file of a writer at work
                    yield _info(path, os.path.relpath(path, root))


def walk_folders(uri: str, hidden: bool = False) -> Iterator[tuple[str, list[FileInfo]]]:
    """Every folder (unless `hidden`, those that are not hidden), with all of its files."""
    root = local_path(uri)
    with guard(uri, "listing"):
        for folder, names in _walk(root, hidden):
            relative = os.path.relpath(folder, root)
            found = []
            for name in names:
                with suppress(FileNotFoundError):  # a temporary file of a writer at work
                    path = os.path.join(folder, name)
                    found.append(_info(path, os.path.normpath(os.path.join(relative, name))))
            yield "" if relative == "." else relative, found


def _walk(root: str, hidden: bool) -> Iterator[tuple[str, list[str]]]:
    """Each folder and the names of its files, those in it by name. A folder that is a link (a second disk, a shared mount) is
    followed, once: not where what it leads to is listed anyway, was followed before, or holds the root itself.
    """
    top, followed = os.path.realpath(root), dict[str, str]()
    for folder, below, names in os.walk(root, onerror=_stop, followlinks=True):
        below[:] = sorted(name for name in below if hidden or name[:1] not in ("_", "."))
        for name in [name for name in below if os.path.islink(os.path.join(folder, name))]:
            path = os.path.join(folder, name)
            if (why := _not_followed(os.path.realpath(path), top, followed, hidden)) is not None:
                logger.warning("%s: a link that is not followed: %s", one_line(path), one_line(why))
                below.remove(name)
            else:
                followed[os.path.realpath(path)] = path
        yield folder, names


def _not_followed(target: str, top: str, followed: dict[str, str], hidden: bool) -> str | None:
    """Why a linked folder is not listed, or None. `followed`: real path -> the link, of those that are."""
    if os.path.commonpath([target, top]) == target:
        return f"it leads to {target}, which holds the folder that is listed"
    if os.path.commonpath([target, top]) == top:
        steps = os.path.relpath(target, top).split(os.sep)
        if hidden or not any(step[:1] in ("_", ".") for step in steps):
            return f"it leads to {target}, which is listed in its own place"
    for other, link in followed.items():
        if os.path.commonpath([target, other]) in (target, other):
            return f"it leads to {target}, which {link} leads to or around"
    return None


def read_bytes(uri: str, max_bytes: int | None = None) -> bytes:
    """The whole content; StorageError for more than `max_bytes`."""
    with guard(uri, "read"):
        path = Path(local_path(uri))
        status = path.stat()
        if not (
            stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
        ):  # to open a pipe is to wait for its writer
            raise NotFoundError(f"{uri}: not found: no regular file")
        check_size(uri, status.st_size, max_bytes)
        return path.read_bytes()


def open_input(uri: str) -> pa.NativeFile:
    """Arrow's own file."""
    with guard(uri, "open"):
        return pa.OSFile(local_path(uri), "rb")


@contextmanager
def open_output(uri: str) -> Iterator[BinaryIO]:
    """A temporary file beside the target, flushed and renamed at the end."""
    with writing(uri), _output(uri) as file:
        yield file


def write_bytes(uri: str, data: bytes) -> None:
    """By `open_output`."""
    with open_output(uri) as file:
        file.write(data)


def create_bytes(uri: str, data: bytes) -> None:
    """By a hard link to a temporary file, which fails where the name is taken."""
    target = Path(local_path(uri))
    staged = _staged(target)
    with guard(uri, "create"):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_through(staged, data)
            try:
                os.link(staged, target)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EMLINK):
                    raise
                _write_through(target, data)  # a filesystem without hard links
            _sync_folder(target.parent)
        except FileExistsError:
            raise AlreadyExistsError(f"{uri}: exists already") from None
        finally:
            staged.unlink(missing_ok=True)


def replace_bytes(uri: str, expected: bytes, data: bytes | None) -> None:
    """A file system has no conditional rename. So each who wants to replace a file first stages what is to be there, then removes what
    all others have staged for it, then looks, and renames last: of two that saw the same content one finds its own staged file
    gone and begins anew, whatever order they run in and wherever one of them is paused.

    A lock makes them take turns, and no more: it is waited for `LOCK_WAIT_S`, since a process that is stopped keeps its own.
    """
    target = Path(local_path(uri))
    with guard(uri, "replace"):
        while not _replaced(target, uri, expected, data):
            time.sleep(random.uniform(0, 0.05))
        if data is not None:
            _sync_folder(target.parent)


def _replaced(target: Path, uri: str, expected: bytes, data: bytes | None) -> bool:
    """Whether it was done; False where another one removed what was staged. AlreadyExistsError for other content."""
    mark = hashlib.sha256(target.name.encode("utf-8", "surrogateescape")).hexdigest()[:MARK_DIGITS]
    staged = target.with_name(f".{mark}{uuid.uuid4().hex[MARK_DIGITS:]}.tmp")
    lock = target.with_name(f".{mark}{'0' * (32 - MARK_DIGITS)}.tmp")
    try:
        _write_through(staged, data or b"")
        with _turn(lock):
            for other in target.parent.glob(f".{mark}*.tmp"):
                if other not in (staged, lock):
                    other.unlink(missing_ok=True)
            if read_bytes(uri) != expected:
                raise AlreadyExistsError(f"{uri}: holds something else by now")
            try:
                if data is None:
                    os.unlink(staged)
                    os.unlink(target)
                else:
                    os.replace(staged, target)
            except FileNotFoundError:
                return False
            return True
    finally:
        staged.unlink(missing_ok=True)


@contextmanager
def _turn(lock: Path) -> Iterator[None]:
    """The lock, or, where whoever has it does not give it back, a new one in its place."""
    while True:
        handle = os.open(lock, os.O_RDONLY | os.O_CREAT, 0o666)
        if _is_locked(handle) and _is_at(handle, lock):
            break
        if _is_at(handle, lock):
            lock.unlink(missing_ok=True)
        os.close(handle)
    try:
        yield
    finally:
        if _is_at(handle, lock):
            lock.unlink(missing_ok=True)
        os.close(handle)


def _is_locked(handle: int) -> bool:
    """Whether it could be locked within `LOCK_WAIT_S`."""
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
        time.sleep(random.uniform(0.005, 0.02))


def _is_at(handle: int, path: Path) -> bool:
    """Whether it is this file that the path names."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def move(source: str, target: str) -> None:
    """By a rename."""
    with guard(source, "move"):
        target_path = Path(local_path(target))
        target_path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(local_path(source), target_path)
        _sync_folder(target_path.parent)


def remove(uri: str) -> None:
    """No fault where there is none."""
    with suppress(NotFoundError), guard(uri, "remove"):
        Path(local_path(uri)).unlink(missing_ok=True)


def remove_tree(uri: str) -> None:
    """No fault where there is none."""
    with suppress(NotFoundError), guard(uri, "remove"):
        shutil.rmtree(local_path(uri))


def download(uri: str, target: Path) -> None:
    """Copy one file."""
    with guard(uri, "download"):
        shutil.copyfile(local_path(uri), target)


def arrow_filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """Arrow's local filesystem, which wants whole paths."""
    return pafs.LocalFileSystem(), os.path.abspath(local_path(uri))


def _stop(error: OSError) -> None:
    raise error


def _info(path: str, relative: str) -> FileInfo:
    """Of a link to nothing, the link's own: it is listed, and who opens it is told.

    The etag is of size, time of modification, time of the last change of any kind and file number: who keeps a file's size
    and its date (`cp -p`, `rsync -t`, `touch -r`) cannot keep the third. It tells too whether the file may be read.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        if not os.path.islink(path):
            raise
        status = os.lstat(path)
    modified = datetime.fromtimestamp(status.st_mtime, UTC)
    stamp = f"{status.st_size:x}-{status.st_mtime_ns:x}-{status.st_ctime_ns:x}-{status.st_ino:x}"
    readable = "" if os.access(path, os.R_OK) else "-unreadable"
    return FileInfo(path, relative, status.st_size, f"{stamp}{readable}", modified)


def _staged(target: Path) -> Path:
    return target.with_name(f".{uuid.uuid4().hex}.tmp")


@contextmanager
def _output(uri: str) -> Iterator[BinaryIO]:
    target = Path(local_path(uri))
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = _staged(target)
    try:
        with open(staged, "xb") as file:
            yield cast(BinaryIO, file)
            _flush(file)
        os.replace(staged, target)
        _sync_folder(target.parent)
    finally:
        staged.unlink(missing_ok=True)


def _write_through(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        _flush(file)


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
        warned_of = _told(os.stat(folder).st_dev)
        if not warned_of:
            warned_of.append(str(error))
            logger.warning(
                "%s: folders cannot be synced here (%s): a power cut may undo the last writes", folder, error.strerror
            )


_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EPERM, errno.EBADF}
"""What file systems answer that cannot sync a folder (SMB, VirtualBox, WSL over SMB, some FUSE): the file itself is synced."""


@functools.cache
def _told(device: int) -> list[str]:
    return []
