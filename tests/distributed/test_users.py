"""Two real users at once on one machine, whose home cannot be written: the whole path, each by the commands. Needs root, and a
mount namespace of its own, in which a Python below /root can be reached by everybody."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = [
    pytest.mark.skipif("SOAK_USERS" not in os.environ, reason="minutes: make soak (SOAK_USERS=1)"),
    pytest.mark.skipif(os.getuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare"),
]

POSTS = 60
MODEL = "models:/hashtag-recommender/1"
SCRIPT = """
set -e
python_home=$1; repository=$2; python=$3; uid=$4; archive=$5
mkdir -p "$PWD/home"; mount --bind "$python_home" "$PWD/home"
if [ "${python_home#/root}" != "$python_home" ]; then
  mount -t tmpfs -o mode=755 tmpfs /root; mkdir -p "$python_home"; mount --bind "$PWD/home" "$python_home"
fi
umask 077; export HOME=/nonexistent PYTHONDONTWRITEBYTECODE=1; unset TMPDIR RAY_TMPDIR
as() { setpriv --reuid=$uid --regid=$uid --clear-groups "$python" "$repository/jobs/$@"; }
as prepare.py --archive "$archive" --dataset dataset --set vocabulary.min_count=2
as train.py --recipe popularity --dataset dataset
as tag.py --archive "$archive" --out out --model MODEL
as tag.py verify --out out --archive "$archive"
as recommend.py --caption "a cat" --model MODEL --format json
""".replace("MODEL", MODEL)


def test_two_users_at_once(repository: Path) -> None:
    if repository.is_relative_to("/root"):
        pytest.skip("the clone is below /root, which nobody else can enter")
    shared = Path("/tmp") / f"users{os.getpid()}"
    (shared / "archive").mkdir(parents=True)
    kinds = ["cat", "dog", "sea"]
    table = {
        "post_id": [f"p{n}" for n in range(POSTS)],
        "user_id": [f"u{n % 6}" for n in range(POSTS)],
        "caption": [f"a {kinds[n % 3]} {n}" for n in range(POSTS)],
        "hashtags": [[kinds[n % 3]] for n in range(POSTS)],
    }
    pq.write_table(pa.table(table), shared / "archive" / "a.parquet")
    started = {}
    try:
        for uid in (60_011, 60_012):
            place = shared / str(uid)
            place.mkdir()
            os.chown(place, uid, uid)
            python_home = os.path.realpath(sys.base_prefix)
            command = ["unshare", "-m", "--propagation", "private", "bash", "-c", SCRIPT, "two-users"]
            arguments = [python_home, str(repository), sys.executable, str(uid), str(shared / "archive")]
            with (place / "log").open("w") as log:
                started[uid] = subprocess.Popen([*command, *arguments], cwd=place, stdout=log, stderr=subprocess.STDOUT)
        for uid, process in started.items():
            assert process.wait(timeout=900) == 0, (shared / str(uid) / "log").read_text()
        for uid in started:
            lines = (shared / str(uid) / "log").read_text().splitlines()
            summaries = [json.loads(line) for line in lines if line.startswith("{")]
            assert [summary["rows"] for summary in summaries if "rows" in summary] == [POSTS]
            assert [summary["tagged"] for summary in summaries if "verified" in summary] == [POSTS]
            assert summaries[-1]["posts"][0]["hashtags"]
            assert not any("Traceback" in line for line in lines)
            owners = {path.stat().st_uid for path in (shared / str(uid) / "out").rglob("*")}
            assert owners == {uid}
    finally:
        for process in started.values():
            process.kill()
        shutil.rmtree(shared, ignore_errors=True)
        for uid in started:
            shutil.rmtree(f"/tmp/ray-{uid}", ignore_errors=True)
