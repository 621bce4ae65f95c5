"""What a CronJob runs: make a RayJob from a template in the cluster, and wait for its end.

    python /app/cluster/launch_rayjob.py --template nightly-tagging [--alongside]

The template is the `jobTemplate` of a RayCronJob. Where KubeRay's RayCronJob is enabled it needs no launcher; elsewhere nothing
acts on the object, and it keeps what is to run where kustomize and the API server's schema reach it.

The RayJob has the name and, as owner, the Job that this pod belongs to. So whoever asks a second time (a pod that was evicted,
an answer that got lost) finds the RayJob in place of making another; and it goes, with its logs, when the CronJob's history lets
go of the Job. Exit code: 0 it is done; 1 it failed; 2 the template was refused; 75 the API server did not answer for
`--patience` seconds (the RayJob goes on, a new pod takes it up). Standard library alone.
"""

import argparse
import json
import logging
import os
import signal
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

logger = logging.getLogger("launch_rayjob")

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
REQUEST_TIMEOUT_S = 30
DONE, FAILED, REFUSED, NO_ANSWER = 0, 1, 2, 75


class State(StrEnum):
    """Where a RayJob is, as far as a launcher cares."""

    AT_WORK = "at work"
    DONE = "done"
    FAILED = "failed"


def state_of(status: Mapping[str, Any]) -> State:
    """The state of a RayJob with that `status`, by KubeRay's own ends (rayjob_types.go, 1.2 to 1.7).

    `jobStatus` alone tells no end: it is FAILED while KubeRay waits for the submitter and while it deletes the cluster of an
    attempt that it will repeat (`Retrying`). A deployment status that is not known is one of work.
    """
    deployment = status.get("jobDeploymentStatus") or ""
    if deployment == "Complete":  # a job that was stopped is complete too
        return State.DONE if status.get("jobStatus") == "SUCCEEDED" else State.FAILED
    return State.FAILED if deployment in ("Failed", "ValidationFailed") else State.AT_WORK


class NoAnswerError(Exception):
    """The API server did not answer, or not in a way that says anything of what was asked."""


class RefusedError(Exception):
    """The API server understood and refused."""


@dataclass(frozen=True)
class ApiServer:
    """The RayJobs and RayCronJobs of one namespace. Each request reads the token anew, since it is renewed hourly."""

    url: str
    namespace: str
    token_file: Path
    ca_file: Path | None

    @classmethod
    def of_this_pod(cls) -> "ApiServer":
        """The API server that a pod's service account belongs to."""
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
        host = f"[{host}]" if ":" in host else host
        namespace = (ACCOUNT / "namespace").read_text().strip()
        return cls(f"https://{host}:{port}", namespace, ACCOUNT / "token", ACCOUNT / "ca.crt")

    def get(self, path: str) -> dict[str, Any] | None:
        """The object, None where there is none. NoAnswerError, RefusedError."""
        return self._ask("GET", path, None, none_for=404)

    def create_rayjob(self, rayjob: Mapping[str, Any]) -> bool:
        """False where one of that name is there. NoAnswerError, RefusedError."""
        return self._ask("POST", "rayjobs", rayjob, none_for=409) is not None

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None, none_for: int) -> dict[str, Any] | None:
        request = urllib.request.Request(  # noqa: S310  (the API server's URL)
            f"{self.url}/apis/ray.io/v1/namespaces/{self.namespace}/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self.token_file.read_text().strip()}",
                "Content-Type": "application/json",
            },
        )
        context = ssl.create_default_context(cafile=str(self.ca_file)) if self.ca_file else None
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S, context=context) as answer:  # noqa: S310
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            if error.code == none_for:
                return None
            told = f"{method} {path}: {error.code} {error.read()[:500].decode(errors='replace')}"
            # 401: a token that has just been renewed. 403 is a role that lacks a verb, and stays so.
            if error.code in (401, 408, 429) or error.code >= 500:
                raise NoAnswerError(told) from None
            raise RefusedError(told) from None
        except (OSError, ValueError) as error:  # no connection, a connection that broke off, half an answer
            raise NoAnswerError(f"{method} {path}: {error}") from None


@dataclass
class Patience:
    """Asks until there is an answer; NoAnswerError once there was none for `limit_s`."""

    limit_s: float
    pause_s: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def ask(self, question: Callable[[], Any]) -> Any:
        since = self.clock()
        while True:
            try:
                return question()
            except NoAnswerError as error:
                if self.clock() - since >= self.limit_s:
                    raise
                logger.warning("no answer, asking again: %s", error)
                self.sleep(self.pause_s)


