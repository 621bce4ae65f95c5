"""Pictures over HTTPS and HTTP from real servers on this machine: what is fetched, what is refused, and whose fault a failure is."""

import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hashtag_core.config import ArchiveSection
from hashtag_core.data.reading_options import Reading
from hashtag_core.errors import ConfigError, HashtagError, NotFoundError, StorageError
from hashtag_core.faults import Fault, classify
from hashtag_core.recommend.image_uris import NOT_FETCHED, ImagePlaces, fetch_images
from hashtag_core.storage import web
from tests.web_server import PICTURE, Server, certificate


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PATIENCE_S", 0.01)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def started() -> Iterator[Callable[..., Server]]:
    running = []

    def start(context: ssl.SSLContext | None = None) -> Server:
        server = Server(context)
        running.append(server)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture
def server(started: Callable[..., Server]) -> Server:
    return started()


def hosts_of(server: Server) -> list[str]:
    return [f"http://127.0.0.1:{server.port}"]


def fetch(server: Server, path: str, hosts: list[str] | None = None, **limits: Any) -> bytes:
    wanted = {"max_bytes": 1_000_000, "timeout_s": 5, **limits}
    return web.read(f"http://127.0.0.1:{server.port}{path}", hosts_of(server) if hosts is None else hosts, **wanted)


def test_a_named_host_is_asked_and_no_other(server: Server) -> None:
    assert fetch(server, "/ok/a%20b/ü.jpg?x=1&y=ä#part") == PICTURE
    assert server.asked == {"/ok/a%20b/%C3%BC.jpg?x=1&y=%C3%A4": 1}
    named = f"http://127.0.0.1:{server.port}"
    for hosts in ([], ["cdn.example.org"], ["127.0.0.1"], ["http://127.0.0.1"], [f"127.0.0.1:{server.port}"]):
        with pytest.raises(ConfigError, match=r"pictures come over https from hosts that were named") as told:
            fetch(server, "/ok", hosts)
        assert f'image_hosts = ["{named}"]' in str(told.value)
        assert f"--image-host {named}" in str(told.value)
    assert sum(server.asked.values()) == 1


def test_https_with_a_certificate_that_is_trusted(
    tmp_path: Path, started: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, file = certificate(tmp_path, "localhost", "127.0.0.1")
    server = started(context)
    address, hosts = f"https://localhost:{server.port}/ok", [f"localhost:{server.port}=127.0.0.0/8"]
    with pytest.raises(StorageError, match=r"no trusted connection: .*CERTIFICATE_VERIFY_FAILED"):
        web.read(address, hosts, 1_000_000, 5)
    web._pools.cache_clear()
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    assert web.read(address, hosts, 1_000_000, 5) == PICTURE
    assert server.asked == {"/ok": 1}
    web._pools.cache_clear()


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST"])
def test_a_name_that_leads_inside_is_let_go_before_a_byte_is_sent(server: Server, name: str) -> None:
    address = f"http://{name}:{server.port}/ok"
    with pytest.raises(
        ConfigError, match=r"localhost leads to .*, which is no public address: not fetched .*localhost="
    ):
        web.read(address, [f"http://localhost:{server.port}"], 1_000_000, 5)
    with pytest.raises(ConfigError, match="no public address"):
        web.read(address, [f"http://localhost:{server.port}=10.0.0.0/8"], 1_000_000, 5)
    assert not server.asked
    assert web.read(address, [f"http://localhost:{server.port}=127.0.0.1"], 1_000_000, 5) == PICTURE


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True), ("2606:2800:220:1::1", True), ("127.0.0.1", False), ("10.1.2.3", False),
        ("172.16.0.1", False), ("192.168.1.1", False), ("169.254.169.254", False), ("100.64.0.1", False),
        ("0.0.0.0", False), ("224.0.0.1", False), ("255.255.255.255", False), ("::1", False), ("fe80::1", False),
        ("fd00::1", False), ("::ffff:127.0.0.1", False), ("::ffff:93.184.216.34", True), ("64:ff9b::7f00:1", False),
        ("64:ff9b::5db8:d822", True), ("2002:7f00:1::", False), ("ff02::1", False),
    ],
)  # fmt: skip
def test_which_addresses_a_name_may_lead_to(address: str, public: bool) -> None:
    found = ipaddress.ip_address(address)
    assert web.Host.of("cdn.example.org").may_lead_to(found) is public
    assert web.Host.of("cdn.example.org=127.0.0.0/8").may_lead_to(found) is (
        public or "7f00" in address or "127" in address
    )


