"""Whether an MLflow server answers, and how long one that is away for a while is waited for."""

import logging
import os
import time
import urllib.error
import urllib.request
from ssl import SSLError

from hashtag_core.errors import StorageError
from hashtag_core.redaction import redact

logger = logging.getLogger(__name__)

REACH_TIMEOUT_S = 10
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


def patience_s() -> float:
    """Seconds that MLflow's client goes on asking a server that does not answer, by the two variables above."""
    retries = int(os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES", QUIET["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]))
    factor = float(os.environ.get("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", QUIET["MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR"]))
    return sum((min(factor * float(2**n), LONGEST_PAUSE_S) for n in range(1, retries)), 0.0)


def wait_until_reachable(uri: str) -> None:
    """StorageError where no server answers within `patience_s`."""
    deadline = time.monotonic() + patience_s()
    told = False
    while True:
        try:
            return check_reachable(uri)
        except StorageError as error:
            if time.monotonic() >= deadline:
                raise
            if not told:
                logger.warning("%s; it is asked again for %.0f s", error, deadline - time.monotonic())
            told = True
            time.sleep(REACH_PAUSE_S)


def check_reachable(uri: str) -> None:
    """StorageError where no server answers at the URI now."""
    # Any answer will do, a refusal for want of credentials too; a certificate is MLflow's own business. Name and password
    # in the URI are MLflow's to send: urllib would take them for a part of the host.
    try:
        with urllib.request.urlopen(_without_user(uri), timeout=REACH_TIMEOUT_S):  # noqa: S310 - http(s) by the caller's check
            pass
    except urllib.error.HTTPError:
        pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if not isinstance(reason, SSLError):
            raise StorageError(f"MLflow does not answer at {redact(uri)}: {reason}") from None


def _without_user(uri: str) -> str:
    scheme, _, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
