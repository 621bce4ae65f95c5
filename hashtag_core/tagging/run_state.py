"""What a run knows of its work: where it runs, what is left, what was done."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from hashtag_core.config import TaggingSection
from hashtag_core.tagging.encode_histories import task_runs
from hashtag_core.tagging.joint_tasks import JointOutcome, JointTask
from hashtag_core.tagging.planned_work import Chunk, PartWork, TagPlan
from hashtag_core.tagging.task import ChunkOutcome, Task, Work
from hashtag_core.tracking.tagging import TagSummaryRecord


@dataclass(frozen=True)
class Cluster:
    """Where tasks run: `run` gives an outcome for each chunk, in any order; `run_joint` those of several models, whose numbers are
    the positions of their work."""

    threads: int
    device: str
    decode_ahead: int
    run: Callable[[Sequence[Task], Work], Iterator[ChunkOutcome]]
    run_joint: Callable[[Sequence[JointTask], Sequence[Work]], Iterator[JointOutcome]]


Connect = Callable[[TaggingSection], AbstractContextManager[Cluster]]


@dataclass
class TagSummary:
    """Counts of one run: `posts` are the rows of the parts it committed, which are `tagged` now, `kept` (their content was tagged
    before: a part that was renamed, merged, split or touched) or `rejected`; `parts` those parts, `skipped_parts` those that
    an earlier run had done, `gone_parts` those that are no longer in the archive, `dropped_posts` rows that were removed for it."""

    posts: int = 0
    tagged: int = 0
    kept: int = 0
    rejected: int = 0
    parts: int = 0
    skipped_parts: int = 0
    gone_parts: int = 0
    dropped_posts: int = 0
    model_version: str = ""
    seconds: float = 0.0
    posts_per_second: float = 0.0

    def __post_init__(self) -> None:
        self.run: str | None = None
        """Names the run's record; None for a run with nothing to do. No field: the job prints the fields."""

    def as_record(self) -> TagSummaryRecord:
        """As the run's record and the job show it."""
        return {
            "posts": self.posts,
            "tagged": self.tagged,
            "kept": self.kept,
            "rejected": self.rejected,
            "parts": self.parts,
            "skipped_parts": self.skipped_parts,
            "gone_parts": self.gone_parts,
            "dropped_posts": self.dropped_posts,
            "model_version": self.model_version,
            "seconds": self.seconds,
            "posts_per_second": self.posts_per_second,
        }


@dataclass
class Progress:
    """What of one plan is left to do."""

    works: dict[str, PartWork]
    """By key."""
    waiting: dict[str, set[int]]
    """Numbers of the chunks that are missing, by key."""
    errors: dict[tuple[str, int], str] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)
    """Keys of parts that were handed to the publisher."""

    def missing(self, work: PartWork, chunk_rows: int) -> list[Chunk]:
        """Chunks of a part that are not there."""
        waiting = self.waiting[work.key]
        return [chunk for chunk in work.chunks(chunk_rows) if chunk.number in waiting]


def waiting_tasks(plan: TagPlan, progress: Progress, chunks_per_task: int, *, alone: bool) -> Iterator[Task]:
    """The waiting chunks as runs of consecutive ones within a row group."""
    for work in plan.works:
        for run in task_runs(progress.missing(work, plan.settings.chunk_rows), chunks_per_task):
            first, end = run[0].first_row, run[-1].first_row + run[-1].rows
            left_out, expected = work.unwanted_in(first, end), work.expected_in(first, end)
            uri, version = work.file.uri, work.record.etag
            yield Task(work.key, work.path, uri, version, run, left_out, expected, work.begin, alone=alone)
