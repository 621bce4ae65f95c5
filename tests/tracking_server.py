"""A real MLflow server that can be taken away and brought back, and a way to it on which answers are lost."""

import hashlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

START_TRIES = 300
WRITES = {"POST", "PUT", "PATCH", "DELETE"}


class TrackingServer:
    """`mlflow server` on a database, artifacts by way of the server; `uri` stays the same over every stop."""

    def __init__(self, folder: Path, database: str, artifacts: str | None = None) -> None:
        self._folder, self._database = folder, database
        self._artifacts = artifacts or str(folder / "artifacts")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.absences = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._back: threading.Thread | None = None

    def start(self) -> None:
        """Come back when it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", self._database]
        command += ["--artifacts-destination", self._artifacts]
        surroundings = {
            **os.environ,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }  # its helpers take seconds to start
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=surroundings, stdout=log, stderr=log, start_new_session=True
            )
        for _ in range(START_TRIES):
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except OSError:
                assert self._process.poll() is None, (self._folder / "server.log").read_text()
                time.sleep(0.2)
        raise AssertionError("the MLflow server does not answer")

    def stop(self) -> None:
        """At once, whatever it is doing."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def away(self, seconds: float) -> None:
        """Stop now; a thread starts it again that much later."""
        self.stop()
        self.absences += 1
        self._back = threading.Thread(target=lambda: (time.sleep(seconds), self.start()))
        self._back.start()

    def wait_until_back(self) -> None:
        """Come back when the last `away` is over."""
        if self._back is not None:
            self._back.join()


@contextmanager
def losing_answers(backend: str) -> Iterator[tuple[str, list[str]]]:
    """A way to the server at `backend` on which the first answer to every request that writes is lost; its URI, and what was
    lost so far.

    The request has been served by then, and the connection ends without an answer: a client that asks again asks for the
    second time. That is a server that is killed between its commit and its answer, at every place where it can be.
    """
    lost: list[str] = []
    seen: set[str] = set()
    lock = threading.Lock()
    host = backend.removeprefix("http://")

    class Way(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            body = self._body()
            to = http.client.HTTPConnection(host, timeout=60)
            kept = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
            kept["Content-Length"] = str(len(body))
            to.request(self.command, self.path, body, kept)
            answer = to.getresponse()
            data = answer.read()
            told = f"{self.command} {self.path}"
            key = hashlib.sha256(told.encode() + body).hexdigest()
            with lock:
                loses = self.command in WRITES and not self.path.endswith("/search") and key not in seen
                seen.add(key)
                if loses:
                    lost.append(told.partition("?")[0])
            if loses:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Way)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", lost
    finally:
        server.shutdown()
        server.server_close()
