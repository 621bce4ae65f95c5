"""A proxy before an S3 server that makes of it what real stores and networks are: one that fails a share of the requests,
or one that makes something else of conditions on writes."""

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

CONDITIONS = ("honoured", "bare etags", "ignored", "501", "only creation")
"""What the store makes of `If-None-Match` and `If-Match` on writes: as Amazon; as Ceph 16, which refuses an etag in quotes;
nothing; an error; or an error to `If-Match` alone."""

_ERRORS = {"500": (500, "InternalError"), "503": (503, "ServiceUnavailable"), "SlowDown": (503, "SlowDown")}
_OF_THE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class FaultyS3:
    """`share` of the requests fail: which, a seed says; how, each of `ways` in turn, so that each occurs. `conditions`: one
    of CONDITIONS."""

    def __init__(
        self, server: str, share: float, seed: int, ways: tuple[str, ...] = WAYS, conditions: str = CONDITIONS[0]
    ) -> None:
        self.share, self.ways, self.conditions = share, ways, conditions
        self.requests = 0
        self.denied = ""
        """What the path of an object ends with that nobody may read."""
        self.failed: Counter[str] = Counter()
        self._random, self._lock = random.Random(seed), threading.Lock()
        host, port = urlsplit(server).hostname, urlsplit(server).port
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def respond(self) -> None:
                body = self._body()
                way = outer._next_way(self.command)
                refusal = None if self.command in ("GET", "HEAD") else self._condition()
                if outer.denied and urlsplit(self.path).path.endswith(outer.denied):
                    refusal = 403, "AccessDenied"
                if refusal is not None:
                    self._refuse(*refusal)
                elif way in _ERRORS:
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

            def _condition(self) -> tuple[int, str] | None:
                """The refusal of a condition, or None, the headers made what the server behind understands."""
                match, none = self.headers.get("If-Match"), self.headers.get("If-None-Match")
                if outer.conditions == "501" and (match or none):
                    return 501, "NotImplemented"
                if outer.conditions == "only creation" and match:
                    return 501, "NotImplemented"
                if (
                    outer.conditions == "ignored" or self.command == "DELETE"
                ):  # conditional removal is new even at Amazon
                    del self.headers["If-Match"], self.headers["If-None-Match"]
                elif outer.conditions == "bare etags" and match:
                    if match.startswith('"'):
                        return 412, "PreconditionFailed"
                    self.headers.replace_header("If-Match", f'"{match}"')
                return None

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
def faulty_s3(
    server: str, share: float = 0.05, seed: int = 0, ways: tuple[str, ...] = WAYS, conditions: str = CONDITIONS[0]
) -> Iterator[FaultyS3]:
    """The proxy, answering at its `address` for the time of the block."""
    proxy = FaultyS3(server, share, seed, ways, conditions)
    thread = threading.Thread(target=proxy._server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy._server.shutdown()
        proxy._server.server_close()
