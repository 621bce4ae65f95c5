"""Where the files in a table's folders are not those of its log: garbage, which goes, and files that are lost.

What no snapshot names was left by a killed run, or another writer's commit took it out. It is removed in an order that is safe for
a paused run too: list, then read the newest snapshot and look whether the claim still holds, then remove what the list has and the
snapshot does not. Whatever a later run wrote was written after its claim, so it is not in that list.
"""

import math
import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from hashtag_core import storage
from hashtag_core.errors import NotFoundError
from hashtag_core.output.fenced_table import DataFile, Table
from hashtag_core.storage import FileInfo

OTHERS_TIME = timedelta(days=1)
_OF_OTHERS = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""What names of data files hold that other writers of Delta tables make, and ours do not."""


class Astray(NamedTuple):
    """Files of a folder that can go, and files that the snapshot names and that are not there."""

    garbage: list[FileInfo]
    lost: list[DataFile]


def find_astray(table: Table, folder: str, keep_history_h: float = 0.0) -> Astray:
    """Hold the files below `folder` against the newest snapshot, which is read after they were listed.

    Files that a commit removed are garbage once that is `keep_history_h` hours ago, those that no commit named at once. But those
    of another writer (an OPTIMIZE that is at it) have a day to be named.
    """
    try:
        listed = storage.list_files(storage.join(table.uri, folder), hidden=True)
    except NotFoundError:
        listed = []
    table.refresh()
    root, files = table.uri.rstrip("/") + "/", table.files()
    named, removed = {root + file.path for file in files}, {root + path for path in table.removed_files()}
    older = {root + path for path in table.removed_files(math.ceil(keep_history_h))} if keep_history_h else removed
    young = datetime.now(UTC) - OTHERS_TIME
    garbage = [
        info
        for info in listed
        if info.uri not in named
        and (info.uri in older or info.uri not in removed)
        and (info.uri in removed or info.modified < young or not _OF_OTHERS.search(info.path))
    ]
    there = {info.uri for info in listed}
    missing = [file for file in files if file.path.startswith(f"{folder}/") and root + file.path not in there]
    return Astray(garbage, [file for file in missing if not storage.exists(root + file.path)])


def sweep(table: Table, folder: str, keep_history_h: float = 0.0) -> Astray:
    """Remove what is garbage; what was found. FencedError, and nothing removed, if the claim is lost."""
    found = find_astray(table, folder, keep_history_h)
    table.check()
    for info in found.garbage:
        storage.remove(info.uri)
    return found
