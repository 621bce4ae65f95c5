"""A part that the storage lists and will not give (denied, in cold storage): the others are tagged, and the run says so with 1."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hashtag_core import storage
from hashtag_core.errors import HashtagError, StorageError
from tests.faulty_s3 import FaultyS3, faulty_s3
from tests.tagging.outputs import content, output_of, plan_for, run
from tests.tagging.test_nights import part

pytestmark = pytest.mark.usefixtures("inline")
DAYS = 3


@pytest.fixture
def archive(s3_bucket: str, tmp_path: Path) -> str:
    """Three parts; the post "shared" is in each, and its newest row in the last."""
    for day in range(1, DAYS + 1):
        part(tmp_path / f"day-{day}.parquet", [f"{day}-a", f"{day}-b", "shared"], day=day)
        storage.write_bytes(f"{s3_bucket}/posts/day-{day}.parquet", (tmp_path / f"day-{day}.parquet").read_bytes())
    return f"{s3_bucket}/posts"


@pytest.fixture
def store(archive: str, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    with faulty_s3(s3_environment["AWS_ENDPOINT_URL"], share=0.0, seed=0) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        yield proxy


def test_the_other_parts_are_tagged_and_the_next_night_does_it(
    archive: str, store: FaultyS3, linear: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.denied = "day-3.parquet"
    told = r"1 part\(s\) could not be tagged whole.*day-3.parquet.*AccessDenied"
    nothing_else = r"day-3.parquet.*AccessDenied.*1 of 1 new part\(s\) cannot be read"
    for message in (told, nothing_else):
        with pytest.raises(HashtagError, match=message):
            run(archive, tmp_path / "out", linear)
        tagged = {row[0]: row[1] for row in content(tmp_path / "out")}
        assert tagged == dict.fromkeys(["1-a", "1-b"], "day-1.parquet") | dict.fromkeys(
            ["2-a", "2-b", "shared"], "day-2.parquet"
        )
    store.denied = ""
    summary = run(archive, tmp_path / "out", linear)
    assert (summary.parts, summary.skipped_parts) == (1, 2)
    run(archive, tmp_path / "at once", linear)
    assert content(tmp_path / "out") == content(tmp_path / "at once")


def test_what_was_tagged_of_it_stays(
    archive: str, store: FaultyS3, linear: Path, tmp_path: Path, s3_bucket: str
) -> None:
    run(archive, tmp_path / "out", linear)
    before = content(tmp_path / "out")
    part(tmp_path / "changed.parquet", ["2-a", "new"], day=2)
    storage.write_bytes(f"{s3_bucket}/posts/day-2.parquet", (tmp_path / "changed.parquet").read_bytes())
    store.denied = "day-2.parquet"
    part(tmp_path / "day-4.parquet", ["4-a"], day=4)
    storage.write_bytes(f"{s3_bucket}/posts/day-4.parquet", (tmp_path / "day-4.parquet").read_bytes())
    with pytest.raises(HashtagError, match=r"1 part\(s\) could not be tagged whole"):
        run(archive, tmp_path / "out", linear)
    after = content(tmp_path / "out")
    assert [row for row in after if row[0] != "4-a"] == before
    assert len(after) == len(before) + 1
    store.denied = ""
    run(archive, tmp_path / "out", linear)
    assert {row[0] for row in content(tmp_path / "out")} == {"1-a", "1-b", "2-a", "new", "3-a", "3-b", "shared", "4-a"}


def test_an_order_to_tag_again_waits_for_it(archive: str, store: FaultyS3, linear: Path, tmp_path: Path) -> None:
    from hashtag_core.tagging.select_parts import Selection

    run(archive, tmp_path / "out", linear)
    store.denied = "day-1.parquet"
    with pytest.raises(HashtagError, match=r"day-1\.parquet"):
        run(archive, tmp_path / "out", linear, selection=Selection(retag=True))
    assert output_of(tmp_path / "out")[0].records.retag.open == [f"day-{day}.parquet" for day in range(1, DAYS + 1)]
    store.denied = ""
    assert run(archive, tmp_path / "out", linear).parts == 1


def test_an_archive_that_gives_no_part_ends_the_run(
    archive: str, store: FaultyS3, linear: Path, tmp_path: Path
) -> None:
    store.denied = ".parquet"
    with pytest.raises(StorageError, match=r"AccessDenied.*3 of 3 new part\(s\) cannot be read"):
        plan_for(archive, tmp_path / "out", linear)


def test_a_model_that_reads_the_history_needs_all_of_it(
    archive: str, store: FaultyS3, make_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    model = make_model_folder(tmp_path / "model", family="user_frequency")
    store.denied = "day-1.parquet"
    with pytest.raises(StorageError, match=r"day-1\.parquet"):
        plan_for(archive, tmp_path / "out", model)


def test_a_dry_run_names_it(
    archive: str, store: FaultyS3, linear: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.denied = "day-3.parquet"
    with caplog.at_level(logging.ERROR):
        plan = plan_for(archive, tmp_path / "out", linear)
    assert [work.path for work in plan.works] == ["day-1.parquet", "day-2.parquet"]
    assert "day-3.parquet: left as it is" in caplog.text