@pytest.mark.parametrize(
    ("entry", "fetched", "refused"),
    [
        ("cdn.example.org", ["https://cdn.example.org/a", "HTTPS://CDN.Example.ORG:443/a", "https://cdn.example.org./a"],
         ["http://cdn.example.org/a", "https://cdn.example.org:8443/a", "https://example.org/a",
          "https://cdn.example.org.evil.net/a", "https://evil.net/cdn.example.org", "https://evil.net#cdn.example.org"]),
        ("*.example.org", ["https://a.example.org/", "https://a.b.example.org/"],
         ["https://example.org/", "https://badexample.org/", "https://example.org.evil.net/"]),
        ("http://old.example.org:8080", ["http://old.example.org:8080/a"], ["https://old.example.org:8080/a", "http://old.example.org/a"]),
        ("127.0.0.1", ["https://127.0.0.1/a"], ["https://2130706433/a", "https://127.1/a", "https://[::1]/a", "https://0/a"]),
        ("[::1]:8443", ["https://[::1]:8443/a"], ["https://[::1]/a"]),
    ],
)  # fmt: skip
def test_which_addresses_an_entry_is_of(entry: str, fetched: list[str], refused: list[str]) -> None:
    host = web.Host.of(entry)
    assert [host.is_of(web._parsed(uri)) for uri in fetched] == [True] * len(fetched)
    assert [host.is_of(web._parsed(uri)) for uri in refused] == [False] * len(refused)


@pytest.mark.parametrize(
    "entry", ["", "*", "*.", "https://a.org/folder", "a.org=10.0.0.1/8", "a b.org", "ftp://a.org", "a@b.org", "a.org=x"]
)
def test_an_entry_that_is_no_host_is_refused_where_the_archive_is_opened(entry: str) -> None:
    with pytest.raises(ConfigError, match=r"archive.image_hosts: expected a host \(cdn.example.org"):
        Reading.of(ArchiveSection(image_hosts=["cdn.example.org", entry]))


@pytest.mark.parametrize(
    "uri", ["https://", "https://user:word@127.0.0.1/a", "https://token@127.0.0.1/a", "https://[::1/a"]
)
def test_an_address_with_a_user_or_without_a_host_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError) as told:
        web.read(uri, ["127.0.0.1"], 1000, 5)
    assert "word" not in str(told.value).replace("password", "")
    assert "token@" not in str(told.value)


def test_redirects_lead_to_named_hosts_alone(server: Server, started: Callable[..., Server]) -> None:
    other = started()
    there = f"http://127.0.0.1:{other.port}/ok"
    assert fetch(server, "/to//ok") == PICTURE
    with pytest.raises(ConfigError, match="was not"):
        fetch(server, f"/to/{there}")
    assert not other.asked
    assert fetch(server, f"/to/{there}", [*hosts_of(server), *hosts_of(other)]) == PICTURE
    for inside in ("http://169.254.169.254/latest/meta-data", "file:///etc/passwd", "https://127.0.0.1/x", "ftp://a/b"):
        with pytest.raises(ConfigError):
            fetch(server, f"/to/{inside}")
    with pytest.raises(HashtagError, match="more than 4 redirects") as told:
        fetch(server, "/round")
    assert classify(told.value) is Fault.CONTENT


@pytest.mark.parametrize("status", [204, 301, 400, 401, 403, 404, 410, 418, 451])
def test_what_the_server_will_not_give_is_the_pictures_fault_and_asked_for_once(server: Server, status: int) -> None:
    with pytest.raises(HashtagError, match=f"the server answered {status}") as told:
        fetch(server, f"/status/{status}")
    assert classify(told.value) is not Fault.MACHINE
    assert isinstance(told.value, NotFoundError) is (status in (404, 410))
    assert server.asked == {f"/status/{status}": 1}


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_failure_that_passes_is_not_seen(server: Server, status: int) -> None:
    assert fetch(server, f"/once/{status}") == PICTURE


