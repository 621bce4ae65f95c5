"""Tagging on a real Ray, on a disk and on S3: the same output as without Ray."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hashtag_core import storage
from hashtag_core.tagging.run_state import TagSummary
from tests.distributed.in_process import tag_in_process
from tests.tagging.outputs import content, output_of, plan_for, rejected, rows_by_table, run
from tests.tagging.troubled import write_troubled


@pytest.fixture(scope="module")
def troubled(
    tmp_path_factory: pytest.TempPathFactory, make_posts: Callable, make_jpeg: Callable, write_part: Callable
) -> Path:
    return write_troubled(tmp_path_factory.mktemp("troubled"), make_posts, make_jpeg, write_part)


@pytest.fixture(scope="module")
def expected(troubled: Path, linear: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run without Ray, in whose process other threads work: scores differ in the last digits."""
    out = tmp_path_factory.mktemp("expected")
    with pytest.MonkeyPatch.context() as patch:
        tag_in_process(patch)
        run(troubled, out, linear)
    return out


@pytest.fixture(scope="module")
def tagged(
    ray_session: None, troubled: Path, linear: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, TagSummary]:
    """The troubled archive, tagged on Ray."""
    out = tmp_path_factory.mktemp("tagged")
    return out, run(troubled, out, linear)


def test_on_ray(tagged: tuple[Path, TagSummary], troubled: Path, linear: Path, expected: Path) -> None:
    out, summary = tagged
    assert (summary.tagged, summary.rejected, summary.parts) == (40, 6, 6)
    columns = ("post_id", "part", "part_row", "status", "content", "created_at")
    assert content(out, columns) == content(expected, columns)
    for row, same in zip(rows_by_table(out), rows_by_table(expected), strict=True):
        assert row["scores"] == pytest.approx(same["scores"], abs=1e-5)
    lines = [{**line, "user_key": None} for line in rejected(out)]
    assert lines == [{**line, "user_key": None} for line in rejected(expected)]
    assert run(troubled, out, linear).parts == 0


def test_on_s3(
    ray_session: None, s3_bucket: str, linear: Path, troubled: Path, tagged: tuple[Path, TagSummary]
) -> None:
    archive, out, model = (storage.join(s3_bucket, name) for name in ("posts", "tagged", "model"))
    storage.upload_folder(troubled, archive)
    storage.upload_folder(linear, model)
    summary = run(archive, out, model)
    assert (summary.tagged, summary.rejected, summary.parts) == (40, 6, 6)
    assert content(out) == content(tagged[0])
    named = {file.path for output in output_of(out) for file in output.tables()[0].files()}
    assert {info.path for info in storage.list_files(out, ".parquet")} == named
    before = [(info.uri, info.etag, info.modified) for info in storage.list_files(s3_bucket, hidden=True)]
    assert plan_for(archive, out, model).is_done
    run(archive, out, model)
    assert [(info.uri, info.etag, info.modified) for info in storage.list_files(s3_bucket, hidden=True)] == before
