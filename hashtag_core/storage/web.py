"""Pictures over `https://`: from hosts that were named, within limits, and never from this machine's own network by accident.

An address in a post is content that a stranger wrote, so three questions are asked before a byte is sent: is the host on the
list, also after each redirect; is the address that its name led to a public one, unless the list names that address too; is the
address free of a user and a password. Redirects are followed here and not by the library, since each is a new address.

What an answer says decides whose fault a failure is. A picture that is gone, forbidden, too large or broken off at its source is
the content's. A host that is away, or that asks for patience (429, 503), is the machine's: StorageError, after retries. Between
the two stands a server that fails at one address: the host's front page is asked, and where that answers, the fault is the
address's own. So one post cannot stop a night's run, and a host that is away cannot rob a whole archive of its pictures.
"""

import functools
import http.client
import ipaddress
import logging
import os
import random
import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies, proxy_bypass

from hashtag_core.errors import ConfigError, ImageError, NotFoundError, StorageError
from hashtag_core.json_values import Options
from hashtag_core.redaction import one_line, redact
from hashtag_core.storage.base import check_size

if TYPE_CHECKING:
    import urllib3
    from urllib3.util.url import Url

logger = logging.getLogger(__name__)

ATTEMPTS = 3
PATIENCE_S = 1.0
"""Before the second attempt, twice as long before the third; by half of it at random shorter."""

CONNECTIONS_A_HOST = 4
"""Requests that a process has open to one host; others wait."""

CONNECT_TIMEOUT_S = 10
WHOLE_TIMEOUT_S = 60
"""For one picture, from the first byte of its body to the last."""

MOST_REDIRECTS = 4
MOST_PATIENCE_S = 20
"""How long a `Retry-After` is obeyed."""

PORTS = {"http": 80, "https": 443}
REDIRECTS = (301, 302, 303, 307, 308)
BUSY = (429, 503)
"""The host asks for patience: that says nothing of the picture."""

