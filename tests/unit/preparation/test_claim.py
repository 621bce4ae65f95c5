"""One run at a time on a dataset folder, and nothing of others removed."""

import json
import os
import socket
from pathlib import Path

import pytest

from hashtag_core.errors import ConfigError, HashtagError
from hashtag_core.preparation.claim import CLAIM, Claim, foreign_files, remove_leftovers

OURS = ("train/part-0.parquet", "_rejected/rows.jsonl", "vocabulary.json", "dataset.json", "_work/index-0.parquet")


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_others_wrote_is_named_and_stays(tmp_path: Path) -> None:
    fill(tmp_path, *OURS, "notes.txt", "train/mine.parquet")
    assert sorted(foreign_files(str(tmp_path))) == ["notes.txt", "train/mine.parquet"]
    remove_leftovers(str(tmp_path))
    assert files(tmp_path) == {"notes.txt", "train/mine.parquet"}
    assert not (tmp_path / "_work").exists()
    assert foreign_files(str(tmp_path / "none")) == []


def test_the_claim_may_stay(tmp_path: Path) -> None:
    fill(tmp_path, *OURS, CLAIM)
    remove_leftovers(str(tmp_path), but_the_claim=True)
    assert files(tmp_path) == {CLAIM}


def test_a_run_at_work_keeps_others_out(tmp_path: Path) -> None:
    first, second = Claim(str(tmp_path), {}), Claim(str(tmp_path), {})
    first.take()
    with pytest.raises(ConfigError, match=f"process {os.getpid()} on {socket.gethostname()}"):
        second.take()
    first.require()
    assert not second.is_held()


def test_a_run_that_died_is_taken_over_and_knows_it(tmp_path: Path) -> None:
    dead, next_ = Claim(str(tmp_path), {}), Claim(str(tmp_path), {})
    dead.take()
    written = json.loads((tmp_path / CLAIM).read_text())
    (tmp_path / CLAIM).write_text(json.dumps({**written, "process": 2**22 + 1}))  # above any process id of Linux
    next_.take()
    assert next_.is_held()
    with pytest.raises(HashtagError, match="took this dataset over"):
        dead.require()
