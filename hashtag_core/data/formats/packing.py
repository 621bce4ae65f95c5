"""Files that are packed as a whole (gzip, bzip2, xz, Zstandard, a zip of one file), told by what they begin with and not by their
names: a `.csv.gz` that was unpacked on its way is read, and so is a `.csv` that was not."""

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from hashtag_core.faults import is_machine

NAMED = r"(?:\.(?:gz|bz2|xz|zst|zip))?"
"""How the name of a packed file may go on, for a regular expression."""

MAGICS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"PK\x03\x04": "zip",
}
STEP_BYTES = 1 << 14
"""What is unpacked at once: where a file is cut off, no more than this before the cut is lost with the rest."""

ZIPS_OWN = ("__MACOSX/", ".")
"""How names in a zip begin that are nobody's files."""


class PackingError(Exception):
    """What is packed cannot be unpacked: the content's fault."""


def packing_of(begin: bytes) -> str | None:
    """How content that begins with these bytes is packed; None where it is not."""
    return next((name for magic, name in MAGICS.items() if begin.startswith(magic)), None)


def unpacked(source: Any, packing: str, skip: int = 0) -> "io.BufferedReader[Any]":
    """The content of a packed file, from byte `skip` on. Reading it raises PackingError from where it is broken, and opening it
    where it holds no single file."""
    stream: io.BufferedReader[Any] = io.BufferedReader(_Unpacked(lent(source), packing), STEP_BYTES)
    while skip > 0 and (passed := stream.read(min(skip, 1 << 20))):
        skip -= len(passed)
    return stream


def first_bytes(source: Any, size: int) -> tuple[bytes, str | None, PackingError | None]:
    """The first `size` bytes of the content (or some more, or all), how it is packed, and why no more of it can be unpacked."""
    source.seek(0)
    begin = bytes(source.read(size))
    packing, content = packing_of(begin), b""
    if packing is None:
        return begin, None, None
    try:
        stream = unpacked(source, packing)
        while len(content) < size and (more := stream.read1()):
            content += more
    except PackingError as error:
        return content, packing, error
    return content, packing, None


def lent(source: Any, offset: int = 0) -> "_Lent":
    """A file that a reader may close without closing it, from a byte on: readers do so when nobody holds them any more."""
    source.seek(offset)
    return _Lent(source)


class _Lent(io.RawIOBase):
    def __init__(self, source: Any) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        return int(self._source.readinto(target))

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._source.seek(offset, whence))

    def tell(self) -> int:
        return int(self._source.tell())


class _Unpacked(io.RawIOBase):
    """Bytes as they come out, a step at a time."""

    def __init__(self, source: Any, packing: str) -> None:
        with _Broken():
            self._inner = _OPENED[packing](source)

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        with _Broken():
            data = self._inner.read(min(len(target), STEP_BYTES))
        target[: len(data)] = data
        return len(data)


class _Broken:
    """What the libraries raise, as PackingError where it is the content's fault."""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        content = (
            EOFError,
            zlib.error,
            lzma.LZMAError,
            zipfile.BadZipFile,
            pa.ArrowInvalid,
            NotImplementedError,
            RuntimeError,
        )
        if isinstance(error, content) or (isinstance(error, OSError) and error.errno is None):
            if is_machine(error):
                return
            raise PackingError(str(error).strip() or type(error).__name__) from None


def _only_file(source: Any) -> Any:
    archive = zipfile.ZipFile(source)
    files = [info for info in archive.infolist() if not info.is_dir() and not info.filename.startswith(ZIPS_OWN)]
    if len(files) == 1:
        return archive.open(files[0])
    if any(info.filename.startswith("xl/") for info in files):
        raise zipfile.BadZipFile("an Excel workbook: save it as CSV")
    raise zipfile.BadZipFile(f"a zip of {len(files)} files: unpack it")


_OPENED: dict[str, Callable[[Any], Any]] = {
    "gzip": lambda source: gzip.GzipFile(fileobj=source),
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
    "Zstandard": lambda source: pa.CompressedInputStream(source, "zstd"),
    "zip": _only_file,
}
