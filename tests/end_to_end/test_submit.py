"""`cluster/submit.sh` against a real `ray start --head`: the clone is uploaded, the package is installed nowhere."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

from hashtag_core.config import Recipe
from hashtag_core.distributed.prepare import prepare
from hashtag_core.preparation.plan import plan_prepare


@pytest.mark.slow
def test_jobs_of_the_clone_run_on_the_cluster(
    cluster: dict[str, str],
    ray_session: None,
    repository: Path,
    tmp_path: Path,
    mlflow_store: Path,
    make_posts: Callable,
    write_archive: Callable,
) -> None:
    archive = write_archive(tmp_path / "archive", make_posts(60, users=30))
    environment = {**cluster, "MLFLOW_TRACKING_URI": f"sqlite:///{mlflow_store}"}

    def submit(*arguments: object) -> dict[str, Any]:
        command = [repository / "cluster" / "submit.sh", *map(str, arguments)]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return next(json.loads(line) for line in reversed(done.stdout.splitlines()) if line.startswith('{"'))

    dataset, tagged = tmp_path / "dataset", tmp_path / "tagged"
    recipe = Recipe.model_validate({"vocabulary": {"min_count": 1}})
    prepare(plan_prepare(recipe, str(archive), str(dataset)))
    trained = submit(
        *("train", "--dataset", dataset, "--recipe", "jobs/recipes/popularity.toml"),
        *("--set", f"training.storage={tmp_path / 'runs'}"),
    )
    summary = submit("tag", "--archive", archive, "--out", tagged, "--model", trained["model"])
    assert summary["tagged"] == 60
    assert ds.dataset(list(tagged.glob("model=*/version=*/**/part-*.parquet"))).count_rows() == 60
