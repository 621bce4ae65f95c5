"""Tagging on a real Ceph gateway, whose conditions take etags without quotes alone: `make soak`.

`SOAK_CEPH=1`, a gateway at `SOAK_CEPH_URL` (default http://127.0.0.1:7480) and a user `s3test` with the secret `s3testsecret`.
"""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hashtag_core import storage
from hashtag_core.errors import NotFoundError
from hashtag_core.output.forget_users.delete import forget
from hashtag_core.output.verify import verify_output
from hashtag_core.storage import s3_client
from tests.tagging.outputs import rows_by_table

pytestmark = pytest.mark.skipif(os.environ.get("SOAK_CEPH") != "1", reason="SOAK_CEPH=1 and a Ceph gateway wanted")

POSTS, CHUNK_ROWS = 60_000, 25
"""Small chunks, so that the run takes minutes: a heartbeat every ten seconds has to be taken."""


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in {
        "AWS_ENDPOINT_URL": os.environ.get("SOAK_CEPH_URL", "http://127.0.0.1:7480"),
        "AWS_ACCESS_KEY_ID": "s3test",
        "AWS_SECRET_ACCESS_KEY": "s3testsecret",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_SESSION_TOKEN", *s3_client.CHECKSUMS):
        monkeypatch.delenv(name, raising=False)
    name = f"soak-{uuid.uuid4().hex[:12]}"
    s3_client.client().create_bucket(Bucket=name)
    yield f"s3://{name}"
    storage.remove_tree(f"s3://{name}")
    s3_client.client().delete_bucket(Bucket=name)


def test_a_long_run_a_kill_a_rerun_forgetting(
    bucket: str, popularity: Path, tmp_path: Path, write_archive: Callable, repository: Path
) -> None:
    posts = [
        {"post_id": f"{n:06d}", "user_id": f"u{n % 97}", "created_at": n, "caption": f"number {n} of many"}
        for n in range(POSTS)
    ]
    archive, out = f"{bucket}/archive", f"{bucket}/out"
    storage.upload_folder(write_archive(tmp_path / "archive", posts, parts=6), archive)
    command = [sys.executable, "jobs/tag.py", "--archive", archive, "--out", out, "--model", str(popularity)]
    command += ["--chunk-rows", str(CHUNK_ROWS)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with (tmp_path / "killed.log").open("w") as log:
        driver = subprocess.Popen(command, cwd=repository, env=environment, stdout=log, stderr=log)
        began = time.monotonic()
        while time.monotonic() - began < 60 or not _chunks(out):
            assert driver.poll() is None, (tmp_path / "killed.log").read_text()[-3000:]
            time.sleep(1)
        driver.kill()
        driver.wait()
    again = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr[-3000:]
    told = json.loads(again.stdout.splitlines()[-1])
    assert told["parts"] + told["skipped_parts"] == 6
    print(f"rerun: {told['seconds']} s")
    assert len(rows_by_table(out)) == POSTS
    assert verify_output(out, archive).problems == []
    found = forget(out, {"u7"})
    assert found.remaining == 0
    assert len(rows_by_table(out)) == POSTS - sum(n % 97 == 7 for n in range(POSTS))
    assert verify_output(out, archive).problems == []


def _chunks(out: str) -> bool:
    try:
        return any("/chunks/" in info.path for info in storage.list_files(out, hidden=True))
    except NotFoundError:
        return False
