"""Finds the posts that kill the process which reads them: a crash in a decoder, more memory than there is.

A chunk whose actor died is begun again alone, and that is noted in `_state/`. Where the note is found, that attempt died too:
the posts then go one by one through a child process (`isolate_child`) that says which it takes. The one in hand when it is
killed is suspected, and found guilty if it alone kills a second child.
"""

import json
import logging
import os
import subprocess
import sys
from dataclasses import asdict, replace

from hashtag_core.data.parquet_rows import Rejected
from hashtag_core.errors import HashtagError
from hashtag_core.tagging.planned_work import Chunk
from hashtag_core.tagging.task import Task, Work

logger = logging.getLogger(__name__)

REASON = "killed the process that read it"


def find_killers(work: Work, task: Task, chunk: Chunk) -> list[Rejected]:
    """The posts of the chunk that kill a process. `work.model_folder` is on this node.

    HashtagError if it is killed with no post in hand, or fails otherwise.
    """
    rows = range(chunk.first_row, chunk.first_row + chunk.rows)
    left_out, killers = set(task.left_out), list[Rejected]()
    while suspect := _probe(work, replace(task, chunks=[chunk], left_out=sorted(left_out))):
        row, post_id = suspect
        logger.warning("%s, row %d: a process was killed that read it, post %r", task.path, row, post_id)
        if _probe(work, replace(task, chunks=[chunk], left_out=[other for other in rows if other != row])):
            killers.append(Rejected(task.path, row, post_id, REASON))
        left_out |= set(range(chunk.first_row, row + 1))
    return killers


def _probe(work: Work, task: Task) -> tuple[int, str] | None:
    """Row and id of the post that a child was killed by; None if it lived."""
    asked = json.dumps({"work": asdict(work), "task": asdict(task)}, default=list)
    done = subprocess.run(
        [sys.executable, "-m", "hashtag_core.tagging.isolate_child"],
        input=asked,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
    )
    if done.returncode == 0:
        return None
    where = f"{task.path}, chunk {task.chunks[0].number}"
    if done.returncode > 0:
        raise HashtagError(
            f"{where}: the process that tries its posts one by one ended with {done.returncode}, see its log"
        )
    in_hand = json.loads(done.stdout.splitlines()[-1]) if done.stdout else None
    if in_hand is None:
        raise HashtagError(
            f"{where}: the process that reads it is killed (signal {-done.returncode}), by no post of it"
        )
    return in_hand["row"], in_hand["post_id"]
