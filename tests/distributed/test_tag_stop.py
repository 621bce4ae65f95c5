"""SIGTERM to the job, on Ray and S3."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hashtag_core import storage
from hashtag_core.errors import NotFoundError
from jobs.tag import main
from tests.tagging.test_stop_signal import ids


@pytest.mark.slow
def test_sigterm_to_the_job_on_ray_and_s3(
    inline: None,
    s3_bucket: str,
    popularity: Path,
    tmp_path: Path,
    make_posts: Callable,
    write_archive: Callable,
    repository: Path,
) -> None:
    archive = write_archive(tmp_path / "archive", make_posts(300), parts=3)
    out = storage.join(s3_bucket, "tagged")
    flags = ["--archive", str(archive), "--out", out, "--model", str(popularity), "--chunk-rows", "6"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(
        [sys.executable, "jobs/tag.py", *flags, "--set", "tagging.chunks_per_task=20", "--set", "tagging.actors=1"],
        cwd=repository,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    state = storage.join(out, "_state")
    while process.poll() is None and not [info for info in _files(state) if info.path.endswith(".parquet")]:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    printed, told = process.communicate(timeout=120)
    assert process.returncode == 1, told
    assert "tag: stopped for SIGTERM" in told
    assert json.loads(printed.splitlines()[-1])["tagged"] < 300
    left = [info.path for info in _files(state)]
    assert [path for path in left if path.endswith(".parquet")], "chunks in hand are kept"
    assert not [path for path in left if path.endswith(("lease.json", "stop.json"))]
    assert main(flags) == 0
    assert len(ids(out)) == len(set(ids(out))) == 300


def _files(uri: str) -> list[storage.FileInfo]:
    try:
        return storage.list_files(uri, hidden=True)
    except NotFoundError:
        return []
