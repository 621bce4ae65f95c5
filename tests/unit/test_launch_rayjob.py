"""The program that CronJobs run: which states of a RayJob are an end, and what it does when the API server does not answer."""

import importlib.util
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "cluster" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


launcher = load("launch_rayjob")

# jobDeploymentStatus, jobStatus, what it is. From KubeRay's state machine (rayjob_controller.go).
TABLE = [
    ("", "", "at work"),  # just created
    ("Initializing", "", "at work"),  # the cluster comes up
    ("Waiting", "", "at work"),
    ("Running", "", "at work"),  # submitted, not yet heard of
    ("Running", "PENDING", "at work"),
    ("Running", "RUNNING", "at work"),
    ("Running", "FAILED", "at work"),  # the submitter has not ended yet; then Failed, or Retrying
    ("Running", "SUCCEEDED", "at work"),  # the same; then Complete
    ("Retrying", "FAILED", "at work"),  # the attempt's cluster is deleted, another attempt follows
    ("Retrying", "", "at work"),
    ("Suspending", "RUNNING", "at work"),
    ("Suspended", "", "at work"),  # a queue holds it back
    ("SomethingNew", "RUNNING", "at work"),
    ("Complete", "SUCCEEDED", "done"),
    ("Complete", "STOPPED", "failed"),  # `ray job stop`
    ("Complete", "FAILED", "failed"),  # as KubeRay before 1.2 said it
    ("Failed", "FAILED", "failed"),
    ("Failed", "RUNNING", "failed"),  # the deadline
    ("Failed", "", "failed"),  # it could not be submitted
    ("ValidationFailed", "", "failed"),
]


@pytest.mark.parametrize(("deployment", "job", "expected"), TABLE)
def test_what_is_an_end(deployment: str, job: str, expected: str) -> None:
    status = {key: value for key, value in (("jobDeploymentStatus", deployment), ("jobStatus", job)) if value}
    assert launcher.state_of(status) == expected


class FakeApi:
    """The part of the API server that the launcher uses, over HTTP. `answers` of a RayJob are given in turn, the last for ever:
    a pair of statuses, a code, `drop` (the connection breaks off) or `half` (half an answer)."""

    def __init__(self, answers: list[Any], others: list[list[tuple[str, str]]] | None = None) -> None:
        self.answers, self.others = answers, others or [[]]
        self.rayjobs: dict[str, dict[str, Any]] = {}
        self.created: list[dict[str, Any]] = []
        self.create_codes: list[int] = []
        self.asked: list[str] = []
        self.tokens: set[str] = set()
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = unquote(self.path).removeprefix("/apis/ray.io/v1/namespaces/nights/")
                api.asked.append(path)
                api.tokens.add(self.headers["Authorization"])
                if path == "raycronjobs/nightly":
                    spec = {"jobTemplate": {"entrypoint": "python /app/jobs/tag.py"}}
                    self.say(200, {"metadata": {"name": "nightly", "labels": {"of": "us"}}, "spec": spec})
                elif path.startswith("rayjobs?labelSelector=ray.io/cronjob-name=nightly"):
                    pairs = api.others.pop(0) if len(api.others) > 1 else api.others[0]
                    items = [{"metadata": {"name": f"other-{n}"}, "status": status_of(p)} for n, p in enumerate(pairs)]
                    mine = [{"metadata": {"name": name}, "status": {}} for name in api.rayjobs]
                    self.say(200, {"items": items + mine})
                elif path.startswith("rayjobs/") and path.removeprefix("rayjobs/") in api.rayjobs:
                    answer = api.answers.pop(0) if len(api.answers) > 1 else api.answers[0]
                    self.give(answer)
                else:
                    self.say(404, {})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                code = api.create_codes.pop(0) if api.create_codes else 201
                name = body["metadata"]["name"]
                if code == 201 and name in api.rayjobs:
                    code = 409
                if code in (201, 504):  # a gateway that timed out: made all the same
                    api.rayjobs[name] = body
                    api.created.append(body)
                self.say(code, body)

            def give(self, answer: Any) -> None:
                if answer == "drop":
                    self.connection.close()
                elif answer == "half":
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(b'{"status": {"jobDeplo')
                elif isinstance(answer, int):
                    self.say(answer, {"message": "no"})
                else:
                    self.say(200, {"status": status_of(answer)})

            def say(self, code: int, body: object) -> None:
                self.send_response(code)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


