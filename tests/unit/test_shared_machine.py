"""Two users on one machine, a home that cannot be written, a full disk, a proxy that leads nowhere: work, or one line."""

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

DEAD = "http://127.0.0.1:9"
PROXIES = {name: DEAD for base in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY") for name in (base, base.lower())}
NEEDS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="needs root: mounts a file system or becomes another user")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "archive").mkdir()
    table = pa.table({"post_id": [f"{n}" for n in range(50)], "caption": [f"a bird {n} " * 200 for n in range(50)]})
    pq.write_table(table, tmp_path / "archive" / "a.parquet")
    return tmp_path / "archive"


def convert(archive: str, out: Path, repository: Path, **how: Any) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **how.pop("env", {})}
    command = [sys.executable, f"{repository}/jobs/prepare.py", "--archive", archive, "--convert", str(out)]
    return subprocess.run(command, check=False, env=env, capture_output=True, text=True, timeout=60, **how)


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr.strip().splitlines()[-1]


def posts_of(done: subprocess.CompletedProcess[str]) -> int:
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout.strip().splitlines()[-1])["posts"])


def test_a_proxy_that_leads_nowhere_is_not_asked_for_files_and_a_local_store(
    archive: Path, tmp_path: Path, repository: Path, s3_bucket: str
) -> None:
    from hashtag_core import storage

    assert posts_of(convert(str(archive), tmp_path / "out", repository, env=PROXIES)) == 50
    storage.upload_folder(str(archive), f"{s3_bucket}/a")
    assert posts_of(convert(f"{s3_bucket}/a", tmp_path / "out-s3", repository, env={**PROXIES, "NO_PROXY": ""})) == 50


def test_what_is_on_this_machine_is_added_to_the_exceptions_of_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.common import _keep_proxies_off_this_machine

    for name in (*PROXIES, "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    _keep_proxies_off_this_machine()
    assert "NO_PROXY" not in os.environ
    monkeypatch.setenv("https_proxy", DEAD)
    monkeypatch.setenv("no_proxy", ".intern")
    monkeypatch.setenv("NO_PROXY", "store, 127.0.0.1")
    _keep_proxies_off_this_machine()
    _keep_proxies_off_this_machine()
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == ".intern,store,127.0.0.1,localhost,::1"
    monkeypatch.setenv("NO_PROXY", "*")
    _keep_proxies_off_this_machine()
    assert os.environ["NO_PROXY"] == "*"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, b"size=64k"):
        pytest.skip(f"no file system can be mounted here: {os.strerror(ctypes.get_errno())}")
    yield place
    libc.umount2(os.fsencode(place), 2)


def fill(place: Path) -> None:
    with (place / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))


@NEEDS_ROOT
@pytest.mark.parametrize("full_before", [True, False])
def test_a_full_disk_is_one_line_and_leaves_no_part(
    full_before: bool, tmp_path: Path, small_disk: Path, repository: Path
) -> None:
    (tmp_path / "archive").mkdir()
    noise = [os.urandom(4000).hex() for _ in range(50)]
    pq.write_table(
        pa.table({"post_id": [f"{n}" for n in range(50)], "caption": noise}), tmp_path / "archive" / "a.parquet"
    )
    if full_before:
        fill(small_disk)
    done = convert(str(tmp_path / "archive"), small_disk / "out", repository)
    assert done.returncode == 1, done.stderr
    assert "No space left on device" in last_line(done)
    assert str(small_disk / "out") in last_line(done)
    assert not list(small_disk.rglob("part-*.parquet"))


@NEEDS_ROOT
def test_a_full_temporary_folder_does_not_matter_to_who_writes_elsewhere(
    archive: Path, small_disk: Path, tmp_path: Path, repository: Path
) -> None:
    fill(small_disk)
    assert posts_of(convert(str(archive), tmp_path / "out", repository, env={"TMPDIR": str(small_disk)})) == 50


@NEEDS_ROOT
def test_a_full_temporary_folder_is_not_taken_for_ray(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Ray would wait for a file that it cannot write, and end with the name of it."""
    from hashtag_core.distributed import session
    from hashtag_core.errors import HashtagError

    link = Path("/tmp") / f"full{os.getpid()}"
    link.symlink_to(tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: 987_654_321)
    own = Path("/tmp/ray-987654321")
    try:
        fill(small_disk)
        for name in ("TMPDIR", "RAY_TMPDIR"):
            monkeypatch.setenv(name, f"{link}/small")
        assert session.ray_folder() == str(own)
        assert f"({link}/small/ray: No space left on device); RAY_TMPDIR names another folder" in caplog.text
        own.rmdir()
        own.symlink_to(small_disk)
        with pytest.raises(HashtagError, match=r"No space left on device; .*No space left on device: set RAY_TMPDIR"):
            session.ray_folder()
    finally:
        link.unlink()
        if own.is_symlink():
            own.unlink()


@pytest.mark.parametrize("home", ["no-folder", "file", "/proc/self"])
def test_a_home_that_cannot_be_written(home: str, archive: Path, tmp_path: Path, repository: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    place = home if home.startswith("/") else str(tmp_path / home / "ann")
    assert posts_of(convert(str(archive), tmp_path / "out", repository, env={"HOME": place})) == 50


@NEEDS_ROOT
def test_two_users_share_a_machine_and_a_temporary_folder(repository: Path) -> None:
    """The one's folders of node-local copies and of Ray are not the other's: each has its own, and neither is asked to write
    in a stranger's."""
    shared = Path("/tmp") / f"two-users-{os.getpid()}"
    shared.mkdir(mode=0o777)
    shared.chmod(0o1777)
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); os.umask(0o077)\n"
        "from pathlib import Path\n"
        "from hashtag_core.storage.node_local import node_folder\n"
        "from hashtag_core.distributed.session import ray_folder\n"
        "os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))\n"
        "made = node_folder('models', 'v1', lambda folder: Path(folder, 'x').write_text(str(os.getuid())))\n"
        "print(Path(made, 'x').read_text(), ray_folder())\n"
    )
    try:
        told = []
        for uid in ("60001", "60002"):
            env = {**os.environ, "TMPDIR": str(shared), "HOME": "/nonexistent"}
            env.pop("RAY_TMPDIR", None)
            command = [sys.executable, "-c", code, str(repository), uid]
            done = subprocess.run(command, check=False, env=env, capture_output=True, text=True, timeout=60, cwd="/")
            assert done.returncode == 0, done.stderr
            told.append(done.stdout.split())
        assert [line[0] for line in told] == ["60001", "60002"]
        assert len({line[1] for line in told}) == 2
    finally:
        subprocess.run(["rm", "-rf", str(shared), "/tmp/ray-60001", "/tmp/ray-60002"], check=True)
