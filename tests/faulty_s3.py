"""A proxy before an S3 server that fails a share of the requests, as real stores and networks do."""

import http.client
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

WAYS = ("500", "503", "SlowDown", "reset before", "reset after", "half a body")
"""An error in S3's words; the connection reset before the server heard of the request, or after it did and before its
answer; an answer that breaks off."""

_ERRORS = {"500": (500, "InternalError"), "503": (503, "ServiceUnavailable"), "SlowDown": (503, "SlowDown")}
_OF_THE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class FaultyS3:
    """`share` of the requests fail: which, a seed says; how, each of `ways` in turn, so that each occurs."""

    def __init__(self, server: str, share: float, seed: int, ways: tuple[str, ...] = WAYS) -> None:
        self.share, self.ways = share, ways
        self.requests = 0
        self.failed: Counter[str] = Counter()
        self._random, self._lock = random.Random(seed), threading.Lock()
        host, port = urlsplit(server).hostname, urlsplit(server).port
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def respond(self) -> None:
                body = self._body()
                way = outer._next_way(self.command)
                if way in _ERRORS:
                    self._refuse(*_ERRORS[way])
                elif way == "reset before":
                    self._reset()
                else:
                    self._forward(body, way)

            def _forward(self, body: bytes, way: str | None) -> None:
                asked = http.client.HTTPConnection(str(host), port, timeout=60)
                try:
                    headers = {k: v for k, v in self.headers.items() if k.lower() not in _OF_THE_CONNECTION}
                    asked.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
                    answer = asked.getresponse()
                    content = answer.read()
                finally:
                    asked.close()
                if way == "reset after":
                    self._reset()
                    return
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in _OF_THE_CONNECTION | {"server", "date"}:
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else None
                self.send_header("Content-Length", length or str(len(content)))
                self.end_headers()
                if way == "half a body":
                    self.wfile.write(content[: len(content) // 2])
                    self._reset()
                else:
                    self.wfile.write(content)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = respond

            def _body(self) -> bytes:
                if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                read = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    read += self.rfile.read(size)
                    self.rfile.readline()
                while self.rfile.readline().strip():
                    pass
                return read

            def _refuse(self, status: int, code: str) -> None:
                content = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>as told</Message></Error>".encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def _reset(self) -> None:
                """Close at once and with RST, as a machine does that is switched off behind a load balancer."""
                self.wfile.flush()
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
                self.close_request(request)  # no orderly end first: what is to be reset is

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # a client that was killed

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def _next_way(self, command: str) -> str | None:
        with self._lock:
            self.requests += 1
            if self._random.random() >= self.share:
                return None
            way = self.ways[self.failed.total() % len(self.ways)]
            if way == "half a body" and command == "HEAD":
                way = "reset after"  # there is no body to halve
            self.failed[way] += 1
            return way


@contextmanager
def faulty_s3(server: str, share: float = 0.05, seed: int = 0, ways: tuple[str, ...] = WAYS) -> Iterator[FaultyS3]:
    """The proxy, answering at its `address` for the time of the block."""
    proxy = FaultyS3(server, share, seed, ways)
    thread = threading.Thread(target=proxy._server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy._server.shutdown()
        proxy._server.server_close()
