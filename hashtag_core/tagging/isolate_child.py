"""The child process of `isolate_killers`: tags the posts of a chunk one by one, and keeps nothing.

stdin: the work and the task as JSON. stdout: a JSON line with row and id before each post, `null` after it.
"""

import json
import os
import sys
from functools import partial
from typing import Any

from hashtag_core.recommend.policy import Policy
from hashtag_core.tagging.chunk_posts import ChunkPosts, ReadPosts, read_chunks
from hashtag_core.tagging.histories import HistoryWork
from hashtag_core.tagging.tag_chunks import ChunkTagger
from hashtag_core.tagging.task import Task, Work


class _Prober(ChunkTagger):
    def __init__(self, work: Work, channel: int) -> None:
        super().__init__(work)
        self._told_to = channel

    def probe(self, task: Task) -> None:
        self.recommender  # noqa: B018  (loaded with no post in hand)
        for _ in read_chunks(self.source, task, task.chunks, partial(self._open, task)):
            pass

    def _open(self, task: Task, posts: ChunkPosts, read: ReadPosts) -> None:
        left_out = set(task.left_out)
        for row in read.rows:
            if row in left_out:
                continue
            piece = read.between(row, row + 1)
            self._say({"row": row, "post_id": piece.posts["post_id"][0].as_py()})
            one = ChunkPosts()
            super()._open(task, one, piece)
            one.settle()
            self._tag(one, task)
            self._say(None)

    def _say(self, value: Any) -> None:
        os.write(self._told_to, (json.dumps(value) + "\n").encode())


def main() -> None:
    """Probe the chunk of the task on stdin. What libraries print goes to stderr."""
    asked = json.load(sys.stdin)
    channel = os.dup(1)
    os.dup2(2, 1)
    history = asked["work"]["history"]
    asked["work"] |= {"history": history and HistoryWork(**history), "policy": Policy()}
    _Prober(Work(**asked["work"]), channel).probe(Task.from_json(json.dumps(asked["task"])))


if __name__ == "__main__":
    main()
