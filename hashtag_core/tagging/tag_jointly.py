"""What an actor does that tags with several models: read and open a run of chunks once, encode once, score and write for each model.

Each model writes chunk files of its own, as if it were alone. What goes wrong with one of them (its folder, a post that it cannot
score, the disk under its chunks) is told in its outcomes alone; what goes wrong with the part is told in those of all.
"""

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from hashtag_core import storage
from hashtag_core.encoders.shared import SharedEncoders
from hashtag_core.tagging.chunk_posts import ChunkPosts, ReadPosts, read_chunks, wanted_posts
from hashtag_core.tagging.joint_tasks import JointOutcome, JointTask
from hashtag_core.tagging.planned_work import Chunk
from hashtag_core.tagging.tag_chunks import ChunkTagger, Opener
from hashtag_core.tagging.task import ChunkOutcome, Task, Work, chunk_outcome, failed_outcome

logger = logging.getLogger(__name__)

Way = tuple[str, int]
"""How posts are opened: the rules for captions, the side of images in px."""


class JointTagger:
    """Tags chunks with the models of `works`, whose numbers are their positions. One in each actor."""

    def __init__(
        self, works: Sequence[Work], model_files: Sequence[dict[str, bytes] | None] = (), opener: Opener | None = None
    ) -> None:
        self.encoders = SharedEncoders()
        files = model_files or [None] * len(works)
        self.taggers = [
            ChunkTagger(work, content, opener, self.encoders.load) for work, content in zip(works, files, strict=True)
        ]

    def run(self, task: JointTask) -> Iterator[JointOutcome]:
        """One outcome for each chunk of each model, always all of them and in the order of `JointTask.pairs`: when Ray repeats a task
        whose actor died, it takes the rows by their position."""
        if len(task.members) == 1:
            number, own = task.members[0]
            for outcome in self.taggers[number].run(own):
                yield number, outcome
                self.encoders.forget()
            return
        outcomes = self._outcomes(task)
        fault: Exception | None = None
        for chunk, number, own in task.pairs():
            if fault is None:
                try:
                    yield number, next(outcomes)
                    continue
                except Exception as error:
                    logger.exception("%s", own.path)
                    fault = error
            yield number, failed_outcome(own, chunk, fault)

    def _outcomes(self, task: JointTask) -> Iterator[ChunkOutcome]:
        missing, faults = self._missing(task)
        able = {
            number: chunks
            for number, chunks in missing.items()
            if chunks and number not in faults and not self.taggers[number].is_stopped()
        }
        read = [chunk for chunk in task.reading.chunks if any(chunk.number in chunks for chunks in able.values())]
        ways = self._ways(list(able))
        opened = self._opened(task.reading, read, ways)
        posts_of: Mapping[int, ChunkPosts] = {}
        at: Chunk | None = None
        for chunk, number, own in task.pairs():
            tagger = self.taggers[number]
            if chunk.number not in missing[number]:
                yield _told(tagger, own, chunk)
            elif number in faults:
                yield failed_outcome(own, chunk, faults[number])
            elif tagger.is_stopped():
                yield chunk_outcome(own, chunk, stopped=True)
            else:
                while at != chunk:  # past those for which all were stopped
                    self.encoders.forget()
                    at, posts_of = next(opened)
                posts = posts_of[number]
                yield tagger.tag_chunk(own, chunk, replace(posts, rejected=list(posts.rejected)))
        self.encoders.forget()

    def _missing(self, task: JointTask) -> tuple[dict[int, set[int]], dict[int, Exception]]:
        """Of each model the chunks that have no file yet, and why it cannot do them; models that are to do some are loaded."""
        missing: dict[int, set[int]] = {}
        faults: dict[int, Exception] = {}
        for number, own in task.members:
            tagger = self.taggers[number]
            try:
                targets = {chunk.number: tagger.target(own, chunk) for chunk in own.chunks}
                missing[number] = {at for at, uri in targets.items() if not storage.exists(uri)}
                if missing[number] and not tagger.is_stopped():
                    tagger.recommender  # noqa: B018  (loaded outside of what is told as a fault of the part)
            except Exception as error:
                logger.exception("%s: model %s", own.path, tagger.work.model_name)
                missing.setdefault(number, {chunk.number for chunk in own.chunks})
                faults[number] = error
        return missing, faults

    def _ways(self, numbers: Sequence[int]) -> dict[Way, list[int]]:
        """The models by how they have posts opened; one that looks at no image takes them as another has them."""
        ways: dict[Way, list[int]] = {}
        sides = {number: self.taggers[number].recommender.encoders.image_side_px for number in numbers}
        for number in sorted(numbers, key=lambda number: sides[number] == 0):
            captions = self.taggers[number].recommender.captions.model_dump_json()
            fitting = next((way for way in ways if way[0] == captions and not sides[number]), (captions, sides[number]))
            ways.setdefault(fitting, []).append(number)
        return ways

    def _opened(
        self, task: Task, chunks: Sequence[Chunk], ways: Mapping[Way, list[int]]
    ) -> Iterator[tuple[Chunk, dict[int, ChunkPosts]]]:
        """The chunks with their posts as each model has them; those that come next are being opened, if that is done elsewhere."""
        if not chunks:
            return
        openers = {way: self.taggers[numbers[0]] for way, numbers in ways.items()}
        first = next(iter(openers.values()))
        opening = {way: ChunkPosts() for way in ways}

        def take(common: ChunkPosts, read: ReadPosts) -> None:
            posts, rows = wanted_posts(read, task, common, first.work.salt)
            for way, tagger in openers.items() if rows else ():
                tagger.open_rows(opening[way], posts, list(rows), task.path)

        ahead: deque[tuple[Chunk, ChunkPosts, dict[Way, ChunkPosts]]] = deque()
        for chunk, common in read_chunks(first.source, task, chunks, take):
            ahead.append((chunk, common, dict(opening)))
            opening |= {way: ChunkPosts() for way in ways}
            while ahead and sum(len(one.waiting) for _, _, each in ahead for one in each.values()) >= first.ahead:
                chunk_read, common_read, each = ahead.popleft()
                yield chunk_read, _by_model(ways, common_read, each)
        for chunk_read, common_read, each in ahead:
            yield chunk_read, _by_model(ways, common_read, each)


def _told(tagger: ChunkTagger, task: Task, chunk: Chunk) -> ChunkOutcome:
    """As `ChunkTagger.told`; a file that cannot be read is that model's affair."""
    try:
        return tagger.told(task, chunk)
    except Exception as error:
        logger.exception("%s, chunk %d", task.path, chunk.number)
        return failed_outcome(task, chunk, error)


def _by_model(
    ways: Mapping[Way, list[int]], common: ChunkPosts, each: Mapping[Way, ChunkPosts]
) -> dict[int, ChunkPosts]:
    """The posts of a chunk as each model has them, once all are opened. `common`: what is the same however they are opened."""
    found: dict[int, ChunkPosts] = {}
    for way, posts in each.items():
        posts.settle()
        posts.provenance, posts.carried = common.provenance, common.carried
        posts.rejected = [*common.rejected, *posts.rejected]
        found |= dict.fromkeys(ways[way], posts)
    return found
