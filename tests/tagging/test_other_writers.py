"""An output that somebody else's hands were on: other writers of Delta tables, files that are lost, a list that is gone."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from deltalake import DeltaTable, write_deltalake

from hashtag_core.data.tagged_archive import Source
from hashtag_core.errors import ConfigError, IntegrityError, StorageError
from hashtag_core.output import fenced_table
from hashtag_core.output.fenced_table import Change, Table
from hashtag_core.output.verify import verify_output
from hashtag_core.storage import FileInfo
from tests.tagging.outputs import GLOB, rows_by_glob, run
from tests.tagging.test_nights import part

pytestmark = pytest.mark.usefixtures("inline")

IDS = ["1", "2", "3", "4", "5"]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two parts, which have one post both."""
    part(tmp_path / "archive" / "a.parquet", IDS[:3])
    part(tmp_path / "archive" / "b.parquet", IDS[2:], day=2)
    return tmp_path / "archive"


@pytest.fixture
def out(archive: Path, tmp_path: Path, popularity: Path) -> Path:
    """Tagged in two nights, and the older snapshots kept."""
    run(archive, tmp_path / "out", popularity, keep_history_h=24.0)
    part(archive / "a.parquet", IDS[:3], caption="another")
    run(archive, tmp_path / "out", popularity, keep_history_h=24.0)
    return tmp_path / "out"


def is_whole(out: Path, archive: Path) -> bool:
    assert verify_output(str(out), str(archive)).problems == []
    return [row["post_id"] for row in rows_by_glob(out)] == IDS


def _compact(out: Path) -> None:
    assert DeltaTable(str(out)).optimize.compact()["numFilesAdded"] == 1


def _append(out: Path) -> None:
    write_deltalake(str(out), DeltaTable(str(out)).to_pyarrow_table().slice(0, 2), mode="append")


DEEDS: dict[str, Callable[[Path], object]] = {
    "rows are deleted": lambda out: DeltaTable(str(out)).delete("post_id = '2'"),
    "rows are added": _append,
    "files are merged": _compact,
    "files are sorted": lambda out: DeltaTable(str(out)).optimize.z_order(["post_id"]),
    "an older snapshot is restored": lambda out: DeltaTable(str(out)).restore(1),
    "a data file is lost": lambda out: sorted(out.glob(GLOB))[0].unlink(),
    "a file of rejected rows is lost": lambda out: next((out / "_rejected").rglob("rejected-*.parquet")).unlink(),
    "a copy lies about": lambda out: shutil.copy(
        sorted(out.glob(GLOB))[0], sorted(out.glob(GLOB))[0].with_name("part-x.parquet")
    ),
}


@pytest.mark.parametrize("deed", DEEDS)
def test_the_next_run_makes_it_whole_though_nothing_is_new(
    deed: str, archive: Path, out: Path, popularity: Path
) -> None:
    run(archive, out, popularity)
    DEEDS[deed](out)
    run(archive, out, popularity)
    assert is_whole(out, archive)
    assert run(archive, out, popularity).run is None, "nothing is left to do"


def test_a_lost_file_and_a_part_that_changed(archive: Path, out: Path, popularity: Path) -> None:
    sorted(out.glob(GLOB))[0].unlink()
    for name, ids in (("a", IDS[:3]), ("b", IDS[2:])):
        part(archive / f"{name}.parquet", ids, caption="a third")
    run(archive, out, popularity)
    assert is_whole(out, archive)


