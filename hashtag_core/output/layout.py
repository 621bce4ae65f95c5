"""Where everything of one output is.

::

    OUT/_delta_log/                                  commits of the table of tagged posts: the truth
    OUT/model=M/version=V/[day=D/]part-*.parquet     its data files
    OUT/_rejected/                                   a table of its own: rows that are not tagged, and why
    OUT/_state/records/                              a table: one record a part, the settings, what is to be tagged again
    OUT/_state/model=M/version=V/chunks/             chunks of parts that are not committed yet
    OUT/_state/model=M/version=V/ids/                index of post ids; derived, and rebuilt where it is lost
    OUT/_state/runs/                                 a record a run
"""

import os
import re
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import quote

from hashtag_core import storage
from hashtag_core.errors import ConfigError

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""Folder value of a null partition column, as Hive writes it."""


def hive(value: str | None) -> str:
    """A partition value as a folder name: percent-encoded where a reader or a file system would stumble."""
    return NO_VALUE if value is None else quote(value, safe=" ()+,;@!$&'~")


@dataclass(frozen=True)
class Layout:
    """Where everything of one output, model and version is."""

    out: str
    model_name: str
    model_version: str

    @classmethod
    def at(cls, out: str, model_name: str, model_version: str) -> "Layout":
        """For an output as a person names it. ConfigError for a key with an empty step, which Delta readers cannot open."""
        return cls(absolute_output(out), model_name, model_version)

    @cached_property
    def partition(self) -> str:
        """Folder of this model and version, relative to the output."""
        return f"model={hive(self.model_name)}/version={hive(self.model_version)}"

    @property
    def values(self) -> dict[str, str | None]:
        """Partition values of this model and version."""
        return {"model": self.model_name, "version": self.model_version}

    @property
    def tagged(self) -> str:
        """Root of the data files of this model and version."""
        return storage.join(self.out, self.partition)

    @property
    def rejected(self) -> str:
        """Root of the table of rejected rows."""
        return storage.join(self.out, "_rejected")

    @property
    def records(self) -> str:
        """Root of the table of records."""
        return storage.join(self.out, "_state", "records")

    @property
    def state(self) -> str:
        """Root of the files of this model and version that are no table."""
        return storage.join(self.out, "_state", self.partition)

    @property
    def chunks(self) -> str:
        """Folder of the chunks that are not committed yet."""
        return storage.join(self.state, "chunks")

    @property
    def ids(self) -> str:
        """Folder of the index of post ids."""
        return storage.join(self.state, "ids")

    @property
    def columns(self) -> str:
        """Folder of the parts' small columns, from which histories are found."""
        return storage.join(self.state, "columns")

    @property
    def vectors(self) -> str:
        """Folder of the pooled vectors of posts that stand in histories."""
        return storage.join(self.state, "vectors")

    @property
    def histories(self) -> str:
        """Folder of the histories that runs read."""
        return storage.join(self.state, "history")

    @property
    def lease(self) -> str:
        """The file of the run that is at work."""
        return storage.join(self.state, "lease.json")

    @property
    def stop(self) -> str:
        """The file that is there once no more chunks are to be begun."""
        return storage.join(self.state, "stop.json")

    @property
    def runs(self) -> str:
        """Folder of the run records, of all models."""
        return runs_folder(self.out)

    def chunk(self, part_key: str, number: int) -> str:
        """A chunk of a part that is not committed yet."""
        return storage.join(self.chunks, part_key, f"{number:05d}.parquet")

    def run(self, run_id: str) -> str:
        """The record of one run."""
        return storage.join(self.runs, f"{run_id}.json")


def runs_folder(out: str) -> str:
    """Folder of the run records of an output."""
    return storage.join(out, "_state", "runs")


def absolute_output(out: str) -> str:
    """The output's URI as it is used: an absolute path, or the S3 URI as given.

    ConfigError for a key with an empty step (`s3://bucket/a//b`): readers of Delta tables cannot open it.
    """
    if not storage.is_remote(out):
        return os.path.abspath(storage.local_path(out))
    trimmed = out.rstrip("/")
    if re.search(r"(?<!:)//", trimmed):
        raise ConfigError(f"--out {out}: a key with '//' in it cannot hold a Delta table: name one without")
    return trimmed
