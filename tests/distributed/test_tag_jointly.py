"""Several models in one run on a real Ray: the outputs of runs of their own, also where a post kills its process, or the driver dies."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from hashtag_core.distributed.tag import tag_jointly
from hashtag_core.output.verify import verify_output
from hashtag_core.tagging.plan import plan_jointly
from hashtag_core.tagging.planned_work import TagRequest
from hashtag_core.tracking.registry import resolve_model
from tests.distributed.in_process import tag_in_process
from tests.tagging.outputs import RECIPE, content, output_of, rejected, rows_by_table, run
from tests.tagging.troubled import write_troubled

COLUMNS = ("post_id", "part", "part_row", "status", "content", "created_at", "model_version")


@pytest.fixture(scope="module")
def troubled(
    tmp_path_factory: pytest.TempPathFactory, make_posts: Callable, make_jpeg: Callable, write_part: Callable
) -> Path:
    return write_troubled(tmp_path_factory.mktemp("troubled"), make_posts, make_jpeg, write_part)


@pytest.fixture(scope="module")
def expected(troubled: Path, linear: Path, popularity: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model after the other, without Ray; not to be changed."""
    out = tmp_path_factory.mktemp("expected")
    with pytest.MonkeyPatch.context() as patch:
        tag_in_process(patch)
        for model in (linear, popularity):
            run(troubled, out, model)
    return out


def told(out: Path) -> list[dict[str, Any]]:
    """The lines of the rejected rows, but for the salted hash of the user."""
    lines = [{**line, "user_key": None} for line in rejected(out)]
    return sorted(lines, key=lambda line: (line["version"], line["part"], -1 if line["row"] is None else line["row"]))


def test_on_ray(
    ray_session: None, troubled: Path, linear: Path, popularity: Path, expected: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    requests = [
        TagRequest(RECIPE, str(troubled), str(out), resolve_model(str(model))) for model in (linear, popularity)
    ]
    runs = tag_jointly(plan_jointly(requests))
    assert [(one.error, one.summary.tagged, one.summary.rejected, one.summary.parts) for one in runs] == [
        (None, 40, 6, 6)
    ] * 2
    assert sorted(content(out, COLUMNS)) == sorted(content(expected, COLUMNS))
    rows = {(row["post_id"], row["model_version"]): row for row in rows_by_table(expected)}
    for row in rows_by_table(out):
        assert row["scores"] == pytest.approx(rows[row["post_id"], row["model_version"]]["scores"], abs=1e-5)
    assert told(out) == told(expected)
    assert all(one.plan.request.model.version for one in runs)
    assert [one.summary.run for one in tag_jointly(plan_jointly(requests))] == [None, None]


@pytest.mark.skipif("SOAK_KILLS" not in os.environ, reason="two minutes of runs in processes of their own: make soak")
def test_a_driver_that_is_killed_and_called_again(
    linear: Path, popularity: Path, tmp_path: Path, repository: Path, write_archive: Callable
) -> None:
    posts = [{"post_id": f"{n:06d}", "created_at": n, "caption": f"number {n} of many"} for n in range(1600)]
    archive, out = write_archive(tmp_path / "archive", posts, parts=8), tmp_path / "out"
    command = [sys.executable, "jobs/tag.py", "--archive", str(archive), "--out", str(out), "--chunk-rows", "50"]
    command += ["--model", str(linear), "--model", str(popularity)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with (tmp_path / "killed.log").open("w") as log:
        driver = subprocess.Popen(command, cwd=repository, env=environment, stdout=log, stderr=log)
    of_ray: list[psutil.Process] = []
    try:
        while len(list(out.glob("_state/model=*/version=*/chunks/*/*.parquet"))) < 12:
            assert driver.poll() is None, (tmp_path / "killed.log").read_text()[-3000:]
            time.sleep(0.02)
        of_ray = psutil.Process(driver.pid).children(recursive=True)
    finally:
        driver.kill()
        driver.wait()
        for process in of_ray:
            with suppress(psutil.Error):
                process.kill()
    again = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr[-3000:]
    summary = json.loads(again.stdout.splitlines()[-1])
    assert [one["parts"] + one["skipped_parts"] for one in summary["models"]] == [8, 8]
    with pytest.MonkeyPatch.context() as patch:
        tag_in_process(patch)
        for model in (linear, popularity):
            run(archive, tmp_path / "expected", model)
    assert content(out, COLUMNS) == content(tmp_path / "expected", COLUMNS)
    assert len(output_of(out)) == 2
    assert verify_output(str(out), str(archive)).problems == []
