"""A run that is fed rubbish stops, and says what was found."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.tagging.outputs import plan_for, rejected, run


def test_parts_that_cannot_be_opened_are_rejected(
    inline: None, popularity: Path, tmp_path: Path, make_posts: Callable, write_part: Callable
) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    write_part(archive / "a.parquet", make_posts(5))
    (archive / "link.parquet").symlink_to(tmp_path / "elsewhere.parquet")
    summary = run(archive, out, popularity)
    assert (summary.parts, summary.tagged, summary.rejected) == (2, 5, 1)
    (told,) = rejected(out)
    assert (told["part"], told["row"]) == ("link.parquet", None)
    assert told["reason"] == "expected a Parquet file, found: a link to nothing"
    assert plan_for(archive, out, popularity).is_done
    write_part(tmp_path / "elsewhere.parquet", make_posts(3, seed=4))
    assert run(archive, out, popularity).tagged == 3
    (archive / "a.parquet").unlink()
    (archive / "b.parquet").symlink_to("nowhere")
    assert run(archive, out, popularity).parts == 1
    last = max((out / "_state" / "runs").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert json.loads(last.read_text())["removed_parts"] == 1


def test_a_file_without_permission_is_a_rejected_part(
    tmp_path: Path, make_posts: Callable, write_part: Callable
) -> None:
    """Seen by a user who is not root; that the permission was given later is seen in the etag."""
    path = write_part(tmp_path / "a.parquet", make_posts(3))
    path.chmod(0)
    code = (
        "import os, sys; from hashtag_core import storage; from hashtag_core.data import parquet_rows as posts\n"
        "if not os.getuid(): os.setgid(65534); os.setuid(65534)\n"
        "info = storage.FileInfo\n"
        "found = storage.file_info(sys.argv[1]); print(found.etag); print(posts.part_problem(found))"
    )
    for folder in [path.parent, *path.parent.parents][:-2]:
        if not folder.stat().st_mode & stat.S_IXOTH:
            folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": "."},
    )
    etag, problem = done.stdout.splitlines()
    assert etag.endswith("-unreadable")
    assert problem == "expected a Parquet file, found: one that may not be read"
