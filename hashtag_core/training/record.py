"""What is written down of a training run beside its checkpoints, so that another driver can take it up.

STORAGE/<run name>/run.json              recipe, dataset, MLflow run; the summary when the run is done
STORAGE/<run name>/epoch-*-step-*/       checkpoints, the latest and the best, kept by Ray Train
STORAGE/_ids/<MLflow run id>.json        the name of the run with this id
"""

import dataclasses
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from hashtag_core import storage
from hashtag_core.config import Recipe
from hashtag_core.errors import ConfigError, HashtagError, IntegrityError, NotFoundError
from hashtag_core.json_values import JsonObject
from hashtag_core.training.paths import resolve_paths

FREE_KEYS = frozenset(
    f"training.{key}"
    for key in (
        *(
            "workers",
            "parallel",
            "worker_cpus",
            "gpus",
            "start_timeout_s",
            "max_failures",
            "storage",
            "checkpoint_steps",
        ),
        *("tag_thresholds", "tag_thresholds_fbr"),
    )
)
"""Where a run trains and what is added to its model, not what it learns: a resumed run may change these."""
FREE_SECTIONS = ("archive", "gates", "tagging", "search")


@dataclass(frozen=True)
class TrainSummary:
    """What `jobs/train.py` prints. `metrics`: the validation split, protocol `headline`."""

    run_id: str
    run_name: str
    model: str
    metrics: dict[str, float]
    seconds: float
    epochs: int | None = None
    best_epoch: int | None = None
    parameters: int | None = None
    """Numbers in the weights file, buffers included; None in summaries of older releases."""


@dataclass(frozen=True)
class RunRecord:
    """`run.json`."""

    name: str
    storage: str
    run_id: str
    dataset: str
    content_hash: str
    recipe: JsonObject
    """As it was: an older release had other keys."""
    summary: TrainSummary | None = None

    @property
    def folder(self) -> str:
        """Where the run's checkpoints are."""
        return storage.join(self.storage, self.name)

    @property
    def file(self) -> str:
        """Where it is written."""
        return storage.join(self.folder, "run.json")

    def save(self) -> None:
        """Write the record and its id. StorageError where the storage cannot be written."""
        storage.write_json(self.file, dataclasses.asdict(self))
        storage.write_json(_id_file(self.storage, self.run_id), {"name": self.name})

    @classmethod
    def find(cls, root: str, run: str) -> Self:
        """The run of that name or MLflow id; NotFoundError where `root` has none."""
        name = run
        if storage.exists(_id_file(root, run)):
            name = str(storage.read_json(_id_file(root, run))["name"])
        file = storage.join(root, name, "run.json")
        if not storage.exists(file):
            raise NotFoundError(
                f"no run {run!r} in {root} (RUN is a run's name or its MLflow id; training.storage says where)"
            )
        try:
            read = {**storage.read_json(file), "storage": root}
            read["summary"] = None if read.get("summary") is None else TrainSummary(**read["summary"])
            return cls(**read)
        except TypeError as error:
            raise IntegrityError(f"{file}: not a run's record: {error}") from None

    def check_same(self, recipe: Recipe, dataset_uri: str, content_hash: str) -> None:
        """ConfigError naming what differs, if the run was started with another recipe or dataset."""
        # A run of an older release has its paths as they were typed.
        mine = resolve_paths(Recipe.model_validate(self.recipe)).model_dump(mode="json")
        before, now = (dict(_flatten(value)) for value in (mine, recipe.model_dump(mode="json")))
        differing = [
            f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and key not in FREE_KEYS and key.split(".")[0] not in FREE_SECTIONS
        ]
        if content_hash != self.content_hash:
            differing.append(f"the dataset was {self.dataset}, is {dataset_uri}, of other content")
        if differing:
            raise ConfigError(f"run {self.name} cannot be resumed: {'; '.join(differing)}")


def new_run_name(family: str) -> str:
    """A name that no other run has."""
    return f"{family}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def _id_file(root: str, run_id: str) -> str:
    if "/" in run_id:
        raise NotFoundError(f"no run {run_id!r}: RUN is a run's name or its MLflow id")
    return storage.join(root, "_ids", f"{run_id}.json")


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def check_storage(record_file: str, run_id: str) -> None:
    """On a worker, before its first step: ConfigError where the checkpoints' folder is not the one that the driver wrote
    `run.json` to, or cannot be written. Else the first checkpoint would be lost, or the last."""
    if storage.is_remote(record_file):
        return
    folder, host = os.path.dirname(record_file), socket.gethostname()
    advice = "name a folder that all nodes mount, or an s3:// one (training.storage)"
    try:
        here = storage.read_json(record_file).get("run_id")
    except HashtagError as error:
        raise ConfigError(f"checkpoints go to {folder}, which node {host} does not see: {error}; {advice}") from None
    if here != run_id:
        raise ConfigError(f"checkpoints go to {folder}, which is another folder on node {host}; {advice}")
    probe = storage.join(folder, f".probe-{host}-{os.getpid()}")
    try:
        storage.write_bytes(probe, b"")
        storage.remove(probe)
    except HashtagError as error:
        raise ConfigError(f"checkpoints go to {folder}, which node {host} cannot write: {error}; {advice}") from None