def test_a_merge_between_what_is_read_and_the_commit_doubles_nothing(
    archive: Path, out: Path, popularity: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part(archive / "a.parquet", IDS[:2], caption="a third")
    commit = Table.commit

    def merged_before(table: Table, change: Change) -> None:
        if table.uri == str(out):
            _compact(out)
        commit(table, change)

    with monkeypatch.context() as patch:
        patch.setattr(Table, "commit", merged_before)
        with pytest.raises(StorageError, match=r"another writer took .* run again"):
            run(archive, out, popularity)
    run(archive, out, popularity)
    assert is_whole(out, archive)


@pytest.mark.parametrize(
    "lost", ["_delta_log", "_rejected/_delta_log", "_state/records/_delta_log", "_state", "_state/forgotten.json"]
)
def test_a_log_or_list_that_is_lost_is_told_before_anything_is_written(
    lost: str, archive: Path, out: Path, popularity: Path
) -> None:
    """Without the list those who are on it would be tagged again; without a log every post, those apart whose part is gone."""
    shutil.rmtree(out / lost) if (out / lost).is_dir() else (out / lost).unlink()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(IntegrityError, match=r"(_delta_log|forgotten.json) is gone, though .* has rows"):
        run(archive, out, popularity)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_file_that_another_writer_did_not_commit_yet_stays_for_a_day(
    archive: Path, out: Path, popularity: Path
) -> None:
    file = sorted(out.glob(GLOB))[0]
    merged = Path(
        shutil.copy(file, file.with_name("part-00000-7f2f0e0e-0000-4000-8000-000000000000-c000.snappy.parquet"))
    )
    part(archive / "c.parquet", ["6"])
    run(archive, out, popularity)
    assert merged.exists()
    os.utime(merged, (time.time() - 25 * 3600,) * 2)
    run(archive, out, popularity)
    assert not merged.exists()


def test_history_is_kept_from_when_a_commit_removed_it(archive: Path, out: Path, popularity: Path) -> None:
    """Not from when it was written, which may be long ago."""
    before = DeltaTable(str(out)).version()
    for path in out.glob(GLOB):
        os.utime(path, (1, 1))
    part(archive / "a.parquet", IDS[:3], caption="a third")
    run(archive, out, popularity, keep_history_h=0.5)
    part(archive / "c.parquet", ["6"])
    run(archive, out, popularity, keep_history_h=0.5)
    assert len(DeltaTable(str(out), version=before).to_pyarrow_table()) == len(IDS)
    run(archive, out, popularity)
    assert len(list(out.glob(GLOB))) == 3


def test_a_commit_that_finds_no_room_says_so(
    archive: Path, out: Path, popularity: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part(archive / "c.parquet", ["6"])
    write = DeltaTable.create_write_transaction

    def full(delta: DeltaTable, actions: list, *given: object, **named: object) -> None:
        if actions:
            raise OSError(28, "No space left on device")
        write(delta, actions, *given, **named)

    monkeypatch.setattr(DeltaTable, "create_write_transaction", full)
    monkeypatch.setattr(fenced_table, "PAUSE_S", 0.0)
    with pytest.raises(StorageError, match=r"refused 8 times, at last for: .*No space left on device"):
        run(archive, out, popularity)


@pytest.mark.parametrize("feature", ["deletionVectors", "columnMapping"])
def test_a_feature_by_which_a_file_alone_does_not_tell_its_rows_is_refused(
    feature: str, archive: Path, out: Path, popularity: Path
) -> None:
    """As Spark's ALTER TABLE turns them on."""
    log = out / "_delta_log"
    version = DeltaTable(str(out)).version() + 1
    upgraded = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": [feature], "writerFeatures": [feature]}
    (log / f"{version:020}.json").write_text(json.dumps({"protocol": upgraded}))
    with pytest.raises(ConfigError, match=f"another tool turned on {feature}"):
        run(archive, out, popularity)
    with pytest.raises(ConfigError, match=f"another tool turned on {feature}"):
        verify_output(str(out))


def test_a_part_that_is_gone_since_it_was_listed_is_no_wrong_command(
    archive: Path, tmp_path: Path, popularity: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = Source.parts

    def gone_then(source: Source) -> list[FileInfo]:
        parts = listed(source)
        (archive / "b.parquet").unlink()
        return parts

    monkeypatch.setattr(Source, "parts", gone_then)
    with pytest.raises(StorageError, match=r"b.parquet: not found, though it was there when this began: run again"):
        run(archive, tmp_path / "new", popularity)
