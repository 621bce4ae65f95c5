"""What a tagging actor does: read a run of chunks, open, encode, score and write them, one file a chunk.

A chunk file holds TAGGED rows, and in its Parquet metadata the rows of the chunk that were rejected: both appear at
once or not at all. A chunk whose file is there is not done again. Knows no ray: `tag_run` gives it to actors.
"""

import json
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hashtag_core import storage
from hashtag_core.config import CaptionsSection
from hashtag_core.data.batches import FeaturizedPosts
from hashtag_core.data.history_batch import ArrayPosts, History
from hashtag_core.data.posts import READ_BUFFER_BYTES, Rejected, normalise_posts, unreadable
from hashtag_core.distributed.tag_history import Sidecar, open_vectors, vector_table
from hashtag_core.distributed.tag_killers import find_killers
from hashtag_core.distributed.tag_plan import REJECTED_KEY, Chunk
from hashtag_core.distributed.tag_rejects import tell
from hashtag_core.distributed.tag_task import Task, Work, local_model
from hashtag_core.errors import AlreadyExistsError, ConfigError, HashtagError, IntegrityError
from hashtag_core.recommend.images import ImagePlaces
from hashtag_core.recommend.posts import READ, OpenedPosts
from hashtag_core.recommend.recommender import Recommender
from hashtag_core.schema import TAGGED

logger = logging.getLogger(__name__)

READ_ROWS, READ_BYTES = 64, 64 << 20
"""Rows whose image bytes are in memory at once, fewer where rows are large; of the rest of a chunk only the decoded
pixels are."""


Opening = Callable[[], OpenedPosts]
"""Waits for posts that are being opened."""

Opener = Callable[[pa.Table, ImagePlaces, CaptionsSection, int], Opening]
"""Begins to open posts elsewhere: `(posts, places, captions, side_px)` as `recommend.posts.open_posts`."""


@dataclass
class ChunkPosts:
    """Posts of one chunk with their row numbers in the part, and the rows that are none."""

    rows: list[int] = field(default_factory=list)
    opened: OpenedPosts = field(default_factory=OpenedPosts)
    rejected: list[Rejected] = field(default_factory=list)
    waiting: deque[Callable[[], None]] = field(default_factory=deque)
    """Each adds a batch that is being opened elsewhere, in their order."""

    def settle(self, left: int = 0) -> None:
        """Wait until no more than `left` batches are being opened."""
        while len(self.waiting) > left:
            self.waiting.popleft()()