@pytest.mark.parametrize("path", ["/status/500", "/status/502", "/status/504", "/status/507", "/cut", "/never"])
def test_one_address_that_fails_on_a_host_that_answers_is_the_pictures_fault(server: Server, path: str) -> None:
    with pytest.raises(HashtagError, match="the host itself answers") as told:
        fetch(server, path, timeout_s=0.4)
    assert classify(told.value) is Fault.CONTENT
    assert server.asked == {path: web.ATTEMPTS, "/": 1}


@pytest.mark.parametrize(
    ("path", "front"), [("/status/500", 500), ("/cut", 502), ("/status/429", 200), ("/status/503", 200)]
)
def test_a_host_that_is_away_or_asks_for_patience_is_the_machines_fault(server: Server, path: str, front: int) -> None:
    server.front = front
    with pytest.raises(StorageError, match="3 attempts") as told:
        fetch(server, path)
    assert classify(told.value) is Fault.MACHINE


def test_no_server_and_no_name_are_the_machines_fault(started: Callable[..., Server]) -> None:
    server = started()
    server.shutdown()
    server.server_close()
    with pytest.raises(StorageError, match="Connection refused") as told:
        fetch(server, "/ok")
    assert classify(told.value) is Fault.MACHINE
    with pytest.raises(StorageError, match=r"the name nowhere\.invalid leads nowhere") as told:
        web.read("https://nowhere.invalid/a", ["nowhere.invalid"], 1000, 5)
    assert classify(told.value) is Fault.MACHINE


def test_limits_of_size_coding_and_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fetch(server, "/ok", max_bytes=len(PICTURE)) == PICTURE
    for path, most in (("/ok", len(PICTURE) - 1), ("/endless", 100_000)):
        with pytest.raises(HashtagError, match=f"bytes, more than {most:,}") as told:
            fetch(server, path, max_bytes=most)
        assert classify(told.value) is Fault.CONTENT
    with pytest.raises(HashtagError, match="in the coding 'gzip', which was not asked for"):
        fetch(server, "/packed")
    monkeypatch.setattr(web, "WHOLE_TIMEOUT_S", 0)
    with pytest.raises(HashtagError, match="not whole after 0 s"):
        fetch(server, "/endless", max_bytes=1 << 40)


def test_no_more_than_some_connections_a_host_and_answers_in_order(server: Server) -> None:
    uris = [
        None if n == 3 else f"http://127.0.0.1:{server.port}/{'slow' if n % 2 else 'status/404'}/{n}" for n in range(20)
    ]
    uris[1] = f"http://127.0.0.1:{server.port}/status/404"
    places = ImagePlaces(None, hosts=tuple(hosts_of(server)))
    found = list(fetch_images(uris, places))
    assert [data is not None for data, _ in found] == [bool(n % 2 and n not in (1, 3)) for n in range(20)]
    assert found[1][1].startswith(f"{NOT_FETCHED}http://127.0.0.1:{server.port}/status/404: the server answered 404")
    assert server.most_open <= web.CONNECTIONS_A_HOST


def test_what_a_busy_host_asks_for_is_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(web.time, "sleep", waited.append)
    assert fetch(server, "/once/429/7") == fetch(server, "/once/503/3600") == PICTURE
    assert fetch(server, "/once/503/Wed,%2021%20Oct%202015%2007:28:00%20GMT") == PICTURE
    assert waited[:2] == [7, web.MOST_PATIENCE_S]
    assert waited[2] <= web.PATIENCE_S


def test_a_proxy_of_the_environment_is_asked_and_looks_the_name_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://someone:word@127.0.0.1:{server.port}")
    hosts = ["http://cdn.example.org"]
    with pytest.raises(HashtagError) as told:  # the server is no proxy: it knows no such path
        web.read("http://cdn.example.org/status/404", hosts, 1000, 5)
    assert "word" not in str(told.value)
    assert set(server.asked) == {"http://cdn.example.org/status/404"}
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert fetch(server, "/ok") == PICTURE  # past the proxy, which is not there
    with pytest.raises(StorageError, match="3 attempts") as told:
        web.read("http://other.invalid/ok", ["http://other.invalid"], 1000, 5)
    assert classify(told.value) is Fault.MACHINE
