"""What planning costs where an archive has many parts and few of them are new. Run by hand:

    .venv/bin/pytest -s -o python_files='bench_*.py' tests/benchmarks/bench_planning.py

S3 is moto behind a server that answers each request 25 ms late. The output's state is written as a run would have left it
(records, index of ids, data files), without tagging 10,000 parts first; what is measured is the real planning, and the real job.
"""

import os
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from hashtag_core import storage
from hashtag_core.output.claimed_output import Output
from hashtag_core.output.fenced_table import Change
from hashtag_core.output.forget_users.forget_list import ForgetList
from hashtag_core.output.ids import Entries, IdIndex, keys_of
from hashtag_core.output.records import PartRecord
from hashtag_core.schema import TABLE
from hashtag_core.tagging.plan import plan_tagging
from hashtag_core.tagging.planned_work import TagPlan, TagRequest
from hashtag_core.tagging.select_parts import Selection
from hashtag_core.tracking.registry import resolve_model
from tests.tagging.outputs import RECIPE

from .bench_scale import run_job

S3_PARTS = int(os.environ.get("BENCH_PARTS", "10000"))
DISK_PARTS, NEW_PARTS = int(os.environ.get("BENCH_DISK_PARTS", "100000")), 10
LATENCY_S = 0.025
PART_ROWS = 3