class ChunkTagger:
    """Tags chunks with one model, which is loaded with the first task. One in each actor.

    With an `opener` posts are opened by it, `work.decode_ahead` batches ahead of those that are scored; else here, in turn.
    """

    def __init__(self, work: Work, model_files: dict[str, bytes] | None = None, opener: Opener | None = None) -> None:
        self.work = work
        self._opener = opener
        self._model_files = model_files
        self._recommender: Recommender | None = None
        self._is_stopped = False

    @property
    def recommender(self) -> Recommender:
        """The model, loaded once; its encoders run as those of the first actor did."""
        if self._recommender is None:
            work = self.work
            loaded = Recommender.load(
                str(local_model(work.model_folder, work.model_hash, self._model_files)),
                work.device,
                name=work.model_name,
                version=work.model_version,
                threads=work.threads,
                places=ImagePlaces(
                    work.archive,
                    None if work.image_prefixes is None else tuple(work.image_prefixes),
                    work.max_image_bytes,
                ),
                policy=work.policy,
                **work.encoding,
            )
            if loaded.loaded.version != work.model_hash:
                raise IntegrityError(
                    f"{work.model_folder}: model {work.model_hash} expected, found {loaded.loaded.version}"
                )
            _pin_backends(work.encoders, loaded.encoders.backends)
            self._recommender = loaded
        return self._recommender

    def run(self, task: Task) -> Iterator[dict[str, Any]]:
        """One row of OUTCOME for each chunk, always all of them and in the task's order: when Ray repeats a task whose
        actor died, it takes the rows by their position. An exception is told in `error`: it would end the whole run.
        """
        outcomes = self._outcomes(task)
        fault: Exception | None = None
        for chunk in task.chunks:
            if fault is None:
                try:
                    yield next(outcomes)
                    continue
                except Exception as error:
                    logger.exception("%s", task.path)
                    fault = error
            yield _outcome(task, chunk, error=f"{type(fault).__name__}: {fault}")

    def _outcomes(self, task: Task) -> Iterator[dict[str, Any]]:
        if self._stopped():
            yield from (_outcome(task, chunk, stopped=True) for chunk in task.chunks)
            return
        missing = [chunk for chunk in task.chunks if not storage.exists(self._target(task, chunk))]
        if missing and not task.alone:
            self.recommender  # noqa: B018  (loaded outside of what is told as a fault of the part)
        posts = self._opened(task, [] if task.alone else missing)
        for chunk in task.chunks:
            if chunk not in missing:
                yield self._told(task, chunk)
            elif self._stopped():
                yield _outcome(task, chunk, stopped=True)
            else:
                yield self._alone(task, chunk) if task.alone else self._do(task, chunk, next(posts)[1])

    def _stopped(self) -> bool:
        """Whether no more chunks are to be begun; asked before each."""
        if not self._is_stopped and self.work.stop is not None:
            self._is_stopped = storage.exists(self.work.stop)
        return self._is_stopped

    def _do(self, task: Task, chunk: Chunk, posts: ChunkPosts) -> dict[str, Any]:
        started = time.monotonic()
        try:
            if task.encode:
                vectors = self._vectors(posts, task.path)
                _write(self._target(task, chunk), vectors, [])
                return _outcome(task, chunk, vectors.num_rows, seconds=time.monotonic() - started)
            tagged = self._tag(posts, task)
            _write(self._target(task, chunk), tagged, posts.rejected)
        except Exception as error:
            logger.exception("%s, chunk %d", task.path, chunk.number)
            return _outcome(task, chunk, error=f"{type(error).__name__}: {error}")
        statuses = Counter(tagged["status"].to_pylist())
        return _outcome(task, chunk, tagged.num_rows, statuses, time.monotonic() - started, tell(posts.rejected))

    def _alone(self, task: Task, chunk: Chunk) -> dict[str, Any]:
        """As `_do`; where the chunk was begun so before and did not end, the posts that kill a process are rejected."""
        begun = self._target(task, chunk).removesuffix(".parquet") + ".begun"
        killers: list[Rejected] = []
        if storage.exists(begun):
            folder = str(local_model(self.work.model_folder, self.work.model_hash, self._model_files))
            killers = find_killers(replace(self.work, model_folder=folder), task, chunk)
        else:
            storage.write_json(begun, {"part": task.path, "chunk": chunk.number})
        self.recommender  # noqa: B018
        left_out = [*task.left_out, *(item.row for item in killers if item.row is not None)]
        _, posts = next(self._opened(replace(task, left_out=left_out), [chunk]))
        posts.rejected += killers
        outcome = self._do(task, chunk, posts)
        storage.remove(begun)
        return outcome

    def _told(self, task: Task, chunk: Chunk) -> dict[str, Any]:
        """The outcome of a chunk that an earlier attempt wrote; its report was perhaps lost with the actor."""
        with storage.open_input(self._target(task, chunk)) as source:
            file = pq.ParquetFile(source)
            if task.encode:
                return _outcome(task, chunk, file.metadata.num_rows)
            statuses = file.read(["status"])["status"].to_pylist()
            rejected = [Rejected(**item) for item in json.loads(file.metadata.metadata[REJECTED_KEY])]
        return _outcome(task, chunk, len(statuses), Counter(statuses), rejected=tell(rejected))

    def _target(self, task: Task, chunk: Chunk) -> str:
        folder = self.work.history.vectors if task.encode and self.work.history else self.work.staging
        return storage.join(folder, task.part_id, f"{chunk.number:05d}.parquet")

    def _opened(self, task: Task, chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, ChunkPosts]]:
        """The chunks with their posts, images decoded; those that come next are being decoded, if that is done elsewhere."""
        ahead: deque[tuple[Chunk, ChunkPosts]] = deque()
        for read in self._read(task, chunks):
            ahead.append(read)
            while ahead and sum(len(posts.waiting) for _, posts in ahead) >= self._ahead:
                ahead[0][1].settle()
                yield ahead.popleft()
        for chunk, posts in ahead:
            posts.settle()
            yield chunk, posts

    @property
    def _ahead(self) -> int:
        return self.work.decode_ahead if self._opener is not None else 0

    def _read(self, task: Task, chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, ChunkPosts]]:
        """The chunks with their posts, some of them still being opened. Rows from which on the part is broken are rejected."""
        if not chunks:
            return
        uri = storage.join(self.work.archive, task.path)
        waiting = list(chunks)
        held = ChunkPosts()
        at = 0
        try:
            with storage.open_input(uri) as source:
                file = pq.ParquetFile(source, pre_buffer=False, buffer_size=READ_BUFFER_BYTES)
                group = file.metadata.row_group(waiting[0].group)
                columns = [name for name in READ.names if name in file.schema_arrow.names]
                rows = max(1, min(READ_ROWS, READ_BYTES * group.num_rows // max(1, group.total_byte_size)))
                for batch in file.iter_batches(batch_size=rows, row_groups=[waiting[0].group], columns=columns):
                    end = at + batch.num_rows
                    while waiting and waiting[0].offset < end:
                        chunk = waiting[0]
                        first, last = max(at, chunk.offset), min(end, chunk.offset + chunk.rows)
                        if first < last:
                            part_row = chunk.first_row + first - chunk.offset
                            self._open(held, batch.slice(first - at, last - first), part_row, task)
                        if last < chunk.offset + chunk.rows:
                            break
                        yield chunk, held
                        held = ChunkPosts()
                        waiting.pop(0)
                    at = end
                    if not waiting:
                        return
                raise pa.ArrowInvalid(f"{at} rows in row group {waiting[0].group}, its footer says {group.num_rows}")
        except (pa.ArrowException, OSError) as error:
            reason = unreadable(uri, error)
            for chunk in waiting:
                seen = max(0, at - chunk.offset)
                lost = range(chunk.first_row + seen, chunk.first_row + chunk.rows)
                held.rejected += [Rejected(task.path, row, None, reason) for row in lost if row not in task.left_out]
                yield chunk, held
                held = ChunkPosts()

    def _open(self, held: ChunkPosts, batch: pa.RecordBatch, first_row: int, task: Task) -> None:
        """Add the posts of the batch, at once or when they are waited for."""
        posts, rejected = normalise_posts(pa.Table.from_batches([batch]), task.path, first_row, READ)
        left_out, faulty = set(task.left_out), {item.row for item in rejected}
        numbers = [row for row in range(first_row, first_row + batch.num_rows) if row not in faulty]
        posts = posts.filter(pa.array([row not in left_out for row in numbers], pa.bool_()))
        rows = [row for row in numbers if row not in left_out]
        held.rejected += [item for item in rejected if item.row not in left_out]
        if not rows:
            return
        held.waiting.append(partial(self._take, held, posts, rows, task.path, self._begin(posts)))
        held.settle(self._ahead)

    def _begin(self, posts: pa.Table) -> Opening:
        """Begin to open posts elsewhere, or wait with it until they are wanted."""
        recommender = self.recommender
        if self._opener is None:
            return partial(recommender.open_posts, posts, archive=self.work.archive)
        places = replace(recommender.places, archive=self.work.archive)
        return self._opener(posts, places, recommender.captions, recommender.encoders.image_side_px)

    def _take(self, held: ChunkPosts, posts: pa.Table, rows: list[int], path: str, opening: Opening) -> None:
        """Add the posts at those rows of the part once they are opened; one that cannot even be opened is rejected."""
        try:
            opened = opening()
        except HashtagError:
            raise
        except Exception as fault:  # noqa: BLE001
            logger.warning("%s: rows %d on, one by one after %r", path, rows[0], fault)
            opened, kept = OpenedPosts(), []
            for position, row in enumerate(rows):
                try:
                    opened.extend(self._begin(posts.slice(position, 1))())
                    kept.append(row)
                except Exception as error:  # noqa: BLE001  (whatever a post brings about is that post's fault alone)
                    post_id = posts["post_id"][position].as_py()
                    held.rejected.append(Rejected(path, row, post_id, f"{type(error).__name__}: {error}"))
            rows = kept
        held.opened.extend(opened)
        held.rows += rows

    @cached_property
    def _past(self) -> History | None:
        """The histories of all rows of the plan."""
        if self.work.history is None:
            return None
        sidecar, encoders = Sidecar.open(self.work.history.sidecar), self.recommender.encoders
        rule = self.recommender.loaded.history
        reads = rule.reads if rule is not None else ()
        dims = {kind: encoders.kinds[kind].dim for kind in reads}
        vectors = open_vectors(self.work.history, len(sidecar.rows), dims) if reads else {}
        return History(sidecar.rows, ArrayPosts(sidecar.tag_offsets, sidecar.tag_indices, vectors), reads)

    def _recommend(self, posts: ChunkPosts, task: Task, positions: Sequence[int] | None = None) -> pa.Table:
        """TAGGED rows of the posts, or of some of them."""
        rows = posts.rows if positions is None else [posts.rows[position] for position in positions]
        opened = posts.opened if positions is None else posts.opened.select(positions)
        if self._past is None:
            return self.recommender.tag(opened, self.work.top_k)
        past = self._past.select(np.array(rows, dtype=np.int64) + task.begin)
        return self.recommender.tag(opened, self.work.top_k, history=past)

    def _tag(self, posts: ChunkPosts, task: Task) -> pa.Table:
        """The TAGGED rows. After two failures post by post: one that fails alone too is added to `posts.rejected`.

        Our own errors (storage, integrity) and a model that cannot even score an empty post are nobody's fault among
        the posts: they are raised.
        """
        for attempt in (1, 2):
            try:
                return self._recommend(posts, task)
            except (HashtagError, OSError, MemoryError):
                raise
            except Exception as error:  # noqa: BLE001
                logger.warning("%s: %d posts, attempt %d: %r", task.path, len(posts.opened), attempt, error)
        self.recommender.tag(OpenedPosts([""], [None], [None], [None], [None], ["empty"], [None]), self.work.top_k)
        tables = [TAGGED.empty_table()]
        for position, row in enumerate(posts.rows):
            try:
                tables.append(self._recommend(posts, task, [position]))
            except Exception as error:  # noqa: BLE001
                post_id = posts.opened.post_ids[position]
                posts.rejected.append(Rejected(task.path, row, post_id, f"{type(error).__name__}: {error}"))
        return pa.concat_tables(tables)

    def _vectors(self, posts: ChunkPosts, path: str) -> pa.Table:
        """What histories read of the posts; one that cannot be encoded has nothing."""
        rule = self.recommender.loaded.history
        reads = rule.reads if rule is not None else ()
        try:
            return _vector_rows(posts.rows, self.recommender.featurize(posts.opened), reads)
        except (HashtagError, OSError, MemoryError):
            raise
        except Exception as fault:  # noqa: BLE001
            logger.warning("%s: %d posts, one by one after %r", path, len(posts.opened), fault)
        tables = [_vector_rows([], self.recommender.featurize(OpenedPosts()), reads)]
        for position, row in enumerate(posts.rows):
            try:
                features = self.recommender.featurize(posts.opened.select([position]))
                tables.append(_vector_rows([row], features, reads))
            except Exception as error:  # noqa: BLE001  (that post alone counts as having neither image nor caption)
                logger.warning("%s, row %d: %r", path, row, error)
        return pa.concat_tables(tables)


def _vector_rows(rows: Sequence[int], features: FeaturizedPosts, reads: Sequence[str]) -> pa.Table:
    present = {"image_vector": features.image_present, "text_vector": features.text_present}
    return vector_table(rows, {kind: (features.arrays[kind], present[kind]) for kind in reads})


def _pin_backends(uri: str, backends: dict[str, str]) -> None:
    """Record how the encoders run here, or check it against the first actor's: scores of two backends are not mixed."""
    try:
        storage.create_bytes(uri, json.dumps(backends).encode())
    except AlreadyExistsError:
        before = storage.read_json(uri)
        if before != backends:
            raise ConfigError(
                f"the encoders run as {backends} here, but the output was begun with {before} ({uri}): "
                "set encoders.backend and encoders.precision to those, or take another --out"
            ) from None


def _write(uri: str, tagged: pa.Table, rejected: list[Rejected]) -> None:
    told = json.dumps([asdict(item) for item in sorted(rejected, key=lambda item: item.row or 0)], ensure_ascii=False)
    with storage.open_output(uri) as file:
        pq.write_table(tagged.replace_schema_metadata({REJECTED_KEY: told.encode()}), file, compression="zstd")


def _outcome(
    task: Task,
    chunk: Chunk,
    tagged: int = 0,
    statuses: dict[str, int] | None = None,
    seconds: float = 0.0,
    rejected: dict[str, list[int]] | None = None,
    error: str | None = None,
    stopped: bool = False,
) -> dict[str, Any]:
    return {
        "part_id": task.part_id,
        "chunk": chunk.number,
        "tagged": tagged,
        "statuses": json.dumps(statuses or {}),
        "rejected": json.dumps(rejected or {}),
        "seconds": seconds,
        "error": error,
        "stopped": stopped,
    }
