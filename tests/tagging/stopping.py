"""Stops whatever is at work at each of its writes, removals and commits in turn."""

from collections.abc import Callable
from typing import Any

import pytest

from hashtag_core import storage
from hashtag_core.output.fenced_table import Table

WRITES = ("write_json", "write_bytes", "open_output", "create_bytes", "replace_bytes", "move", "remove", "remove_tree")


def stop_after(patch: pytest.MonkeyPatch, calls: int) -> None:
    """After so many of them the next one does not happen: KeyboardInterrupt in its place."""
    left = [calls]

    def stopping(function: Callable) -> Callable:
        def called(*arguments: Any, **options: Any) -> Any:
            if not str(arguments[0]).endswith("lease.json"):  # its heartbeat comes by the clock
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
            return function(*arguments, **options)

        return called

    for name in WRITES:
        patch.setattr(storage, name, stopping(getattr(storage, name)))
    patch.setattr(Table, "_commit_once", stopping(Table._commit_once))
