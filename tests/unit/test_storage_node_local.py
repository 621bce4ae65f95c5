"""Copies on a node's own disk: a user's own, and removed only when nobody has them open."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hashtag_core.storage.node_local import KEEP_S, LIMIT_VARIABLE, hold, node_folder, node_root, open_root

HOLDER = """
import sys
from pathlib import Path
from hashtag_core.storage.node_local import hold
hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))


def old_copy(name: str) -> Path:
    """A table that was opened last before the age at which it may go."""
    folder = node_root() / "tables" / name
    folder.mkdir(parents=True)
    (folder / "values.bin").write_bytes(bytes(4096))
    before = time.time() - KEEP_S - 60
    os.utime(folder, (before, before))
    return folder


def test_an_old_copy_goes_only_when_no_process_has_it_open(repository: Path) -> None:
    used, unused = old_copy("used"), old_copy("unused")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(used)], cwd=repository, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"held\n"
        before = time.time() - KEEP_S - 60
        os.utime(used, (before, before))  # the lock's file has changed its folder
        open_root("tables")
        assert (used.exists(), unused.exists()) == (True, False)
        holder.stdin.close()
    open_root("tables")
    assert not used.exists()


def test_the_oldest_go_first_where_room_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [node_folder("models", name, lambda made: None) for name in ("one", "two")]
    tables = [open_root("tables") / name for name in ("old", "new")]
    for age_s, table in zip((600, 300), tables, strict=True):
        table.mkdir()
        (table / "values.bin").write_bytes(os.urandom(1 << 20))
        os.utime(table, (time.time() - age_s, time.time() - age_s))
    monkeypatch.setenv(LIMIT_VARIABLE, str(3 << 19))
    open_root("tables")
    assert [table.exists() for table in tables] == [False, True]
    assert all(folder.exists() for folder in folders)  # this process has them open


def test_two_users_of_a_machine_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = node_root()
    monkeypatch.setattr(os, "getuid", lambda: 4242)
    assert node_root() != mine
    assert open_root("tables").parent == node_root()
    assert mine.stat().st_mode & 0o777 == 0o700


def test_a_copy_that_is_gone_cannot_be_held(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        hold(tmp_path / "gone")
