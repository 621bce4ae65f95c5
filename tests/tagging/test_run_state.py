"""What a run knows of its work."""

from dataclasses import asdict
from datetime import UTC, datetime

import numpy as np

from hashtag_core.output.records import PartRecord
from hashtag_core.storage import FileInfo
from hashtag_core.tagging.planned_work import PartWork
from hashtag_core.tagging.run_state import Progress, TagSummary


def test_the_summary_is_written_down_whole() -> None:
    summary = TagSummary(*range(1, 9), "v", 1.5, 2.5)
    assert summary.as_record() == asdict(summary)
    assert list(summary.as_record()) == list(asdict(summary))


def test_what_is_missing_are_the_chunks_that_are_waited_for() -> None:
    record = PartRecord(path="p", etag="e", number=1, size=1, rows=10, groups=[6, 4])
    work = PartWork(FileInfo("/p", "p", 1, "e", datetime.now(UTC)), "key", record, np.array([0, 5, 9]))
    chunks = work.chunks(3)
    assert [(chunk.first_row, chunk.rows) for chunk in chunks] == [(0, 3), (3, 3), (9, 1)]
    progress = Progress({"key": work}, {"key": {chunks[0].number, chunks[2].number}})
    assert progress.missing(work, 3) == [chunks[0], chunks[2]]
