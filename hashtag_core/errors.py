"""Every error of ours, and the exit code a job ends with.

::

    HashtagError                    1  the run failed
    ├── UsageError                  2  the command, the configuration or what it names is wrong
    │   ├── ConfigError                a recipe key, a value, two settings that exclude each other
    │   ├── NotFoundError              a path, a model, a run that is not there
    │   └── ArchiveError               an archive that cannot be one: empty, no `post_id` column
    ├── GateRefused                 3  a gate said no
    ├── MachineError                1  memory, a disk, a device, a process: neither the content's fault nor ours
    ├── StorageError                1  a read or a write that failed after its retries: the machine's fault too
    │   ├── AlreadyExistsError         a conditional create lost
    │   └── TooLargeError              content of more bytes than are wanted: the content's fault
    ├── ImageError                  -  one image: absent, unreadable (becomes a row's status)
    │   └── TooLargeImageError         it would take more memory or time than a post may
    ├── IntegrityError              1  a hash, a schema or a count that is not what was recorded
    │   └── ScoreError                 a model's score of one post is not finite: that post's fault
    └── TrainingError               1  a loss that is not finite, a dataset too small to train on

Every class takes one positional message, so that it survives pickling between processes.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from hashtag_core.redaction import one_line, redact


class HashtagError(Exception):
    """Base of all errors of this package; its message is written for the person who reads the log: one line, no secret."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str) -> None:
        super().__init__(one_line(redact(message)))


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


class MachineError(HashtagError):
    """The machine failed (memory, a disk, a device, a process that died): nothing is said of the content; see `hashtag_core.faults`."""


class StorageError(HashtagError):
    """A read or a write failed after its retries."""


class AlreadyExistsError(StorageError):
    """A conditional create found the name taken."""


class TooLargeError(StorageError):
    """There are more bytes than the reader wants."""


class ImageError(HashtagError):
    """One image cannot be used; the message says why."""


class TooLargeImageError(ImageError):
    """One image would take more memory or time to decode than a post may."""


class IntegrityError(HashtagError):
    """Content is not what was recorded of it."""


class ScoreError(IntegrityError):
    """A model gives one post a score that is not finite; the message names the post."""


class TrainingError(HashtagError):
    """Training cannot go on."""