def rayjob_of(template: Mapping[str, Any], name: str, owner_uid: str | None) -> dict[str, Any]:
    """The RayJob of that name from a RayCronJob."""
    metadata: dict[str, Any] = {
        "name": name,
        "labels": {**template["metadata"].get("labels", {}), "ray.io/cronjob-name": template["metadata"]["name"]},
    }
    if owner_uid:
        metadata["ownerReferences"] = [{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": owner_uid}]
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": template["spec"]["jobTemplate"]}


def launch(
    api: ApiServer, template_name: str, name: str, owner_uid: str | None, patience: Patience, *, alongside: bool = False
) -> int:
    """Make the RayJob unless it is there, wait for its end; the exit code. `alongside`: whether others are at work or not."""
    if not alongside:
        wait_for_others(api, template_name, name, patience)
    template = patience.ask(lambda: api.get(f"raycronjobs/{template_name}"))
    if template is None:
        raise RefusedError(f"there is no RayCronJob {template_name} in the namespace {api.namespace}")
    made = patience.ask(lambda: api.create_rayjob(rayjob_of(template, name, owner_uid)))
    logger.info("RayJob %s %s", name, "made" if made else "is there already: taken up")
    return wait_for(api, name, patience)


def wait_for_others(api: ApiServer, template_name: str, name: str, patience: Patience) -> None:
    """Wait while another RayJob of the template is at work: two at once would do the same work."""
    said: set[str] = set()
    while True:
        found = patience.ask(lambda: api.get(f"rayjobs?labelSelector=ray.io%2Fcronjob-name%3D{template_name}")) or {}
        others = {
            item["metadata"]["name"]
            for item in found.get("items", [])
            if item["metadata"]["name"] != name and state_of(item.get("status", {})) is State.AT_WORK
        }
        if not others:
            return
        if others != said:
            logger.warning("waiting for the end of an earlier one: %s", ", ".join(sorted(others)))
            said = others
        patience.sleep(patience.pause_s)


def wait_for(api: ApiServer, name: str, patience: Patience) -> int:
    """The exit code that a RayJob comes to."""
    shown = None
    while True:
        rayjob = patience.ask(lambda: api.get(f"rayjobs/{name}"))
        if rayjob is None:
            logger.error("RayJob %s was deleted before its end", name)
            return FAILED
        status = rayjob.get("status", {})
        state = state_of(status)
        parts = [status.get(key) or "-" for key in ("jobDeploymentStatus", "jobStatus", "reason")]
        line = f"{'/'.join(parts)}, attempts failed: {status.get('failed', 0)}"
        if line != shown:
            logger.info("RayJob %s: %s", name, line)
            shown = line
        if state is State.DONE:
            return DONE
        if state is State.FAILED:
            logger.error("RayJob %s failed: %s: %s", name, line, status.get("message") or "no message")
            logger.error("its own words: kubectl logs -l ray.io/originated-from-cr-name=%s --tail=100", name)
            return FAILED
        patience.sleep(patience.pause_s)


def _terminated(number: int, _: object) -> None:
    logger.warning("signal %d: this pod ends, the RayJob goes on, and the next pod of this Job takes it up", number)
    sys.exit(NO_ANSWER)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--template", required=True, metavar="RAYCRONJOB")
    parser.add_argument("--name", default=os.environ.get("JOB_NAME"), help="of the RayJob (default: JOB_NAME)")
    parser.add_argument("--owner-uid", default=os.environ.get("JOB_UID"), help="of the Job (default: JOB_UID)")
    parser.add_argument("--alongside", action="store_true", help="do not wait for the end of others of the template")
    parser.add_argument("--poll", type=float, default=15, metavar="SECONDS")
    parser.add_argument(
        "--patience", type=float, default=900, metavar="SECONDS", help="without an answer of the API server"
    )
    arguments = parser.parse_args()
    if not arguments.name:
        parser.error("--name or JOB_NAME: the RayJob needs a name")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, _terminated)  # as process 1 it would be deaf to it
    patience = Patience(arguments.patience, arguments.poll)
    try:
        return launch(
            ApiServer.of_this_pod(),
            arguments.template,
            arguments.name,
            arguments.owner_uid,
            patience,
            alongside=arguments.alongside,
        )
    except RefusedError as error:
        logger.error("refused: %s", error)
        return REFUSED
    except NoAnswerError as error:
        logger.error("no answer for %g s: %s", arguments.patience, error)
        return NO_ANSWER


if __name__ == "__main__":
    sys.exit(main())
