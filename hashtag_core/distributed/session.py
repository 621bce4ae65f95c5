"""One place that connects to Ray and says what the workers' environment is."""

import json
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray

from hashtag_core import storage
from hashtag_core.distributed.quiet import quieten_workers, quietly, terminated_as_interrupted
from hashtag_core.errors import HashtagError, NotFoundError
from hashtag_core.json_values import Options
from hashtag_core.storage.home import SUBMITTED, folder_problem

logger = logging.getLogger(__name__)

LOCAL_OBJECT_STORE_BYTES = 1 << 30
"""Enough for the blocks in flight: features go through files, images through row groups."""

ROOM_BYTES = 8 << 20
"""That a folder for Ray's sessions must have left: logs and sockets of a small job. Where there is none, Ray waits half a minute for
a file that cannot be written."""

MOST_TEMP_CHARACTERS = 40
"""Of the folder in which Ray makes its sessions: below it lie sockets whose whole path may have 107 bytes (AF_UNIX)."""

START_ATTEMPTS = 3
"""For a local Ray, which gives its own processes half a minute to start: less than a machine under load takes."""


@contextmanager
def connect(*, num_cpus: int | None = None) -> Iterator[None]:
    """Join the cluster of `RAY_ADDRESS`, or start a local Ray for the time of the block.

    The package need not be installed: workers find it where the driver found it, and on a cluster that is joined by its
    address it is sent to them (`ray job submit` sends the whole clone by itself). S3 endpoint, region and checksum
    settings travel to the workers, secrets never do (the dashboard shows a runtime_env). NotFoundError where no cluster
    answers, HashtagError where no local Ray starts.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    address = os.environ.get("RAY_ADDRESS")
    environment = {**storage.worker_environment(), "RAY_TRAIN_V2_ENABLED": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environment = {name: value for name, value in environment.items() if name not in _submitted_variables()}
    settings: Options = {"logging_level": logging.WARNING, "log_to_driver": True}
    package = Path(__file__).resolve().parents[1]
    runtime: Options = {"env_vars": environment}
    if address:
        logger.info("joining the Ray cluster of RAY_ADDRESS")
        if SUBMITTED not in os.environ:
            runtime["py_modules"] = [str(package)]
    else:
        root = str(package.parent)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        settings |= {
            "address": "local",
            "include_dashboard": False,
            "object_store_memory": LOCAL_OBJECT_STORE_BYTES,
            "num_cpus": num_cpus,
            "_temp_dir": ray_folder(),
        }
        _ensure_token()
    with nullcontext() if logger.isEnabledFor(logging.DEBUG) else quietly():
        with nullcontext() if address else _environment(runtime.pop("env_vars")):
            _start(address, runtime, settings)
        try:
            with terminated_as_interrupted():
                yield
        finally:
            ray.shutdown()


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """This process's environment with these variables for the time of the block: what is started in it keeps them."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)


@contextmanager
def joined() -> Iterator[None]:
    """The cluster of `RAY_ADDRESS` for the time of the block, where one is named; no Ray is started."""
    with connect() if os.environ.get("RAY_ADDRESS") else nullcontext():
        yield


def _start(address: str | None, runtime: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            ray.init(runtime_env=runtime, **settings)
            break
        except ConnectionError as error:
            cause = " ".join(str(error).split())[:500]
            raise NotFoundError(f"no Ray cluster answers at RAY_ADDRESS={address}: {cause}") from None
        except Exception as error:
            if "timed out during startup" not in str(error):  # Ray has no class for it
                raise
            if attempt == START_ATTEMPTS:
                raise HashtagError(f"Ray did not start on this machine, {attempt} times: {error}") from error
            logger.warning("Ray did not start in time, trying again: %s", error)
            ray.shutdown()  # what came up of it ends with this process
    _quieten_ray_data()
    if not logger.isEnabledFor(logging.DEBUG):
        quieten_workers()


def ray_folder() -> str:
    """The folder for Ray's sessions on this machine: `ray` in RAY_TMPDIR or TMPDIR, as Ray has it; where that path is too long for
    sockets, or belongs to somebody else, one of the user's own in /tmp. HashtagError, naming the variable, where none can be had."""
    usual = os.path.join(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", "ray")  # noqa: S108
    own = f"/tmp/ray-{os.getuid()}"  # noqa: S108
    problems = []
    for folder in (usual, own):
        if problem := folder_problem(folder, MOST_TEMP_CHARACTERS, ROOM_BYTES):
            problems.append(f"{folder}: {problem}")
            continue
        if problems:
            logger.warning("Ray's files go to %s (%s); RAY_TMPDIR names another folder", folder, problems[0])
        return folder
    raise HashtagError(
        f"no folder for Ray's files: {'; '.join(problems)}: set RAY_TMPDIR to a short path that you may write to"
    )


def _ensure_token() -> None:
    """Ray keeps the token of its local clusters in the home folder; where that cannot be written, this one gets its own, which only
    processes of this run know."""
    if any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        return
    home = os.path.join(os.path.expanduser("~"), ".ray")
    if os.access(os.path.join(home, "auth_token"), os.R_OK):
        return
    if problem := folder_problem(home, None, 4096):
        logger.warning(
            "%s cannot be written (%s): Ray gets a token for this run alone; HOME names another folder", home, problem
        )
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _quieten_ray_data() -> None:
    """Ray Data tells the plan and the end of every dataset on the console; our progress bars say it shorter. Its log
    file keeps it all, and `--verbose` the console too."""
    import ray.data  # noqa: F401  configures its logger when it is imported

    if not logger.isEnabledFor(logging.DEBUG):
        for handler in logging.getLogger("ray.data").handlers:
            if not isinstance(handler, logging.FileHandler) and type(handler).__name__ == "PlainRayHandler":
                handler.setLevel(logging.WARNING)


def _submitted_variables() -> set[str]:
    """Variables of the runtime_env of `ray job submit`: Ray refuses a driver that sets one of them again."""
    described = json.loads(os.environ.get(SUBMITTED) or "{}")
    return set((described.get("runtime_env") or {}).get("env_vars") or {})


def cluster_cpus() -> float:
    """CPUs of the whole cluster."""
    return float(ray.cluster_resources().get("CPU", 1.0))


def cluster_gpus() -> float:
    """GPUs of the whole cluster."""
    return float(ray.cluster_resources().get("GPU", 0.0))
