"""The look through the ids of parts: many at once in processes of their own."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from hashtag_core.data.tagged_archive import Source
from hashtag_core.errors import MachineError
from hashtag_core.output.forget_users.forget_list import ForgetList
from hashtag_core.storage import FileInfo
from hashtag_core.tagging import part_ids
from tests.tagging.test_nights import part


@pytest.fixture
def archive(tmp_path: Path) -> Source:
    for number in range(7):
        part(tmp_path / f"p{number}.parquet", [str(number), "shared", "shared"], day=number + 1)
    (tmp_path / "p7.parquet").write_bytes(b"no Parquet")
    return Source(str(tmp_path))


@pytest.fixture
def in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_ids, "MANY_PARTS", 2)
    monkeypatch.setattr(part_ids, "PARTS_PER_TASK", 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})


def test_processes_find_what_one_finds(archive: Source, in_processes: None) -> None:
    files = archive.parts()
    alone = [part_ids.scan_part(archive, file) for file in files]
    together = part_ids.scan_parts(archive, files)
    assert [item.file for item in together] == files
    assert [item.left_out for item in together] == [item.left_out for item in alone]
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.rows == theirs.rows == (0 if ours.file.path == "p7.parquet" else 3)
        for name in ("at", "doubles"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        np.testing.assert_array_equal(ours.entries.keys.high, theirs.entries.keys.high)
        np.testing.assert_array_equal(ours.entries.created_us, theirs.entries.created_us)


def test_plans_of_one_look_read_ids_once_unless_someone_is_forgotten_meanwhile(
    archive: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    scan_part = part_ids.scan_part

    def noted(source: Source, file: FileInfo, forgotten: ForgetList | None) -> part_ids.Scan:
        read.append(file.path)
        return scan_part(source, file, forgotten)

    monkeypatch.setattr(part_ids, "scan_part", noted)
    look = part_ids.ArchiveLook(archive.uri, archive.section)
    files = look.source.parts()
    first, again = look.scan(files[:3], None), look.scan(files[1:5], None)
    assert read == [file.path for file in files[:5]]
    assert again[:2] == first[1:]
    without = look.scan(files[1:2], ForgetList.new().grown([], ["1"]))
    assert read[5:] == [files[1].path]
    assert (len(first[1].at), len(without[0].at)) == (2, 1)


@dataclass(frozen=True)
class Deadly(Source):
    """Kills the process that it reaches."""

    def __reduce__(self) -> tuple[object, ...]:
        return _killed, ()


def _killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_the_machines_fault(archive: Source, in_processes: None) -> None:
    with pytest.raises(MachineError, match="a process that looked through the ids of its parts was killed"):
        part_ids.scan_parts(Deadly(archive.uri), archive.parts())