AGAIN = (408, 425, *BUSY)
"""What may pass, beside every fault of the server (5xx)."""
_ENTRY = re.compile(
    r"(?:(?P<scheme>https?)://)?(?P<host>\[[0-9A-Fa-f:.]+\]|[^/:=\s\[\]@?#]+)(?::(?P<port>\d{1,5}))?/?(?:=(?P<inside>[^=]+))?",
    re.IGNORECASE,
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Host:
    """One entry of the list: `name` in lower case, `*.` before it for all names below; `inside`: addresses that are not public
    and that the name may lead to all the same."""

    scheme: str
    name: str
    port: int
    inside: Network | None = None

    @classmethod
    def of(cls, entry: str) -> "Host":
        """`cdn.example.org`, `*.example.org`, `http://old.example.org`, `example.org:8443`, `pictures.intern=10.0.0.0/8`, `127.0.0.1:8000`.

        ConfigError for what is none of these.
        """
        found = _ENTRY.fullmatch(entry.strip())
        expected = "expected a host (cdn.example.org, *.example.org, http://old.example.org, intern:8080=10.0.0.0/8)"
        if found is None or found["host"] in ("*", "*."):
            raise ConfigError(f"archive.image_hosts: {expected}, found {entry!r}")
        scheme, name = (found["scheme"] or "https").lower(), _plain(found["host"])
        try:
            own = _address(name)
            inside = (
                ipaddress.ip_network(found["inside"].strip()) if found["inside"] else own and ipaddress.ip_network(own)
            )
        except ValueError as error:
            raise ConfigError(f"archive.image_hosts: {expected}, found {entry!r}: {error}") from None
        return cls(scheme, name, int(found["port"] or PORTS[scheme]), inside or None)

    def is_of(self, url: "Url") -> bool:
        """Whether an address is on this host."""
        scheme, name = (url.scheme or "").lower(), _plain(url.host or "")
        below = self.name.startswith("*.") and name.endswith(self.name[1:]) and _address(name) is None
        return (name == self.name or below) and scheme == self.scheme and (url.port or PORTS[scheme]) == self.port

    def may_lead_to(self, address: Address) -> bool:
        """Whether the name may stand for this address."""
        plain = _embedded(address)
        return _is_public(plain) or (self.inside is not None and plain in self.inside)


def is_web(uri: str) -> bool:
    """Whether it is an address of the web."""
    return re.match(r"\s*https?://", uri, re.IGNORECASE) is not None


def read(uri: str, hosts: Sequence[str], max_bytes: int, timeout_s: float) -> bytes:
    """The content at an `https://` address (`http://` where the list says so), of at most `max_bytes` bytes.

    `hosts`: entries as `Host.of` takes them; `timeout_s`: of one read. ConfigError for an address that is not on the list, also one
    that a redirect leads to; NotFoundError, ImageError and TooLargeError where the fault is the content's; StorageError where the
    host is away, after ATTEMPTS.
    """
    allowed = tuple(Host.of(entry) for entry in hosts)
    shown, at = one_line(redact(uri)), _parsed(uri)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _followed(at, allowed, max_bytes, timeout_s, shown)
        except _FailedError as failed:
            if attempt == ATTEMPTS:
                raise _verdict(failed, shown, allowed, timeout_s) from None
            patience, asked_for = PATIENCE_S * 2 ** (attempt - 1), failed.patience_s
        time.sleep(max(random.uniform(patience / 2, patience), asked_for))
    raise AssertionError("unreachable")


class _FailedError(Exception):
    """A request that failed in a way that the next may not."""

    def __init__(self, reason: str, url: "Url", status: int = 0, patience_s: float = 0) -> None:
        super().__init__(reason)
        self.reason, self.url, self.status, self.patience_s = reason, url, status, patience_s


def _verdict(failed: _FailedError, shown: str, allowed: tuple[Host, ...], timeout_s: float) -> Exception:
    """Whose fault it is that an address fails again and again."""
    if failed.status not in BUSY and _answers(failed.url, allowed, timeout_s):
        return ImageError(f"{shown}: {failed.reason}; the host itself answers")
    return StorageError(f"{shown}: {failed.reason} ({ATTEMPTS} attempts)")


def _answers(url: "Url", allowed: tuple[Host, ...], timeout_s: float) -> bool:
    """Whether the host of an address answers at its front page, whatever it says short of a failure."""
    try:
        with _asked(url._replace(path="/", query=None), allowed, timeout_s, url.host or "") as response:
            return int(response.status) < HTTPStatus.INTERNAL_SERVER_ERROR and response.status not in BUSY
    except (_FailedError, ConfigError):
        return False


def _followed(url: "Url", allowed: tuple[Host, ...], max_bytes: int, timeout_s: float, shown: str) -> bytes:
    for _ in range(MOST_REDIRECTS + 1):
        with _asked(url, allowed, timeout_s, shown) as response:
            status = int(response.status)
            if status == HTTPStatus.OK:
                return _body(response, url, max_bytes, shown)
            if status not in REDIRECTS or not response.headers.get("Location"):
                raise _refused(response, url, shown)
            url = _next(url, response.headers["Location"], shown)
    raise ImageError(f"{shown}: more than {MOST_REDIRECTS} redirects")


def _next(url: "Url", location: str, shown: str) -> "Url":
    from urllib.parse import urljoin

    return _parsed(urljoin(url.url, location), f"{shown} redirects to ")


def _refused(response: Any, url: "Url", shown: str) -> Exception:
    status = int(response.status)
    reason = f"the server answered {status} {http.client.responses.get(status, '')}".rstrip()
    if status in AGAIN or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _FailedError(reason, url, status, _patience_s(response.headers.get("Retry-After")))
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        return NotFoundError(f"{shown}: {reason}")
    return ImageError(f"{shown}: {reason}")


def _patience_s(retry_after: str | None) -> float:
    """What a server asks for, in seconds or as a date; 0 where that says nothing."""
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    try:
        return min(Retry().parse_retry_after(retry_after or "0"), MOST_PATIENCE_S)
    except InvalidHeader:
        return 0.0


def _body(response: Any, url: "Url", max_bytes: int, shown: str) -> bytes:
    """The body as it was sent; a packed one is refused, since its size says nothing of what comes out of it."""
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise ImageError(f"{shown}: the server answered in the coding {coding!r}, which was not asked for")
    length = str(response.headers.get("Content-Length", ""))
    check_size(shown, int(length) if length.isdigit() else 0, max_bytes)
    pieces, size, ends = [], 0, time.monotonic() + WHOLE_TIMEOUT_S
    with _telling(url):
        while piece := response.read1(1 << 16, decode_content=False):
            pieces.append(piece)
            size += len(piece)
            check_size(shown, size, max_bytes)
            if time.monotonic() > ends:
                raise _FailedError(f"not whole after {WHOLE_TIMEOUT_S} s", url)
    return b"".join(pieces)


@contextmanager
def _asked(url: "Url", allowed: tuple[Host, ...], timeout_s: float, shown: str) -> Iterator[Any]:
    """The answer to GET, its body not read; ConfigError for a host that is not on the list."""
    import urllib3

    host = next((host for host in allowed if host.is_of(url)), None)
    if host is None:
        named = f"{url.scheme}://{url.netloc}" if url.scheme == "http" else url.netloc
        raise ConfigError(
            f"{shown}: not fetched: pictures come over https from hosts that were named, and {named} was not "
            f'([archive] image_hosts = ["{named}"], or --image-host {named}; or copy them to the archive or its bucket)'
        )
    timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=timeout_s)
    headers = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "hashtag-recommender"}
    pools = _pools(os.getpid(), host, _proxy(url))
    with _telling(url):
        response = pools.request(
            "GET", url.url, headers=headers, timeout=timeout, retries=False, redirect=False, preload_content=False
        )
    try:
        yield response
    finally:
        response.close()  # a body that was not read to its end would stand in the next one's way
        response.release_conn()


