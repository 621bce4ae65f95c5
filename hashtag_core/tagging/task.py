"""What the driver of a tagging run gives its actors, and what it gets back. Needs neither torch nor ray."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TypedDict

from hashtag_core.config import ArchiveSection, ReadingOptions
from hashtag_core.faults import Fault, classify
from hashtag_core.recommend.policy import Policy
from hashtag_core.tagging.histories import HistoryWork
from hashtag_core.tagging.planned_work import Chunk


class ChunkOutcome(TypedDict):
    """What is reported of a chunk."""

    part_key: str
    chunk: int
    tagged: int
    """Posts tagged."""
    kept: int
    """Posts whose tags of before are kept."""
    statuses: dict[str, int]
    """The tagged by status."""
    rejected: dict[str, list[int]]
    """Rejected rows by reason; see `reject_limit.tell`."""
    seconds: float
    error: str | None
    """Why it could not be done."""
    fault: str | None
    """Whose fault that was (`hashtag_core.faults`)."""
    stopped: bool
    """Whether it was not begun because the run is to end."""


@dataclass(frozen=True)
class Task:
    """Consecutive chunks of one row group of a part; `left_out`: rows of them that the plan does not tag.

    `expected`: row -> content hash that the table has tags for already. `begin`: row of the part's first post among all of
    the archive. `encode`: the posts' vectors are wanted, for histories, and no tags. `alone`: each chunk was in a task whose
    actor died or that failed; see `isolate_killers`.
    """

    part_key: str
    path: str
    uri: str
    version: str
    chunks: list[Chunk]
    left_out: list[int]
    expected: dict[int, int] = field(default_factory=dict)
    begin: int = 0
    encode: bool = False
    alone: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Task":
        value = json.loads(text)
        expected = {int(row): content for row, content in value["expected"].items()}
        return cls(**{**value, "chunks": [Chunk(**chunk) for chunk in value["chunks"]], "expected": expected})


class Encoding(TypedDict):
    """How the encoders run, where the recipe that the model was trained by says otherwise."""

    backend: str
    precision: str
    batch_size: int


@dataclass(frozen=True)
class Work:
    """What is the same for all tasks of a run."""

    archive: str
    """The folder that relative paths of pictures begin at."""
    source: str
    """The archive, as it is listed, and how it is read."""
    reading: ReadingOptions
    staging: str
    """Folder of the chunk files, `<part key>/<chunk>.parquet`."""
    encoders: str
    """File that says how the first actor's encoders ran."""
    model_folder: str
    model_name: str
    model_version: str
    model_hash: str
    top_k: int
    threads: int
    device: str
    encoding: Encoding
    diversity: float = 0.0
    salt: str = ""
    """With which user ids are hashed."""
    history: HistoryWork | None = None
    """For a model that reads the history."""
    stop: str | None = None
    """File that is there once no more chunks are to be begun."""
    policy: Policy = field(default_factory=Policy)
    extra_tags: Sequence[str] = ()
    """Behind those of the model's vocabulary, in this order."""
    image_prefixes: list[str] | None = None
    max_image_bytes: int = ArchiveSection().max_image_bytes
    image_hosts: list[str] = field(default_factory=list)
    decode_ahead: int = 0
    """Batches of posts that tasks on CPUs open for each actor ahead of what it scores; 0: it opens them itself."""


def failed_outcome(task: Task, chunk: Chunk, error: Exception) -> ChunkOutcome:
    """Of a chunk that could not be done."""
    return chunk_outcome(task, chunk, error=f"{type(error).__name__}: {error}", fault=classify(error))


def chunk_outcome(
    task: Task,
    chunk: Chunk,
    tagged: int = 0,
    statuses: dict[str, int] | None = None,
    seconds: float = 0.0,
    rejected: dict[str, list[int]] | None = None,
    error: str | None = None,
    stopped: bool = False,
    kept: int = 0,
    fault: Fault | None = None,
) -> ChunkOutcome:
    """Of a chunk; its fields as in `ChunkOutcome`."""
    return {
        "part_key": task.part_key,
        "chunk": chunk.number,
        "tagged": tagged,
        "kept": kept,
        "statuses": dict(statuses or {}),
        "rejected": rejected or {},
        "seconds": seconds,
        "error": error,
        "stopped": stopped,
        "fault": None if fault is None else fault.value,
    }
