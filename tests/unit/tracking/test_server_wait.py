"""A server that is away is waited for."""

import socket
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Timer

import pytest

from hashtag_core.errors import StorageError
from hashtag_core.tracking import server_wait
from hashtag_core.tracking.runs import connect


def test_a_server_that_never_answers(monkeypatch):
    monkeypatch.setattr(server_wait, "REACH_TIMEOUT_S", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(StorageError, match="timed out"):
            connect()


class _NoMlflow(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(404)
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *arguments):
        pass


class _Refusing(_NoMlflow):
    """A tracking server that wants to be told who asks."""

    def do_GET(self):
        self.send_response(401)
        self.end_headers()


def test_a_server_that_is_away_for_a_while_is_waited_for_where_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_wait, "REACH_PAUSE_S", 0.05)
    first = HTTPServer(("127.0.0.1", 0), _Refusing)
    uri, back = f"http://127.0.0.1:{first.server_port}", []

    def again() -> None:
        back.append(HTTPServer(("127.0.0.1", first.server_port), _Refusing))
        back[0].serve_forever()

    first.server_close()
    with pytest.raises(StorageError, match="does not answer"):
        server_wait.check_reachable(uri)
    timer = Timer(0.5, again)
    timer.daemon = True
    timer.start()
    server_wait.wait_until_reachable(uri)
    assert back, "it did not wait"
    back[0].shutdown()
    back[0].server_close()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with pytest.raises(StorageError, match="does not answer"):
        server_wait.wait_until_reachable(uri)
