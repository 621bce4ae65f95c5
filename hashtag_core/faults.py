"""Whose fault an error is: ours, the machine's, or that of the content that was being read. The one place that tells.

Only the content's faults may be booked on a post (a rejected row, an unreadable picture, an entry of a cache). What the
machine did to us (memory, disk, network, a process or a node that died) says nothing of the post: it is raised, tried again
elsewhere, and then fails the run. Ours (a bug, a wrong setting) fails the run at once.

Classes of libraries that may not be imported here (ray, torch, botocore, pyarrow) are known by their qualified names.
"""

import errno
import re
import sqlite3
import zlib
from collections.abc import Iterator
from enum import StrEnum

from hashtag_core.errors import (
    GateRefused,
    HashtagError,
    IntegrityError,
    MachineError,
    ScoreError,
    StorageError,
    TooLargeError,
    TrainingError,
    UsageError,
)


class Fault(StrEnum):
    """Whose fault an error is."""

    OURS = "ours"
    MACHINE = "machine"
    CONTENT = "content"


ABSURD_BYTES = 1 << 38
"""A request for more memory than this (256 GiB) was made up by broken content: batches and pictures are bounded far below."""

_MACHINE = (MachineError, StorageError, MemoryError, TimeoutError, ConnectionError, sqlite3.OperationalError)
_OURS = (UsageError, IntegrityError, TrainingError, GateRefused, ImportError, NameError, AssertionError)
_OURS_TOO = (NotImplementedError, AttributeError, TypeError)

_OF_CONTENT = {
    getattr(errno, name)
    for name in (
        "ENOENT",
        "ENOTDIR",
        "EISDIR",
        "ENAMETOOLONG",
        "ELOOP",
        "EINVAL",
        "EILSEQ",
        "EACCES",
        "EPERM",
        "ESPIPE",
    )
}
"""What the operating system says of a file, not of itself: every other errno is the machine's."""

_DENIED = ("AccessDenied", "AllAccessDisabled", "InvalidObjectState", "Forbidden", "403")
"""What a store answers that will not give this object, today or tomorrow."""

_LIBRARIES = {"botocore", "boto3", "s3transfer", "urllib3", "requests", "aiohttp", "grpc", "http"}
"""Top packages whose errors tell of a network or a server."""

_MACHINE_NAMES = {
    "torch.OutOfMemoryError",
    "torch.cuda.OutOfMemoryError",
    "torch.AcceleratorError",
    "torch.distributed.DistError",
    "concurrent.futures.process.BrokenProcessPool",
    "subprocess.TimeoutExpired",
    "duckdb.OutOfMemoryException",
    "duckdb.IOException",
    "pyarrow.lib.ArrowMemoryError",
}
_NOT_OF_THE_MACHINE = {
    "ray.exceptions.RuntimeEnvSetupError": Fault.OURS,
    "ray.exceptions.AuthenticationError": Fault.OURS,
    "ray.exceptions.TaskCancelledError": Fault.OURS,
    "ray.exceptions.UserCodeException": Fault.CONTENT,
    "botocore.exceptions.ParamValidationError": Fault.CONTENT,
    "botocore.exceptions.DataNotFoundError": Fault.OURS,
}
_RAY_ROOT, _RAY_TASK = "ray.exceptions.RayError", "ray.exceptions.RayTaskError"

_SAYS_MACHINE = re.compile(
    r"out of memory|can(?:'|no)t allocate memory|not enough memory|bad[_ ]alloc|failed to allocate|Error -4 while"
    r"|no space left on device|too many open files|can't start new thread|input/output error"
    r"|\b(?:CUDA|CUBLAS|CUDNN|cuDNN|NCCL|HIP|MPS) (?:error|backend)|\b(?:CUBLAS|CUDNN)_STATUS"
    r"|AWS Error|Generic (?:S3|LocalFileSystem) error|error sending request",
    re.IGNORECASE,
)
"""What errors of no telling class say when it was the machine. Asked only of classes that do not quote content."""

