"""`mlflow run mlflow_project -e JOB --env-manager local -P ...`, on a cluster: from an archive to a tagged archive."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow.dataset as ds
import pytest


@pytest.mark.slow
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
    )
    environment = {**cluster, "RAY_ADDRESS": cluster["CLUSTER_ADDRESS"]}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{mlflow_store}"

    def run(entry: str, **parameters: object) -> dict[str, object]:
        command = ["mlflow", "run", repository / "mlflow_project", "-e", entry, "--env-manager", "local"]
        for key, value in {**parameters, "recipe": recipe}.items():
            command += ["-P", f"{key}={value}"]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        return json.loads(lines[-1])

    dataset = tmp_path / "dataset"
    assert run("prepare", archive=archive, dataset=dataset)["vocabulary"]
    model = run("train", dataset=dataset)["model"]
    assert str(model).startswith("models:/hashtag-recommender/")
    report = tmp_path / "report"
    figures = run("evaluate", dataset=dataset, model=model, report=report)
    assert [entry["model"] for entry in figures["models"]] == [model]
    assert any(report.iterdir())
    assert run("promote", dataset=dataset, challenger=model)["promoted"] is True
    summary = run("tag", archive=archive, out=tmp_path / "tagged")
    assert summary["tagged"] == 80
    parts = list((tmp_path / "tagged").glob("model=*/version=*/**/part-*.parquet"))
    assert ds.dataset(parts).count_rows() == 80
    assert {path.name for path in (repository / "mlflow_project").iterdir()} == {
        "MLproject",
        "python_env.yaml",
        "requirements.lock",
    }
