"""What a run leaves is what the next one sees, and only one of two may go on."""

from pathlib import Path

import pytest

from hashtag_core.errors import IntegrityError
from hashtag_core.output.claimed_output import Output
from hashtag_core.output.fenced_table import FencedError
from hashtag_core.output.layout import Layout
from tests.unit.output.small_output import posts_of, record, small_output


def test_a_second_run_sees_all_and_fences_the_first(tmp_path: Path) -> None:
    first = small_output(tmp_path)
    second = Output.open(first.layout)
    second.claim()
    assert posts_of(second) == {"a": ["x", "y"], "b": ["z"]}
    assert second.records.parts == {"a": record("a", 1, 2, 1), "b": record("b", 2, 1)}
    with pytest.raises(FencedError):
        first.save("late", gone=["a"])
    second.save("later", gone=["a"])
    assert list(Output.open(first.layout).records.parts) == ["b"]


def test_another_version_sees_nothing_of_it(tmp_path: Path) -> None:
    small_output(tmp_path)
    other = Output.open(Layout.at(str(tmp_path), "m", "2"))
    assert other.records.parts == {}
    assert (other.has_days, Output.open(Layout.at(str(tmp_path / "none"), "m", "1")).has_days) == (False, None)


def test_where_nothing_was_tagged_there_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="no table yet"):
        Output.open(Layout.at(str(tmp_path), "m", "1")).tables()
