"""What answers at MLFLOW_TRACKING_URI and is no tracking server is told in one line that names the variable."""

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hashtag_core.errors import StorageError
from hashtag_core.tracking.runs import connect

PROXIES = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy")


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, str, bytes], str]]:
    """`serving(status, type, body)`: the URI of a server that answers everything so, with the variable set to it."""
    servers: list[ThreadingHTTPServer] = []

    def serve(status: int, kind: str, body: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{servers[-1].server_port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        return uri

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "kind", "body"),
    [
        (404, "text/html", b"<html>no such page</html>"),
        (200, "text/html", b"<!doctype html><title>a dashboard</title>"),
        (400, "application/xml", b"<Error><Code>InvalidRequest</Code></Error>"),
        (200, "text/plain", b""),
    ],
)
def test_another_service(serving: Callable[[int, str, bytes], str], status: int, kind: str, body: bytes) -> None:
    uri = serving(status, kind, body)
    with pytest.raises(StorageError) as caught:
        connect()
    assert str(caught.value) == (
        f"what answers at {uri} is no MLflow server (HTTP {status}, no JSON): MLFLOW_TRACKING_URI names the tracking server"
    )


@pytest.mark.parametrize(
    ("status", "body"), [(200, b'{"experiments": []}'), (401, b"who are you"), (403, b"<html>"), (503, b"busy")]
)
def test_a_server_that_may_be_one_is_left_to_mlflow(
    serving: Callable[[int, str, bytes], str], status: int, body: bytes
) -> None:
    serving(status, "text/html", body)
    assert connect().tracking_uri.startswith("http://127.0.0.1:")


def test_a_port_that_speaks_no_http(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        threading.Thread(target=greet, daemon=True).start()
        uri = f"http://127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(StorageError, match=rf"what answers at {uri} speaks no HTTP .*: MLFLOW_TRACKING_URI names"):
            connect()


def test_a_proxy_that_leads_nowhere_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://ann:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example.org:5000")
    with pytest.raises(StorageError) as caught:
        connect()
    told = str(caught.value)
    assert "of HTTP_PROXY; NO_PROXY=mlflow.example.org goes past it" in told
    assert "secret" not in told