_SPEAKS = (RuntimeError, OSError, SystemError, zlib.error)
_ERRNO = re.compile(r"\[errno (\d+)\]", re.IGNORECASE)
_ASKED = re.compile(r"(?:malloc of size|realloc[^0-9]* size|Unable to allocate) (\d[\d.]*)(?: ([KMGTPE])iB)?")


def classify(error: BaseException) -> Fault:
    """Whose fault an error is, by its class, its errno and, where these do not tell, its words; its causes are asked too.

    One machine's fault among the causes (`__cause__`, a `__context__` that is not suppressed, Ray's `cause`) makes it the
    machine's: the error above it is then what a library made of it. So leave an `except` block before you try posts one by
    one, else their faults have its error for a context. A class that says nothing is the content's, a bug's usual
    classes (TypeError, AttributeError, ...) are ours; who calls a foreign decoder on a stranger's bytes takes all that is
    not the machine's for the content's.
    """
    faults = [_alone(link) for link in _links(error)]
    if isinstance(error, StorageError):
        return faults[0]  # the storage has looked at its cause
    return Fault.MACHINE if Fault.MACHINE in faults else faults[0]


def is_machine(error: BaseException) -> bool:
    """Whether the error is the machine's fault."""
    return classify(error) is Fault.MACHINE


def raise_if_machine(error: BaseException, what: str) -> None:
    """Raise MachineError, headed by `what` was done, if the error is the machine's fault; an error of ours is raised as it is."""
    if is_machine(error):
        if isinstance(error, HashtagError):
            raise error
        raise MachineError(f"{what}: {type(error).__name__}: {error}") from error


def _links(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        link = waiting.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        causes = [link.__cause__, None if link.__suppress_context__ else link.__context__, getattr(link, "cause", None)]
        waiting += [cause for cause in causes if isinstance(cause, BaseException)]


def _alone(error: BaseException) -> Fault:
    """Whose fault an error is, its causes not asked."""
    if not isinstance(error, Exception):
        return Fault.OURS  # Ctrl-C, an exit
    if isinstance(error, (TooLargeError, ScoreError)):
        return Fault.CONTENT
    if isinstance(error, StorageError) and _is_lasting(error.__cause__):
        return Fault.OURS
    names = {f"{base.__module__}.{base.__qualname__}" for base in type(error).__mro__}
    for name, fault in _NOT_OF_THE_MACHINE.items():
        if name in names:
            return fault
    if _is_known(error, names):
        return Fault.MACHINE
    return Fault.OURS if isinstance(error, (*_OURS, *_OURS_TOO)) and _RAY_TASK not in names else Fault.CONTENT


def _is_known(error: Exception, names: set[str]) -> bool:
    if isinstance(error, MemoryError):
        return not _is_absurd(str(error))
    if isinstance(error, _MACHINE) or names & _MACHINE_NAMES:
        return True
    if _RAY_ROOT in names:
        return _RAY_TASK not in names  # that of a task says what its cause says
    if type(error).__module__.partition(".")[0] in _LIBRARIES:
        return _code(error) not in ("404", "NoSuchKey", "NotFound")
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno not in _OF_CONTENT
    if not isinstance(error, HashtagError) and (isinstance(error, _SPEAKS) or _is_of(error, "onnxruntime")):
        number = _ERRNO.search(str(error))
        return bool(_SAYS_MACHINE.search(str(error))) or (number is not None and int(number[1]) not in _OF_CONTENT)
    return False


def _is_of(error: Exception, package: str) -> bool:
    return type(error).__module__.partition(".")[0] == package


def _is_lasting(error: BaseException | None) -> bool:
    """Whether a storage says no to a name or to us, as it will the next time."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _OF_CONTENT
    return error is not None and _code(error) in _DENIED


def _code(error: BaseException) -> str:
    """What botocore's errors hold of the store's answer."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _is_absurd(message: str) -> bool:
    asked = _ASKED.search(message)
    if asked is None:
        return False
    scale = 1024 ** (1 + "KMGTPE".index(asked[2])) if asked[2] else 1
    return float(asked[1]) * scale > ABSURD_BYTES
