"""Whether an MLflow server answers, and how long one that is away for a while is waited for."""

import logging
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException
from ssl import SSLError

from hashtag_core.errors import StorageError
from hashtag_core.redaction import redact

logger = logging.getLogger(__name__)

REACH_TIMEOUT_S = 10
BEGIN_BYTES = 256
LEFT_TO_MLFLOW = (401, 403, 407, 429)
"""Answers of a server that has yet to be told who asks, or is asked too often."""
REMEDY = "MLFLOW_TRACKING_URI names the tracking server"
REACH_PAUSE_S = 1.0
LONGEST_PAUSE_S = 120.0
"""urllib3's own limit."""

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # A server that goes away in the middle is asked again after 0 + 2 + 4 + ... + 64 + 120 seconds: away for two minutes, it is
    # there at the last time but one or at the last.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "8",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}


class _AwayError(StorageError):
    """Nothing answers, which may change; another service in MLflow's place stays one."""


def patience_s() -> float:
    """Seconds that MLflow's client goes on asking a server that does not answer, by the two variables above."""
    retries = int(os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES", QUIET["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]))
    factor = float(os.environ.get("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", QUIET["MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR"]))
    return sum((min(factor * float(2**n), LONGEST_PAUSE_S) for n in range(1, retries)), 0.0)


def wait_until_reachable(uri: str) -> None:
    """StorageError where no server answers within `patience_s`, and at once where what answers is no tracking server."""
    deadline = time.monotonic() + patience_s()
    warned = False
    while True:
        try:
            return check_reachable(uri)
        except _AwayError as error:
            if time.monotonic() >= deadline:
                raise
            if not warned:
                logger.warning("%s; it is asked again for %.0f s", error, deadline - time.monotonic())
            warned = True
            time.sleep(REACH_PAUSE_S)


def check_reachable(uri: str) -> None:
    """StorageError where nothing answers at the URI now, or what answers is no tracking server.

    A refusal for want of credentials, a fault of the server and a certificate are MLflow's own business.
    """
    # Name and password in the URI are MLflow's to send: urllib would take them for a part of the host.
    asked = f"{_without_user(uri).rstrip('/')}/api/2.0/mlflow/experiments/search?max_results=1"
    try:
        with urllib.request.urlopen(asked, timeout=REACH_TIMEOUT_S) as answer:  # noqa: S310 - http(s) by the caller's check
            status, begin = answer.status, answer.read(BEGIN_BYTES)
    except urllib.error.HTTPError as error:
        with error:
            status, begin = error.code, error.read(BEGIN_BYTES)
    except HTTPException as error:
        message = f"{type(error).__name__}: {error}"[:80]
        raise StorageError(f"what answers at {redact(uri)} speaks no HTTP ({message}): {REMEDY}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if not isinstance(reason, SSLError):
            message = f"MLflow does not answer at {redact(uri)}: {reason}{_by_proxy(uri)}"
            raise _AwayError(f"{message} ({REMEDY})") from None
        return
    if status not in LEFT_TO_MLFLOW and status < 500 and begin.lstrip()[:1] != b"{":
        raise StorageError(f"what answers at {redact(uri)} is no MLflow server (HTTP {status}, no JSON): {REMEDY}")


def _by_proxy(uri: str) -> str:
    """Which variable names the proxy that was asked; empty where none was."""
    parts = urllib.parse.urlsplit(_without_user(uri))
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy is None or urllib.request.proxy_bypass(parts.netloc):
        return ""
    return (
        f", through the proxy {redact(proxy)} of {parts.scheme.upper()}_PROXY; NO_PROXY={parts.hostname} goes past it"
    )


def _without_user(uri: str) -> str:
    scheme, _, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