@contextmanager
def _telling(url: "Url") -> Iterator[None]:
    """What the library raises, in words."""
    from urllib3.exceptions import HTTPError, NameResolutionError, NewConnectionError, SSLError
    from urllib3.exceptions import TimeoutError as PatienceError

    try:
        yield
    except (_FailedError, ConfigError):
        raise
    except NameResolutionError as error:
        raise _FailedError(f"the name {url.host} leads nowhere", url) from error
    except SSLError as error:
        raise _FailedError(f"no trusted connection: {_last(error)}", url) from error
    except NewConnectionError as error:  # before its base, which tells of time
        raise _FailedError(f"no answer: {_last(error)}", url) from error
    except PatienceError as error:
        raise _FailedError("the server did not answer in time", url) from error
    except (HTTPError, OSError, http.client.HTTPException) as error:
        raise _FailedError(f"no answer: {_last(error)}", url) from error


def _last(error: BaseException) -> str:
    reason = getattr(error, "reason", None)
    return one_line(redact(str(reason if isinstance(reason, BaseException) else error)))[:200]


def _parsed(uri: str, head: str = "") -> "Url":
    """The address, its parts escaped as they have to be. ConfigError for one that is none, or that holds a user."""
    from urllib3.exceptions import LocationParseError
    from urllib3.util import parse_url

    try:
        url = parse_url(uri.strip())
    except (LocationParseError, UnicodeError) as error:
        raise ConfigError(f"{head}{uri!r}: no address: {error}") from None
    if url.scheme not in PORTS or not url.host:
        raise ConfigError(f"{head}{uri!r}: expected https://HOST/...")
    if url.auth:
        raise ConfigError(f"{head}{uri!r}: an address with a user or a password in it is not fetched")
    return url._replace(fragment=None, path=url.path or "/")


def _proxy(url: "Url") -> str | None:
    """The proxy that the environment names for an address."""
    proxies = getproxies()
    proxy = proxies.get(url.scheme or "") or proxies.get("all")
    return proxy if proxy and not proxy_bypass(url.netloc or "") else None


@functools.lru_cache(maxsize=64)
def _pools(pid: int, host: Host, proxy: str | None) -> "urllib3.PoolManager":
    """Connections to a host, made once for a process. Through a proxy it is the proxy that looks the name up, so the address is its
    affair; else it is looked at when the connection stands and nothing was sent."""
    import urllib3
    from urllib3.connection import HTTPConnection, HTTPSConnection

    options: Options = {"maxsize": CONNECTIONS_A_HOST, "block": True, "num_pools": 16}
    if proxy is not None:
        return urllib3.ProxyManager(proxy if "://" in proxy else f"http://{proxy}", **options)

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _looked_at(super()._new_conn(), host)

    class Safe(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _looked_at(super()._new_conn(), host)

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class SafePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Safe

    manager = urllib3.PoolManager(**options)
    manager.pool_classes_by_scheme = {"http": PlainPool, "https": SafePool}
    return manager


def _looked_at(connection: socket.socket, host: Host) -> socket.socket:
    """The connection, if its other end is one that the host may have; else it is closed and ConfigError."""
    peer = str(connection.getpeername()[0]).partition("%")[0]
    if host.may_lead_to(ipaddress.ip_address(peer)):
        return connection
    connection.close()
    raise ConfigError(
        f"{host.name} leads to {peer}, which is no public address: not fetched "
        f"([archive] image_hosts takes {host.name}={peer} where that is meant)"
    )


def _plain(name: str) -> str:
    return name.strip("[]").rstrip(".").lower()


def _address(name: str) -> Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 address of a way across stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in ipaddress.ip_network("64:ff9b::/96"):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _is_public(address: Address) -> bool:
    return address.is_global and not address.is_multicast and not address.is_reserved
