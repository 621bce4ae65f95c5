"""Importing MLflow: its messages off first, and while something else is waited for."""

import importlib
import logging
import os
import threading
from contextlib import suppress

from hashtag_core.tracking.server_wait import QUIET


def be_quiet() -> None:
    """Turn off MLflow's telemetry and messages, before it is imported; a variable that the environment sets already is left alone."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    # A warning for every retry, of a server that is away for a while; what fails in the end is told by its error.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


def import_meanwhile() -> threading.Thread:
    """Import MLflow in a thread: two seconds, which pass while the caller waits for something else (Ray that starts).

    What goes wrong goes wrong again where MLflow is used, and is told there.
    """

    def work() -> None:
        with suppress(Exception):
            importlib.import_module("mlflow")
            if not os.environ.get("MLFLOW_TRACKING_URI", "").startswith(("http://", "https://")):
                importlib.import_module("mlflow.store.tracking.sqlalchemy_store")

    be_quiet()
    thread = threading.Thread(target=work, name="import-mlflow")
    thread.start()
    return thread
