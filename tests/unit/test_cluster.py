"""What `cluster/` and `mlflow_project/` call exists, and the jobs accept the flags."""

import importlib
import json
import shlex
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml

from hashtag_core.config import read_recipe

ROOT = Path(__file__).resolve().parents[2]
JOBS = ("prepare", "train", "evaluate", "promote", "tag", "nightly")


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "cluster" / name).read_text()))


def ray_jobs() -> dict[str, dict[str, Any]]:
    """Every RayJob by name, that inside the ConfigMap of the CronJob too."""
    train = next(item for item in documents("kuberay-train.yaml") if item["kind"] == "RayJob")
    nightly = next(item for item in documents("kuberay-nightly-tagging.yaml") if item["kind"] == "ConfigMap")
    return {"train": train, "nightly": yaml.safe_load(nightly["data"]["rayjob.yaml"])}


def check_command(command: str, folder: Path) -> None:
    """`python .../jobs/X.py flags`: the file is there, its parser takes the flags, its recipe is valid."""
    python, script, *flags = shlex.split(command)
    assert python == "python"
    path = Path(script)
    path = ROOT / path.relative_to("/app") if path.is_absolute() else (folder / path).resolve()
    assert path.parent == ROOT / "jobs"
    assert path.is_file()
    job = importlib.import_module(f"jobs.{path.stem}")
    parsed = job.build_parser().parse_args(flags)
    recipe = parsed.recipe
    if recipe is not None:
        recipe = ROOT / Path(recipe).relative_to("/app") if Path(recipe).is_absolute() else folder / recipe
    read_recipe(recipe, parsed.overrides)


@pytest.mark.parametrize("name", ["train", "nightly"])
def test_entry_points_of_ray_jobs(name: str) -> None:
    check_command(ray_jobs()[name]["spec"]["entrypoint"], ROOT)


def pod_templates(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield spec["headGroupSpec"]["template"]
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        yield group["template"]


@pytest.mark.parametrize("name", ["train", "nightly"])
def test_ray_jobs_end_by_themselves_and_keep_secrets_out_of_the_runtime_env(name: str) -> None:
    import ray

    spec = ray_jobs()[name]["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["activeDeadlineSeconds"] > 0
    assert "runtimeEnvYAML" not in spec
    cluster = spec["rayClusterSpec"]
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["authOptions"] == {"mode": "token"}
    for template in pod_templates(cluster):
        (container,) = template["spec"]["containers"]
        assert template["spec"]["serviceAccountName"] == "hashtag-recommender"
        assert "env" not in container, "settings come from the ConfigMap, secrets from the Secret"
        sources = [next(iter(source)) for source in container["envFrom"]]
        assert sources == ["configMapRef", "secretRef"]
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_training_has_a_gpu_for_each_worker() -> None:
    spec = ray_jobs()["train"]["spec"]
    gpus = sum(
        group["replicas"]
        * int(group["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", 0))
        for group in spec["rayClusterSpec"]["workerGroupSpecs"]
    )
    flags = shlex.split(spec["entrypoint"])
    assert int(flags[flags.index("--workers") + 1]) == gpus


def test_the_nightly_cron_job_never_overlaps_and_waits_for_its_ray_job() -> None:
    parts = {item["kind"]: item for item in documents("kuberay-nightly-tagging.yaml")}
    cron = parts["CronJob"]["spec"]
    assert cron["concurrencyPolicy"] == "Forbid"
    job = cron["jobTemplate"]["spec"]
    ray_job = ray_jobs()["nightly"]
    assert ray_job["spec"]["activeDeadlineSeconds"] < job["activeDeadlineSeconds"] < 24 * 3600
    pod = job["template"]["spec"]
    (script,) = pod["containers"][0]["args"]
    assert f"kubectl get rayjob {ray_job['metadata']['name']}" in script
    assert pod["serviceAccountName"] == parts["ServiceAccount"]["metadata"]["name"]
    assert parts["RoleBinding"]["roleRef"]["name"] == parts["Role"]["metadata"]["name"]
    (rule,) = parts["Role"]["rules"]
    assert {"get", "create", "delete"} <= set(rule["verbs"])
    (volume,) = pod["volumes"]
    assert volume["configMap"]["name"] == parts["ConfigMap"]["metadata"]["name"]
    assert subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode == 0


def test_cluster_launcher_file_follows_the_schema_of_ray() -> None:
    config = yaml.safe_load((ROOT / "cluster" / "ray-cluster.yaml").read_text())
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    assert config["head_node_type"] in config["available_node_types"]
    for command in (*config["head_start_ray_commands"], *config["worker_start_ray_commands"]):
        if "ray start" in command:
            assert command.startswith("RAY_AUTH_MODE=token ")


def test_image_copies_what_is_there() -> None:
    for line in (ROOT / "cluster" / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY "):
            *sources, _ = line.split()[1:]
            assert all((ROOT / source).exists() for source in sources), line


def test_submit_refuses_a_job_that_is_not_there(tmp_path: Path) -> None:
    script = ROOT / "cluster" / "submit.sh"
    assert script.stat().st_mode & stat.S_IXUSR
    for arguments in ([], ["no-such-job"], ["../jobs/train"]):
        done = subprocess.run([script, *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("usage: cluster/submit.sh ")


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


def test_environment_of_the_mlflow_project_is_the_lock() -> None:
    environment = yaml.safe_load((ROOT / "mlflow_project" / "python_env.yaml").read_text())
    (line,) = environment["dependencies"]
    assert (ROOT / "mlflow_project" / line.removeprefix("-r ")).read_bytes() == (
        ROOT / "requirements.lock"
    ).read_bytes()