def part_bytes(name: str) -> bytes:
    table = pa.table(
        {
            "post_id": [f"{name} {n}" for n in range(PART_ROWS)],
            "created_at": pa.array([n + 1 for n in range(PART_ROWS)], pa.timestamp("us", "UTC")),
            "caption": ["a bird"] * PART_ROWS,
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


class Slow:
    """Answers late, and counts what is asked below a prefix."""

    def __init__(self, application: Callable) -> None:
        self._application = application
        self.delay_s = 0.0
        self.asked: Counter[str] = Counter()
        self.first_chunk: float | None = None
        """`time.monotonic()` when the first chunk of tagged posts was written."""

    def __call__(self, environ: dict[str, Any], start: Callable) -> Iterable[bytes]:
        time.sleep(self.delay_s)
        if self.first_chunk is None and environ["REQUEST_METHOD"] == "PUT" and "/chunks/" in environ["PATH_INFO"]:
            self.first_chunk = time.monotonic()
        self.asked[f"{environ['REQUEST_METHOD']} {environ['PATH_INFO'].split('/')[2:3]}"] += 1
        return self._application(environ, start)  # type: ignore[no-any-return]


@pytest.fixture
def slow_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    application = Slow(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    import boto3

    boto3.client("s3").create_bucket(Bucket="bucket")
    yield application
    server.shutdown()


def leave_state(request: TagRequest, done: list[storage.FileInfo]) -> None:
    """What a run over these parts leaves."""
    few = replace(
        request, selection=Selection(["p000000*"])
    )  # the others need not be looked at to know where things go
    first = plan_tagging(few)
    output = Output.open(first.layout)
    output.claim()
    ForgetList.ensure(first.layout.out)
    tagged, _, _ = output.tables()
    records, files, ids = [], [], []
    for number, part in enumerate(done, 1):
        names = [f"{part.path} {n}" for n in range(PART_ROWS)]
        ids.append(names)
        record = PartRecord(path=part.path, etag=part.etag, number=number, size=part.size, rows=PART_ROWS, tagged=PART_ROWS,
                            groups=[PART_ROWS])  # fmt: skip
        records.append(record)
    for begin in range(0, len(done), 500):
        rows = [
            {"post_id": name, "hashtags": [], "scores": [], "status": "ok", "detail": None, "model_name": "m",
             "model_version": "1", "created_at": n + 1, "part": part.path, "part_version": part.etag, "part_row": n,
             "content": None, "history": None, "user_key": None}
            for part, names in zip(done[begin : begin + 500], ids[begin : begin + 500], strict=True)
            for n, name in enumerate(names)
        ]  # fmt: skip
        table = pa.Table.from_pylist(rows, schema=TABLE)
        files.append(tagged.write(f"{first.layout.partition}/part-{begin:08d}.parquet", table, first.layout.values))
    tagged.commit(Change(files))
    output.save("bench", parts=records, settings=first.settings)
    keys = keys_of(pa.array([name for names in ids for name in names]))
    index = IdIndex()
    created = np.tile(np.arange(1, PART_ROWS + 1), len(done))
    index.add(Entries(keys, created, np.repeat(np.arange(1, len(done) + 1), PART_ROWS).astype(np.uint32)),
              range(1, len(done) + 1))  # fmt: skip
    index.save(first.layout.ids, range(1, len(done) + 1))


def timed(request: TagRequest) -> tuple[TagPlan, float]:
    began = time.monotonic()
    plan = plan_tagging(request)
    return plan, time.monotonic() - began


def test_many_parts_on_a_slow_s3(slow_s3: Slow, make_model_folder: Callable, tmp_path: Path, repository: Path) -> None:
    import boto3

    client = boto3.client("s3")
    model = make_model_folder(tmp_path / "model", family="popularity")
    for n in range(S3_PARTS):
        name = f"p{n:06d}.parquet"
        client.put_object(Bucket="bucket", Key=f"archive/{name}", Body=part_bytes(name))
    request = TagRequest(RECIPE, "s3://bucket/archive", "s3://bucket/out", resolve_model(str(model)))
    listed = storage.list_files("s3://bucket/archive")
    leave_state(request, listed[NEW_PARTS:])
    slow_s3.delay_s = LATENCY_S
    slow_s3.asked.clear()
    plan, seconds = timed(request)
    print(f"\n{S3_PARTS} parts on S3, {LATENCY_S * 1000:.0f} ms a request, {NEW_PARTS} new: planned in {seconds:.1f} s, "
          f"{slow_s3.asked.total()} requests, {dict(slow_s3.asked)}")  # fmt: skip
    assert len(plan.works) == NEW_PARTS
    sizes = [f"tagging.{name}={value}" for name, value in RECIPE.tagging.model_dump(exclude_unset=True).items()]
    command = ["tag", "--archive", request.archive, "--out", "s3://bucket/out", "--model", str(model)]
    command += [word for size in sizes for word in ("--set", size)]
    began, slow_s3.first_chunk = time.monotonic(), None
    job = run_job(command, tmp_path / "job", repository)
    assert job.summary["parts"] == NEW_PARTS
    assert slow_s3.first_chunk is not None
    first_s = slow_s3.first_chunk - began
    print(f"the job, Ray's start included: first chunk written after {first_s:.1f} s, ended after {job.seconds:.1f} s")
    again = run_job(command, tmp_path / "again", repository)
    print(f"nothing to do: {again.seconds:.1f} s")
    assert again.summary["parts"] == 0


CODE = """
import resource, sys, time
from hashtag_core.config import Recipe
from hashtag_core.tagging.planned_work import TagRequest
from hashtag_core.tagging.plan import plan_tagging
from hashtag_core.tracking.registry import resolve_model
began = time.monotonic()
plan = plan_tagging(TagRequest(Recipe(), sys.argv[1], sys.argv[2], resolve_model(sys.argv[3])))
print(len(plan.works), round(time.monotonic() - began, 1), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
"""


def test_a_hundred_thousand_parts_on_a_disk(make_model_folder: Callable, tmp_path: Path, repository: Path) -> None:
    model = make_model_folder(tmp_path / "model", family="popularity")
    archive, out = tmp_path / "archive", tmp_path / "out"
    archive.mkdir()
    for n in range(DISK_PARTS):
        (archive / f"p{n:06d}.parquet").write_bytes(part_bytes(f"p{n:06d}.parquet"))
    command = [sys.executable, "-c", CODE, str(archive), str(out), str(model)]
    told = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout.split()
    print(f"\n{DISK_PARTS} parts, all new: {told[0]} to do, planned in {told[1]} s, {told[2]} MiB at most")
    request = TagRequest(RECIPE, str(archive), str(out), resolve_model(str(model)))
    leave_state(request, storage.list_files(str(archive))[NEW_PARTS:])
    plan, seconds = timed(request)
    print(f"{DISK_PARTS} parts, {NEW_PARTS} new: planned in {seconds:.1f} s")
    assert len(plan.works) == NEW_PARTS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0
