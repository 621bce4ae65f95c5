"""What a machine lacks is worked around or told in one line that names the variable to set."""

import json
import logging
import os
import resource
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashtag_core.errors import HashtagError


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "ärchiv").mkdir()
    pq.write_table(pa.table({"post_id": ["1"], "caption": ["größe"]}), tmp_path / "ärchiv" / "größe.parquet")
    return tmp_path / "ärchiv"


def shell(command: str, archive: Path, repository: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """`command` with $JOB for the job that converts the archive to $OUT."""
    job = f"'{sys.executable}' '{repository}/jobs/prepare.py'"
    values = {**os.environ, "JOB": job, "ARGS": f"--archive '{archive}' --convert '{archive}-out'", **env}
    return subprocess.run(
        ["bash", "-c", "set -o pipefail; " + command.replace("$JOB", job).replace("$ARGS", values["ARGS"])],
        check=False, env=values, capture_output=True, text=True, timeout=60, cwd=archive,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("$JOB $ARGS | true", 0),
        ("$JOB $ARGS >&- 2>&- <&-", 0),
        ("$JOB --help | head -1", 0),
        ("$JOB $ARGS > /dev/full", 0),
    ],
)
def test_streams_that_are_closed_change_nothing(command: str, code: int, archive: Path, repository: Path) -> None:
    done = shell(command, archive, repository)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if "$ARGS" in command:
        (part,) = Path(f"{archive}-out").glob("part-*.parquet")
        assert pq.read_table(part)["caption"].to_pylist() == ["größe"]
    if "/dev/full" in command or "| true" in command:
        assert json.loads(done.stderr.strip().splitlines()[-1].partition("the summary: ")[2])["posts"] == 1


@pytest.mark.parametrize(
    ("env", "works"),
    [
        ({"LC_ALL": "C"}, True),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, False),
    ],
)
def test_names_with_umlauts_in_the_c_locale(env: dict[str, str], works: bool, archive: Path, repository: Path) -> None:
    done = shell("$JOB $ARGS", archive, repository, **env)
    assert "Traceback" not in done.stderr
    if works:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 2
        assert done.stderr.splitlines() == [
            "prepare: this Python takes names of files for ascii: set PYTHONUTF8=1 (or LC_ALL=C.UTF-8)"
        ]


@pytest.fixture
def ray_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """`hashtag_core.distributed.session.ray_folder` of a user of whom /tmp holds nothing."""
    from hashtag_core.distributed import session

    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 987_654_321)
    yield session.ray_folder
    for name in (Path("/tmp/ray-987654321"),):
        if name.is_dir():
            name.rmdir()


def short(tmp_path: Path) -> Path:
    """A path short enough for sockets that leads to this test's folder."""
    link = Path("/tmp") / f"l{os.getpid() % 100_000}"
    link.unlink(missing_ok=True)
    link.symlink_to(tmp_path)
    return link


def test_a_folder_for_ray(
    ray_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    link = short(tmp_path)
    try:
        monkeypatch.setenv("TMPDIR", str(link))
        assert ray_folder() == f"{link}/ray"
        monkeypatch.setenv("RAY_TMPDIR", f"{link}/other")
        assert ray_folder() == f"{link}/other/ray"
        assert caplog.records == []
        monkeypatch.delenv("RAY_TMPDIR")
        (tmp_path / "ray").rmdir()
        (tmp_path / "ray").write_text("somebody else's")
        with caplog.at_level(logging.WARNING):
            assert ray_folder() == "/tmp/ray-987654321"
        assert (
            f"Ray's files go to /tmp/ray-987654321 ({link}/ray: File exists); RAY_TMPDIR names another" in caplog.text
        )
    finally:
        link.unlink()


def test_a_home_that_cannot_be_written_gives_ray_a_token_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from hashtag_core.distributed import session

    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")
    (tmp_path / "good").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "good"))
    session._ensure_token()
    assert os.environ["RAY_AUTH_TOKEN"] == ""
    (tmp_path / "bad").write_text("no folder")
    monkeypatch.setenv("HOME", str(tmp_path / "bad"))
    with caplog.at_level(logging.WARNING):
        session._ensure_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert "HOME names another folder" in caplog.text
    assert os.environ["RAY_AUTH_TOKEN"] not in caplog.text


def test_a_home_that_cannot_be_written_is_no_line_of_matplotlib(repository: Path) -> None:
    code = "import logging; from jobs.common import _log_to_stderr; _log_to_stderr(logging.INFO, False); import matplotlib as mpl; mpl.get_configdir()"
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
    }
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, env={**env, "HOME": "/proc/self"}, cwd=repository, capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert done.stderr == ""


def test_a_folder_with_less_room_than_a_session_needs_is_not_taken(
    ray_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = short(tmp_path)
    monkeypatch.setenv("TMPDIR", str(link))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))  # a write beyond it is short, as on a full disk
    try:
        with pytest.raises(HashtagError, match=r"no folder for Ray's files: .*File too large"):
            ray_folder()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        link.unlink()


def test_a_long_folder_is_not_taken_for_sockets(ray_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("slurm_jobdir_" + "x" * 60)
    monkeypatch.setenv("TMPDIR", str(long))
    assert ray_folder() == "/tmp/ray-987654321"
    Path("/tmp/ray-987654321").rmdir()
    Path("/tmp/ray-987654321").write_text("taken")
    try:
        with pytest.raises(
            HashtagError,
            match=r"no folder for Ray's files: .*longer than the 40 bytes.*: set RAY_TMPDIR to a short path",
        ):
            ray_folder()
    finally:
        Path("/tmp/ray-987654321").unlink()


def test_a_job_ends_without_a_search_for_cycles(repository: Path) -> None:
    """Registered first, the question is asked last: after all that the job does at its end."""
    program = (
        "import atexit, gc, os\n"
        "atexit.register(lambda: os.write(2, b'frozen' if gc.get_freeze_count() > 1000 else b'searched'))\n"
        "from jobs.common import JobParser, run\n"
        "codes = [run(JobParser(prog='toy'), lambda arguments: {'n': 1}, []) for _ in range(2)]\n"
        "assert codes == [0, 0] and gc.get_freeze_count() == 0\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, cwd=repository, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, '{"n": 1}\n' * 2, "frozen")
