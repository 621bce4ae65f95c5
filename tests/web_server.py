"""A web server of this machine that gives pictures, refuses, fails, is slow, or breaks off: by the path that is asked for."""

import ipaddress
import ssl
import threading
import time
import urllib.parse
from collections import Counter
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PICTURE = bytes(range(256)) * 40


class Server(ThreadingHTTPServer):
    """Answers by the path: see `Answers`; `asked` counts what was asked for."""

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.asked: Counter[str] = Counter()
        self.open, self.most_open, self.lock = 0, 0, threading.Lock()
        self.front = 200
        self.pictures: dict[str, bytes] = {}
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.port = self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no affair of the test's log."""


class Answers(BaseHTTPRequestHandler):
    """`/ok`, `/status/N`, `/to/URL`, `/once/N` (fails the first time), `/slow`, `/cut`, `/packed`, `/endless`, `/tagged?q`."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        server, path = self.server, self.path
        with server.lock:
            server.asked[path] += 1
            server.open += 1
            server.most_open = max(server.most_open, server.open)
        self._is_counted = True
        try:
            self._answer(path, server.asked[path])
        finally:
            self._count_off()

    def _count_off(self) -> None:
        """Before the answer goes out: whoever has it may ask again before this thread goes on."""
        with self.server.lock:
            self.server.open -= self._is_counted
        self._is_counted = False

    def _answer(self, path: str, times: int) -> None:
        kind, _, rest = path[1:].partition("/")
        if path in self.server.pictures:
            return self._send(200, self.server.pictures[path])
        if kind == "":
            return self._send(self.server.front, b"front page")
        if kind == "status":
            return self._send(int(rest.partition("/")[0]), b"no")
        if kind == "once" and times == 1:
            status, _, patience = urllib.parse.unquote(rest).partition("/")
            return self._send(int(status), b"no", **({"Retry-After": patience} if patience else {}))
        if kind == "to":
            return self._send(302, b"", Location=rest)
        if kind == "round":
            return self._send(302, b"", Location="/round")
        if kind == "packed":
            return self._send(200, PICTURE, **{"Content-Encoding": "gzip"})
        if kind == "slow":
            time.sleep(0.3)
        if kind == "never":
            time.sleep(2)
        if kind == "cut":
            self.send_response(200)
            self.send_header("Content-Length", str(len(PICTURE)))
            self.end_headers()
            self.wfile.write(PICTURE[:1000])
            self.close_connection = True
            return None
        if kind == "endless":
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            while True:
                self.wfile.write(PICTURE)
        return self._send(200, PICTURE)

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self._count_off()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def certificate(folder: Path, *names: str) -> tuple[ssl.SSLContext, Path]:
    """A server's context and the file that makes a client trust it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")]),
    )
    now = datetime.now(UTC)
    held = [x509.IPAddress(ipaddress.ip_address(one)) if one[0].isdigit() else x509.DNSName(one) for one in names]
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(held), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem, encoding = serialization.NoEncryption(), serialization.Encoding.PEM
    file = folder / "certificate.pem"
    file.write_bytes(made.public_bytes(encoding))
    secret = folder / "key.pem"
    secret.write_bytes(key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, secret)
    return context, file
