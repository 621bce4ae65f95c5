"""Every error of ours, and the exit code a job ends with.

::

    HashtagError                    1  the run failed
    ├── UsageError                  2  the command, the configuration or what it names is wrong
    │   ├── ConfigError                a recipe key, a value, two settings that exclude each other
    │   ├── NotFoundError              a path, a model, a run that is not there
    │   └── ArchiveError               an archive that cannot be one: empty, no `post_id` column
    ├── GateRefused                 3  a gate said no
    ├── StorageError                1  a read or a write that failed after its retries
    │   └── AlreadyExistsError         a conditional create lost
    ├── ImageError                  -  one image: absent, unreadable (becomes a row's status)
    ├── IntegrityError              1  a hash, a schema or a count that is not what was recorded
    └── TrainingError               1  a loss that is not finite, a dataset too small to train on

Every class takes one positional message, so that it survives pickling between processes.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class HashtagError(Exception):
    """Base of all errors of this package; its message is written for the person who reads the log."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str) -> None:
        super().__init__(message)


class UsageError(HashtagError):
    """The command is wrong: nothing was started, nothing was written."""

    exit_code: ClassVar[int] = 2


class ConfigError(UsageError):
    """A recipe or an override is wrong."""


class NotFoundError(UsageError):
    """A path, a model or a run does not exist."""


class ArchiveError(UsageError):
    """An archive cannot be read as one: it is empty, or it has no `post_id` column."""


class GateRefused(HashtagError):  # noqa: N818  a refusal is no error
    """A promotion gate refused the challenger. `summary` is what the job prints all the same."""

    exit_code: ClassVar[int] = 3
    summary: Mapping[str, Any] | None = None


class StorageError(HashtagError):
    """A read or a write failed after its retries."""


class AlreadyExistsError(StorageError):
    """A conditional create found the name taken."""


class ImageError(HashtagError):
    """One image cannot be used; the message says why."""


class IntegrityError(HashtagError):
    """Content is not what was recorded of it."""


class TrainingError(HashtagError):
    """Training cannot go on."""
