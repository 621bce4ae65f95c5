"""The tables' own commits on a store of which a third of the requests fail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faulty_s3 import faulty_s3

CODE = """
import sys
import pyarrow as pa
from hashtag_core.output.fenced_table import Change, FencedError, ensure_table

schema = pa.schema([pa.field(name, pa.string()) for name in ("post_id", "part", "model")])
table = ensure_table(sys.argv[1], schema, ["model"], "a test")
table.claim("run")
rows = pa.table({"post_id": ["1", "2"], "part": ["a", "a"]})
first, second = [table.write(f"model=m/part-{n}.parquet", rows, {"model": "m"}) for n in (1, 2)]
table.commit(Change([first]))
table.commit(Change([second], [first]))
assert [file.path for file in table.files()] == [second.path]
other = ensure_table(sys.argv[1], schema, ["model"], "a test")
other.claim("run")
assert other.epoch == 2, other.epoch
try:
    table.commit(Change([], [second]))
except FencedError:
    print("fenced", [file.path for file in other.files()], end="")
"""
"""In a process of its own: a call into delta-rs may keep this one from answering as the proxy."""


@pytest.mark.parametrize(
    "seed", range(3 if "SOAK_KILLS" in os.environ else 1)
)  # each takes seconds: the others in make soak
def test_a_store_that_fails_makes_a_commit_late_and_not_wrong(
    s3_bucket: str, s3_environment: dict[str, str], repository: Path, seed: int
) -> None:
    with faulty_s3(s3_environment["AWS_ENDPOINT_URL"], share=0.2, seed=seed) as proxy:
        command = [sys.executable, "-c", CODE, f"{s3_bucket}/out"]
        environment = {**os.environ, "AWS_ENDPOINT_URL": proxy.address}
        ended = subprocess.run(
            command, cwd=repository, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert ended.returncode == 0, ended.stderr[-3000:]
        assert ended.stdout == "fenced ['model=m/part-2.parquet']"
        assert proxy.failed.total() > 0
