"""What a local disk and S3 have in common: what is told of a file, and whatever fails as an error of ours."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hashtag_core.errors import AlreadyExistsError, NotFoundError, StorageError, TooLargeError

_MISSING = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}
_TAKEN = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}


@dataclass(frozen=True)
class FileInfo:
    """One file: `path` is relative to the folder that was listed; `etag` changes when the content does."""

    uri: str
    path: str
    size: int
    etag: str
    modified: datetime


@contextmanager
def guard(uri: str, operation: str) -> Iterator[None]:
    """Turn what the operating system and the SDKs raise into our errors."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"{uri}: not found") from None
    except OSError as error:
        raise StorageError(f"{uri}: {operation} failed: {_cause(error)}") from error
    except RecursionError:  # of the SDK, which asks for the bucket's region, is sent elsewhere, and asks again
        raise StorageError(
            f"{uri}: {operation} failed: what answers sends every request elsewhere (301): is AWS_ENDPOINT_URL the address of the "
            "store itself, and AWS_REGION its region?"
        ) from None
    except Exception as error:
        module = type(error).__module__.partition(".")[0]
        if module not in ("botocore", "boto3", "s3transfer", "urllib3"):
            raise
        response: Mapping[str, Any] = getattr(error, "response", None) or {}  # None: a body broke off
        code = str(response.get("Error", {}).get("Code", ""))
        if code in _MISSING:
            raise NotFoundError(f"{uri}: not found" + (" (no such bucket)" if code == "NoSuchBucket" else "")) from None
        if operation in ("create", "replace") and code in _TAKEN:
            raise AlreadyExistsError(f"{uri}: exists already, or was changed by another") from None
        raise StorageError(f"{uri}: {operation} failed: {error}") from error


@contextmanager
def writing(uri: str) -> Iterator[None]:
    """`guard` for a file that is being written, in whoever's hands it is: what is missing there is no file to be read."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{uri}: write failed: {_cause(error)}") from error


def check_size(uri: str, size: int, max_bytes: int | None) -> None:
    """TooLargeError for more bytes than are wanted."""
    if max_bytes is not None and size > max_bytes:
        raise TooLargeError(f"{uri}: {size:,} bytes, more than {max_bytes:,}")


def _cause(error: OSError) -> str:
    return error.strerror or str(error)
