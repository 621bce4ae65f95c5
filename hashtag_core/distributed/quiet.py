"""Ray's own messages, kept from the console where they tell its developers something and a user nothing.

Nothing is lost: what workers write is in Ray's log folder all the same (`/tmp/ray/session_latest/logs`, or below TMPDIR), and with
`--verbose` it is on the console. What our own code says in a worker passes always. What Ray's C++ side writes in this process itself
(a line on restarts of actors where Ray Data starts a pool) is left to `native_lines`.
"""

import functools
import logging
import re
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from hashtag_core.native_lines import NATIVE, native_lines_apart

logger = logging.getLogger(__name__)

NOISE = (
    re.compile(NATIVE.pattern.decode()),
    re.compile(
        r"RayDeprecationWarning|RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO|FutureWarning: Tip: In future versions of Ray"
    ),
)

NOTICES = (
    "ray._private.authentication.authentication_token_setup",
    "ray.data._internal.progress",
)
"""Loggers that only advise how Ray may be set up otherwise."""

_HANDLER = "ray_print_logs"


@contextmanager
def quietly() -> Iterator[None]:
    """For all the time of a Ray, its start included."""
    for name in NOTICES:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=r".*(will be removed in Ray|RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO)")
    with native_lines_apart():
        yield


def quieten_workers() -> None:
    """Leave out `NOISE` from what workers print on this console; to be called after `ray.init`.

    Ray has no public way to it: where its dispatcher is not as it was, all passes.
    """
    try:
        from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

        handlers = [handle for name, handle in dispatcher.handlers if name == _HANDLER]
        if len(handlers) != 1:
            return
        dispatcher.remove_handler(_HANDLER)
        dispatcher.add_handler(_HANDLER, functools.partial(pass_on, handlers[0]))
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        logger.debug("Ray's messages are not filtered: %s", error)


def pass_on(handle: Callable[[Any], None], batch: Mapping[str, Any]) -> None:
    """Hand a batch of a worker's lines on without the noise."""
    lines = [line for line in batch["lines"] if not any(noise.search(str(line)) for noise in NOISE)]
    if lines:
        handle({**batch, "lines": lines})


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, with a line in place of a C++ stack; whoever hears the signal for itself meanwhile does so.

    Ray's own handler, set by `ray.init`, ends the process from within, and its native one prints addresses.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is stop:
            signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