def status_of(pair: tuple[str, str]) -> dict[str, str]:
    return {"jobDeploymentStatus": pair[0], "jobStatus": pair[1], "message": "driver said no"}


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Any]:
    started: list[FakeApi] = []
    (tmp_path / "token").write_text("secret\n")

    def start(answers: list[Any], others: list[list[tuple[str, str]]] | None = None) -> tuple[FakeApi, Any]:
        started.append(FakeApi(answers, others))
        return started[-1], launcher.ApiServer(started[-1].url, "nights", tmp_path / "token", None)

    yield start
    for api in started:
        api.server.shutdown()
        api.server.server_close()


def patience(limit_s: float = 60.0) -> Any:
    """Time passes by being slept."""
    now = [0.0]
    return launcher.Patience(limit_s, 15, lambda: now[0], lambda s: now.__setitem__(0, now[0] + s))


RUNNING, DONE, FAILED = ("Running", "RUNNING"), ("Complete", "SUCCEEDED"), ("Failed", "FAILED")


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ([("", ""), ("Initializing", ""), RUNNING, ("Running", "SUCCEEDED"), DONE], 0),
        ([RUNNING, ("Running", "FAILED"), ("Retrying", "FAILED"), ("Initializing", ""), RUNNING, DONE], 0),
        ([RUNNING, ("Running", "FAILED"), ("Retrying", "FAILED"), ("Initializing", ""), RUNNING, FAILED], 1),
        ([("ValidationFailed", "")], 1),
        ([RUNNING, 500, "drop", "half", 429, 401, RUNNING, DONE], 0),
        ([RUNNING, ("Complete", "STOPPED")], 1),
        ([RUNNING, 404], 1),
    ],
)
def test_the_exit_code_is_that_of_the_end(serve: Any, answers: list[Any], code: int) -> None:
    api, client = serve(answers)
    assert launcher.launch(client, "nightly", "nightly-1", "uid-1", patience(200)) == code
    (made,) = api.created
    assert made["spec"] == {"entrypoint": "python /app/jobs/tag.py"}
    assert made["metadata"]["labels"] == {"of": "us", "ray.io/cronjob-name": "nightly"}
    assert made["metadata"]["ownerReferences"] == [
        {"apiVersion": "batch/v1", "kind": "Job", "name": "nightly-1", "uid": "uid-1"}
    ]
    assert api.tokens == {"Bearer secret"}


def test_a_second_pod_takes_up_what_the_first_made(serve: Any) -> None:
    api, client = serve([RUNNING, DONE])
    api.rayjobs["nightly-1"] = {}
    assert launcher.launch(client, "nightly", "nightly-1", None, patience()) == 0
    assert api.created == []


def test_an_answer_that_got_lost_makes_no_second_rayjob(serve: Any) -> None:
    api, client = serve([DONE])
    api.create_codes = [504]
    assert launcher.launch(client, "nightly", "nightly-1", None, patience()) == 0
    assert len(api.created) == 1


def test_an_earlier_night_is_waited_for_and_an_ended_one_is_not(serve: Any) -> None:
    _, client = serve([DONE], others=[[RUNNING, FAILED], [("Retrying", "FAILED")], [FAILED, DONE]])
    waited = patience()
    assert launcher.launch(client, "nightly", "nightly-1", None, waited) == 0
    assert waited.clock() == 30
    _, client = serve([DONE], others=[[RUNNING]])
    assert launcher.launch(client, "nightly", "nightly-1", None, patience(), alongside=True) == 0


def test_an_api_server_that_stays_away_ends_the_wait(serve: Any) -> None:
    _, client = serve([RUNNING, 503])
    with pytest.raises(launcher.NoAnswerError, match="503"):
        launcher.launch(client, "nightly", "nightly-1", None, patience(60))


def test_a_refusal_ends_at_once(serve: Any) -> None:
    api, client = serve([RUNNING])
    api.create_codes = [422]
    with pytest.raises(launcher.RefusedError, match="422"):
        launcher.launch(client, "nightly", "nightly-1", None, patience())
    with pytest.raises(launcher.RefusedError, match="no RayCronJob absent"):
        launcher.launch(client, "absent", "absent-1", None, patience(), alongside=True)


def test_the_program_says_refused_with_2_and_no_answer_with_75(
    serve: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    api, client = serve([503])
    monkeypatch.setattr(launcher.ApiServer, "of_this_pod", lambda: client)
    monkeypatch.setattr(launcher.signal, "signal", lambda *_: None)
    for template, code in (("absent", 2), ("nightly", 75)):
        monkeypatch.setattr(
            sys, "argv", ["launch", "--template", template, "--name", "n", "--patience", "0.05", "--poll", "0.01"]
        )
        assert launcher.main() == code
    assert "no answer for 0.05 s" in caplog.text
    assert len(api.created) == 1
