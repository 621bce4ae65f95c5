"""`mlflow run mlflow_project -e JOB --env-manager local -P ...`, on a cluster: from an archive to a tagged archive."""

import importlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
import yaml

PROJECT = yaml.safe_load((Path(__file__).parents[2] / "mlflow_project" / "MLproject").read_text(encoding="utf-8"))


@pytest.mark.parametrize("entry", PROJECT["entry_points"])
def test_every_entry_point_gives_its_job_flags_that_it_knows(entry: str) -> None:
    described = PROJECT["entry_points"][entry]
    given = {name: f"of-{name}" for name in described["parameters"]}
    program, script, *flags = shlex.split(described["command"].format(**given))
    assert (program, script) == ("python", f"../jobs/{entry}.py")
    parsed = list(vars(importlib.import_module(f"jobs.{entry}").build_parser().parse_args(flags)).values())
    for value in given.values():
        assert value in parsed or [value] in parsed, value


@pytest.mark.slow
@pytest.mark.skipif("SOAK_README" not in os.environ, reason="minutes: make soak (SOAK_README=1)")
def test_every_entry_point_runs(
    repository: Path,
    cluster: dict[str, str],
    tmp_path: Path,
    mlflow_store: Path,
    make_posts: Callable,
    write_archive: Callable,
) -> None:
    archive = write_archive(tmp_path / "archive", make_posts(80, users=40))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        '[model]\nfamily = "popularity"\n[vocabulary]\nmin_count = 1\n'
        "[split]\nvalidation = 0.25\ntest = 0.25\n"
        f'[training]\nstorage = "{tmp_path / "runs"}"\n[evaluation]\nbootstrap_samples = 10\n'
        "[gates]\nmin_gain = -1.0\n"  # the first champion need not beat the floors here
    )
    environment = {**cluster, "RAY_ADDRESS": cluster["CLUSTER_ADDRESS"]}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{mlflow_store}"

    def run(command: list[object]) -> list[dict[str, Any]]:
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    project, dataset = repository / "mlflow_project", tmp_path / "dataset"
    command = ["mlflow", "run", project, "-e", "prepare", "--env-manager", "local"]
    (prepared,) = run([*command, "-P", f"archive={archive}", "-P", f"dataset={dataset}", "-P", f"recipe={recipe}"])
    assert prepared["vocabulary"]

    # what the command calls, without its own start each time
    model, report, tagged = "models:/hashtag-recommender/1", tmp_path / "report", tmp_path / "tagged"
    entries = {
        "train": {"dataset": dataset},
        "evaluate": {"dataset": dataset, "model": model, "report": report},
        "promote": {"dataset": dataset, "challenger": model},
        "tag": {"archive": archive, "out": tagged},
    }
    calls = "".join(
        f"projects.run({str(project)!r}, {entry!r}, parameters={ {key: str(value) for key, value in {**given, 'recipe': recipe}.items()} }, env_manager='local')\n"
        for entry, given in entries.items()
    )
    trained, judged, promoted, summary = run([sys.executable, "-c", f"from mlflow import projects\n{calls}"])
    assert trained["model"] == model
    assert [entry["model"] for entry in judged["models"]] == [model]
    assert any(report.iterdir())
    assert promoted["promoted"] is True
    assert summary["tagged"] == 80
    parts = list((tmp_path / "tagged").glob("model=*/version=*/**/part-*.parquet"))
    assert ds.dataset(parts).count_rows() == 80
    assert {path.name for path in (repository / "mlflow_project").iterdir()} == {
        "MLproject",
        "python_env.yaml",
        "requirements-runtime.lock",
    }
