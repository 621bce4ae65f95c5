"""Kills, each followed by a rerun that must make the output of an undisturbed run: on a local disk, and on an S3 of which
5 % of the requests fail.

`make test` does one (the driver, on S3), `make soak` thirty. What is killed, where and when comes from the number of the kill, so one that fails
can be done again alone: `SOAK_KILLS=30 pytest tests/distributed/test_tag_kills.py -k 17`.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from deltalake.exceptions import DeltaError

from hashtag_core import storage
from hashtag_core.config import Recipe
from hashtag_core.errors import NotFoundError
from hashtag_core.output.verify import verify_output
from hashtag_core.tagging.planned_work import part_key_prefix
from tests.distributed.in_process import tag_in_process
from tests.faulty_s3 import faulty_s3
from tests.tagging.outputs import content, output_of, run

KILLS = int(os.environ.get("SOAK_KILLS", "1"))
POSTS, PARTS, CHUNK_ROWS, CPUS = 20_000, 4, 500, 2
CHUNKS = POSTS // CHUNK_ROWS

VICTIMS = ("driver", "actor", "gcs", "raylet")
COMMANDS = {"actor": "_Actor", "gcs": "/gcs/gcs_server", "raylet": "/raylet/raylet"}

LEDGER = """
import importlib.abc, importlib.util, os, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "hashtag_core.tagging.tag_chunks":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            do = module.ChunkTagger.tag_chunk

            def noted(self, task, chunk, posts):
                with open(os.environ["CHUNK_LEDGER"], "a") as file:
                    file.write(f"{task.path} {chunk.number}\\n")
                return do(self, task, chunk, posts)

            module.ChunkTagger.tag_chunk = noted

        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""
"""A `sitecustomize` for the run that is killed: its actors write a line for each chunk that they begin."""


@dataclass(frozen=True)
class Undisturbed:
    archive: Path
    rows: list[tuple]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, popularity: Path, write_archive: Callable) -> Undisturbed:
    folder = tmp_path_factory.mktemp("kills")
    posts = [
        {"post_id": f"{n:06d}", "user_id": f"u{n % 97}", "created_at": n, "caption": f"number {n} of many"}
        for n in range(POSTS)
    ]
    archive, out = write_archive(folder / "archive", posts, parts=PARTS), str(folder / "out")
    recipe = Recipe.model_validate({"tagging": {"chunk_rows": CHUNK_ROWS}})
    with pytest.MonkeyPatch.context() as patch:
        tag_in_process(patch)
        assert run(archive, out, popularity, recipe).tagged == POSTS
    return Undisturbed(archive, content(out))


def whole_chunks(out: str) -> int:
    """Chunks that are staged, or in the table already."""
    try:
        paths = [info.path for info in storage.list_files(out, hidden=True)]
        parts = set(output_of(out)[0].records.parts) if "_delta_log/00000000000000000002.json" in paths else set()
    except (NotFoundError, IndexError, DeltaError):
        return 0
    committed = {part_key_prefix(part) for part in parts}
    staged = [path.split("/") for path in paths if "/chunks/" in path and path.endswith(".parquet")]
    waiting = {tuple(step[-2:]) for step in staged if step[-2].partition("-")[0] not in committed}
    return len(waiting) + len(parts) * CHUNKS // PARTS


@pytest.mark.slow
@pytest.mark.parametrize("number", range(KILLS))
def test_a_rerun_makes_the_output_of_an_undisturbed_run(
    number: int,
    undisturbed: Undisturbed,
    popularity: Path,
    tmp_path: Path,
    repository: Path,
    s3_bucket: str,
    s3_environment: dict[str, str],
) -> None:
    """`number`: also the seed. Each victim on each store, in turn."""
    chance = random.Random(number)
    victim, remote = VICTIMS[number % len(VICTIMS)], number % 2 == number // len(VICTIMS) % 2
    after = chance.randint(1, CHUNKS * 3 // 4)
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "sitecustomize.py").write_text(LEDGER)
    begun = tmp_path / "begun"
    begun.touch()
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with ExitStack() as stack:
        out = storage.join(s3_bucket, "out") if remote else str(tmp_path / "out")
        archive = str(undisturbed.archive)
        if remote:
            archive = storage.join(s3_bucket, "archive")
            storage.upload_folder(undisturbed.archive, archive)
            proxy = stack.enter_context(faulty_s3(s3_environment["AWS_ENDPOINT_URL"], seed=number))
            environment["AWS_ENDPOINT_URL"] = proxy.address
        command = [sys.executable, "jobs/tag.py", "--archive", archive, "--out", out]
        command += ["--model", str(popularity), "--chunk-rows", str(CHUNK_ROWS)]
        of_ray: list[psutil.Process] = []
        noting = {"PYTHONPATH": str(tmp_path / "ledger"), "CHUNK_LEDGER": str(begun)}
        if victim == "gcs":
            noting["RAY_gcs_rpc_server_reconnect_timeout_s"] = "5"  # by default a driver looks for it for a minute
        with (tmp_path / "killed.log").open("w") as log:
            driver = subprocess.Popen(command, cwd=repository, env=environment | noting, stdout=log, stderr=log)
        try:
            while whole_chunks(out) < after:
                assert driver.poll() is None, (tmp_path / "killed.log").read_text()[-3000:]
                time.sleep(0.2 if remote else 0.02)  # a listing costs an S3 server more than the run itself
            of_ray = psutil.Process(driver.pid).children(recursive=True)
            kill(victim, driver, of_ray)
            driver.wait(timeout=120)
            psutil.wait_procs([process for process in of_ray if COMMANDS["actor"] in command_of(process)], timeout=60)
        finally:
            driver.kill()
            for process in of_ray:  # Ray's agents outlive it for a while
                with suppress(psutil.Error):
                    process.kill()

        found = [tuple(line.split()) for line in begun.read_text().splitlines()]
        redone = len(found) - (CHUNKS if victim == "actor" else whole_chunks(out))
        print(f"{victim} killed after {after} chunk(s), S3: {remote}; begun {len(found)}, redone {redone}")
        assert 0 <= redone <= 2 * CPUS
        again = subprocess.run(
            command, cwd=repository, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert again.returncode == 0, again.stderr[-3000:]
        if remote:
            assert proxy.failed.total() > 10, f"{proxy.failed} of {proxy.requests}"
    records = [storage.read_json(info.uri) for info in storage.list_files(storage.join(out, "_state", "runs"), ".json")]
    statuses = [record["status"] for record in records]
    assert statuses == (["lost", "done"] if driver.returncode else ["done"])
    told = json.loads(again.stdout.splitlines()[-1])
    assert told["parts"] + told["skipped_parts"] == PARTS
    assert content(out) == undisturbed.rows
    named = {file.path for output in output_of(out) for file in output.tables()[0].files()}
    assert named == {info.path for info in storage.list_files(out, ".parquet")}
    assert verify_output(out, archive).problems == []


def kill(victim: str, driver: subprocess.Popen, of_ray: list[psutil.Process]) -> None:
    """SIGKILL to the driver, or to one of what it started."""
    if victim == "driver":
        driver.kill()
        return
    next(process for process in of_ray if COMMANDS[victim] in command_of(process)).kill()


def command_of(process: psutil.Process) -> str:
    """Empty for one that has ended."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""
