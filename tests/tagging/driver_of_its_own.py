"""A tagging run in a process of its own, without Ray, that stops itself (SIGSTOP) before one of its writes.

    python -m tests.tagging.driver_of_its_own ARCHIVE OUT MODEL NUMBER

NUMBER 0: before none. MACHINE in the environment is the name of the machine that the process believes to be on: a lease of
another machine is taken over once it was silent for LEASE_S seconds.
"""

import os
import signal
import sys

import pytest

from hashtag_core.errors import HashtagError
from hashtag_core.output import lease
from tests.distributed.in_process import tag_in_process
from tests.tagging.outputs import run
from tests.tagging.pausing import Writes

LEASE_S = 0.5


def main(archive: str, out: str, model: str, number: str) -> int:
    """0: done; 1: an error of ours, told on stderr."""
    stopped_before = int(number)

    def at(count: int) -> None:
        if count == stopped_before:
            os.kill(os.getpid(), signal.SIGSTOP)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(lease.Lease.__init__.__kwdefaults__, "ttl_s", LEASE_S)
        patch.setattr(lease, "_here", lambda: os.environ["MACHINE"])
        beat = lease.Lease._beat
        tag_in_process(patch)
        writes = Writes(patch)
        patch.setattr(lease.Lease, "_beat", beat)  # it stops with its process
        try:
            with writes.of_this_thread(at):
                run(archive, out, model)
        except HashtagError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
