"""What became of each row of a part."""

import numpy as np

from hashtag_core.output.records import PartRecord
from hashtag_core.output.verify_rows import ABSENT, REFUSED, TAGGED_ROW, PartRows


def test_rows_are_noted_once_and_inside_the_part() -> None:
    found = PartRows.of(PartRecord(path="p", etag="e", number=1, size=1, rows=4))
    assert list(found.take(np.array([0, 2]), TAGGED_ROW, np.array([7, 8], np.uint64))) == []
    assert list(found.take(np.array([3]), REFUSED)) == []
    assert found.state.tolist() == [TAGGED_ROW, ABSENT, TAGGED_ROW, REFUSED]
    assert found.hashes.tolist() == [7, 0, 8, 0]
    assert list(found.take(np.array([1, 1, 3]), TAGGED_ROW)) == ["2 row(s) stand there twice"]
    assert list(found.take(np.array([4, 9]), TAGGED_ROW)) == ["row 9 is none of its 4 rows"]
