"""What a tagging actor does: read a run of chunks, open, encode, score and write them, one file a chunk.

A chunk file holds rows of the table, and in its metadata the rows of the chunk that were rejected: both appear at once or
not at all. A chunk whose file is there is not done again. Knows no ray: `distributed` gives it to actors.
"""

import json
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hashtag_core import storage
from hashtag_core.config import ArchiveSection, CaptionsSection
from hashtag_core.data.batches import FeaturizedPosts
from hashtag_core.data.history_batch import ArrayPosts, History
from hashtag_core.data.model_files import local_model
from hashtag_core.data.parquet_rows import Rejected
from hashtag_core.data.tagged_archive import Source
from hashtag_core.encoders import Encoders, load_encoders
from hashtag_core.errors import AlreadyExistsError, ConfigError, HashtagError, ImageError, IntegrityError, ScoreError
from hashtag_core.faults import raise_if_machine
from hashtag_core.output.chunk_files import read_chunk, write_chunk
from hashtag_core.recommend.image_uris import ImagePlaces
from hashtag_core.recommend.read_posts import READ, OpenedPosts
from hashtag_core.recommend.recommender import Recommender
from hashtag_core.schema import TABLE, TAGGED, RejectedLine
from hashtag_core.tagging.chunk_posts import ChunkPosts, ReadPosts, read_chunks, wanted_posts
from hashtag_core.tagging.histories import Sidecar, open_vectors, vector_table
from hashtag_core.tagging.isolate_killers import find_killers
from hashtag_core.tagging.planned_work import Chunk
from hashtag_core.tagging.reject_limit import tell
from hashtag_core.tagging.task import ChunkOutcome, Task, Work, chunk_outcome, failed_outcome

logger = logging.getLogger(__name__)

Opening = Callable[[], OpenedPosts]
"""Waits for posts that are being opened."""

Opener = Callable[[pa.Table, ImagePlaces, CaptionsSection, int], Opening]
"""Begins to open posts elsewhere: `(posts, places, captions, side_px)` as `recommend.posts.open_posts`."""


class ChunkTagger:
    """Tags chunks with one model, which is loaded with the first task. One in each actor.

    With an `opener` posts are opened by it, `work.decode_ahead` batches ahead of those that are scored; else here, in turn.
    `encoders_by`: what loads the model's encoders.
    """

    def __init__(
        self,
        work: Work,
        model_files: dict[str, bytes] | None = None,
        opener: Opener | None = None,
        encoders_by: Callable[..., Encoders] = load_encoders,
    ) -> None:
        self.work = work
        self._encoders_by = encoders_by
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
                    tuple(work.image_hosts),
                ),
                policy=work.policy,
                diversity=work.diversity,
                encoders_by=self._encoders_by,
                **work.encoding,
            )
            if loaded.loaded.version != work.model_hash:
                raise IntegrityError(
                    f"{work.model_folder}: model {work.model_hash} expected, found {loaded.loaded.version}"
                )
            if work.extra_tags:
                loaded.add_tags(work.extra_tags)
            _pin_backends(work.encoders, loaded.encoders.backends)
            self._recommender = loaded
        return self._recommender

    def run(self, task: Task) -> Iterator[ChunkOutcome]:
        """One outcome for each chunk, always all of them and in the task's order: when Ray repeats a task whose
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
            yield failed_outcome(task, chunk, fault)

    def _outcomes(self, task: Task) -> Iterator[ChunkOutcome]:
        if self.is_stopped():
            yield from (chunk_outcome(task, chunk, stopped=True) for chunk in task.chunks)
            return
        missing = [chunk for chunk in task.chunks if not storage.exists(self.target(task, chunk))]
        if missing and not task.alone:
            self.recommender  # noqa: B018  (loaded outside of what is told as a fault of the part)
        posts = self._opened(task, [] if task.alone else missing)
        for chunk in task.chunks:
            if chunk not in missing:
                yield self.told(task, chunk)
            elif self.is_stopped():
                yield chunk_outcome(task, chunk, stopped=True)
            else:
                yield self._alone(task, chunk) if task.alone else self.tag_chunk(task, chunk, next(posts)[1])

    def is_stopped(self) -> bool:
        """Whether no more chunks are to be begun; asked before each."""
        if not self._is_stopped and self.work.stop is not None:
            self._is_stopped = storage.exists(self.work.stop)
        return self._is_stopped

    def tag_chunk(self, task: Task, chunk: Chunk, posts: ChunkPosts) -> ChunkOutcome:
        """Tag (or encode) the posts of a chunk and write its file; what fails is told in the outcome."""
        started = time.monotonic()
        try:
            if task.encode:
                vectors = self._vectors(posts, task.path)
                with storage.open_output(self.target(task, chunk)) as file:
                    pq.write_table(vectors, file, compression="zstd")
                return chunk_outcome(task, chunk, vectors.num_rows, seconds=time.monotonic() - started)
            tagged = self._tag(posts, task)
            ordered = sorted(posts.rejected, key=lambda item: item.row or 0)
            lines = [_line(item, task, posts) for item in ordered]
            write_chunk(self.target(task, chunk), tagged, lines, posts.carried)
        except Exception as error:
            logger.exception("%s, chunk %d", task.path, chunk.number)
            return failed_outcome(task, chunk, error)
        statuses = Counter(tagged["status"].to_pylist())
        seconds = time.monotonic() - started
        return chunk_outcome(
            task, chunk, tagged.num_rows, statuses, seconds, tell(posts.rejected), kept=len(posts.carried)
        )

    def _alone(self, task: Task, chunk: Chunk) -> ChunkOutcome:
        """As `tag_chunk`; where the chunk was begun so before and did not end, the posts that kill a process are rejected."""
        begun = self.target(task, chunk).removesuffix(".parquet") + ".begun"
        killers: list[Rejected] = []
        if storage.exists(begun):
            folder = str(local_model(self.work.model_folder, self.work.model_hash, self._model_files))
            killers = find_killers(replace(self.work, model_folder=folder), task, chunk)
        else:
            storage.write_json(begun, {"part": task.path, "chunk": chunk.number})
        self.recommender  # noqa: B018
        left_out = [*task.left_out, *(item.row for item in killers if item.row is not None)]
        spared = replace(task, left_out=left_out)
        try:
            _, posts = next(self._opened(spared, [chunk]))
            posts.rejected += killers
            return self.tag_chunk(task, chunk, posts)
        finally:  # this process lives: an error is no sign of a post that kills
            storage.remove(begun)

    def told(self, task: Task, chunk: Chunk) -> ChunkOutcome:
        """The outcome of a chunk that an earlier attempt wrote; its report was perhaps lost with the actor."""
        if task.encode:
            with storage.open_input(self.target(task, chunk)) as source:
                return chunk_outcome(task, chunk, pq.ParquetFile(source).metadata.num_rows)
        content = read_chunk(self.target(task, chunk))
        statuses = content.rows["status"].to_pylist()
        lines = content.rejected.to_pylist()
        rejected = [Rejected(line["part"], line["row"], line["post_id"], line["reason"]) for line in lines]
        return chunk_outcome(
            task, chunk, len(statuses), Counter(statuses), rejected=tell(rejected), kept=len(content.carried)
        )

    def target(self, task: Task, chunk: Chunk) -> str:
        """The file of a chunk."""
        folder = self.work.history.vectors if task.encode and self.work.history else self.work.staging
        return storage.join(folder, task.part_key, f"{chunk.number:05d}.parquet")

    def _opened(self, task: Task, chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, ChunkPosts]]:
        """The chunks with their posts, images decoded; those that come next are being decoded, if that is done elsewhere."""
        ahead: deque[tuple[Chunk, ChunkPosts]] = deque()
        for read in read_chunks(self.source, task, chunks, partial(self._open, task)):
            ahead.append(read)
            while ahead and sum(len(posts.waiting) for _, posts in ahead) >= self.ahead:
                ahead[0][1].settle()
                yield ahead.popleft()
        for chunk, posts in ahead:
            posts.settle()
            yield chunk, posts

    @property
    def ahead(self) -> int:
        """Batches that are opened ahead of those that are scored."""
        return self.work.decode_ahead if self._opener is not None else 0

    @cached_property
    def source(self) -> Source:
        """The archive; of layouts other than Parquet it is listed here once."""
        return Source(self.work.source, ArchiveSection(**self.work.reading))

    def _open(self, task: Task, chunk_posts: ChunkPosts, read: ReadPosts) -> None:
        """Add the posts, at once or when they are waited for."""
        posts, rows = wanted_posts(read, task, chunk_posts, self.work.salt)
        if rows:
            self.open_rows(chunk_posts, posts, rows, task.path)

    def open_rows(self, chunk_posts: ChunkPosts, posts: pa.Table, rows: list[int], path: str) -> None:
        """Add the posts of those rows of a part, at once or when they are waited for."""
        posts = posts.select(READ.names)
        chunk_posts.waiting.append(partial(self._take, chunk_posts, posts, rows, path, self._begin(posts)))
        chunk_posts.settle(self.ahead)

    def _begin(self, posts: pa.Table) -> Opening:
        """Begin to open posts elsewhere, or wait with it until they are wanted."""
        recommender = self.recommender
        if self._opener is None:
            return partial(recommender.open_posts, posts, archive=self.work.archive)
        places = replace(recommender.places, archive=self.work.archive)
        return self._opener(posts, places, recommender.captions, recommender.encoders.image_side_px)

    def _take(self, chunk_posts: ChunkPosts, posts: pa.Table, rows: list[int], path: str, opening: Opening) -> None:
        """Add the posts at those rows of the part once they are opened; one that cannot even be opened is rejected."""
        fault: Exception | None = None
        try:
            opened = opening()
        except Exception as error:  # noqa: BLE001
            _raise_unless_content(error, path)
            fault = error
        if fault is not None:
            logger.warning("%s: rows %d on, one by one after %r", path, rows[0], fault)
            opened, kept = OpenedPosts(), []
            for position, row in enumerate(rows):
                try:
                    opened.extend(self._begin(posts.slice(position, 1))())
                    kept.append(row)
                except Exception as error:  # noqa: BLE001  (whatever else a post brings about is that post's fault alone)
                    _raise_unless_content(error, path)
                    post_id = posts["post_id"][position].as_py()
                    chunk_posts.rejected.append(Rejected(path, row, post_id, f"{type(error).__name__}: {error}"))
            rows = kept
        chunk_posts.opened.extend(opened)
        chunk_posts.rows += rows

    @cached_property
    def _past(self) -> History | None:
        """The histories of all rows of the archive."""
        if self.work.history is None:
            return None
        sidecar, encoders = self._sidecar, self.recommender.encoders
        if sidecar is None:
            return None
        rule = self.recommender.loaded.history
        reads = rule.reads if rule is not None else ()
        dims = {kind: encoders.kinds[kind].dim for kind in reads}
        vectors = open_vectors(self.work.history, len(sidecar.rows), dims) if reads else {}
        return History(sidecar.rows, ArrayPosts(sidecar.tag_offsets, sidecar.tag_indices, vectors), reads)

    @cached_property
    def _sidecar(self) -> Sidecar | None:
        return None if self.work.history is None else Sidecar.open(self.work.history.sidecar)

    def _recommend(self, posts: ChunkPosts, task: Task, positions: Sequence[int] | None = None) -> pa.Table:
        """Rows of TABLE of the posts, or of some of them."""
        rows = posts.rows if positions is None else [posts.rows[position] for position in positions]
        opened = posts.opened if positions is None else posts.opened.select(positions)
        columns = posts.provenance_columns(task, rows)
        if self._past is None or self._sidecar is None:
            tagged = self.recommender.tag(opened, self.work.top_k)
            columns["history"] = pa.nulls(len(rows), pa.int64())
        else:
            at = np.array(rows, dtype=np.int64) + task.begin
            tagged = self.recommender.tag(opened, self.work.top_k, history=self._past.select(at))
            columns["history"] = pa.array(np.asarray(self._sidecar.digests[at]), pa.int64())
        return pa.table({name: tagged[name] for name in TAGGED.names} | columns).select(TABLE.names).cast(TABLE)

    def _tag(self, posts: ChunkPosts, task: Task) -> pa.Table:
        """The rows of TABLE. After two failures post by post: one that fails alone too is added to `posts.rejected`.

        The machine's faults and our own errors (storage, integrity) are nobody's among the posts: they are raised, and so is
        what a model raises that cannot even score an empty post.
        """
        for attempt in (1, 2):
            try:
                return self._recommend(posts, task)
            except Exception as error:  # noqa: BLE001
                _raise_unless_content(error, task.path)
                logger.warning("%s: %d posts, attempt %d: %r", task.path, len(posts.opened), attempt, error)
        self.recommender.tag(OpenedPosts([""], [None], [None], [None], [None], ["empty"], [None]), self.work.top_k)
        tables = [TABLE.empty_table()]
        for position, row in enumerate(posts.rows):
            try:
                tables.append(self._recommend(posts, task, [position]))
            except Exception as error:  # noqa: BLE001
                _raise_unless_content(error, task.path)
                post_id = posts.opened.post_ids[position]
                posts.rejected.append(Rejected(task.path, row, post_id, f"{type(error).__name__}: {error}"))
        return pa.concat_tables(tables)

    def _vectors(self, posts: ChunkPosts, path: str) -> pa.Table:
        """What histories read of the posts; one that cannot be encoded has nothing."""
        rule = self.recommender.loaded.history
        reads = rule.reads if rule is not None else ()
        try:
            return _vector_rows(posts.rows, self.recommender.featurize(posts.opened), reads)
        except Exception as fault:  # noqa: BLE001
            _raise_unless_content(fault, path)
            logger.warning("%s: %d posts, one by one after %r", path, len(posts.opened), fault)
        tables = [_vector_rows([], self.recommender.featurize(OpenedPosts()), reads)]
        for position, row in enumerate(posts.rows):
            try:
                features = self.recommender.featurize(posts.opened.select([position]))
                tables.append(_vector_rows([row], features, reads))
            except Exception as error:  # noqa: BLE001  (that post alone counts as having neither image nor caption)
                _raise_unless_content(error, path)
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


def _raise_unless_content(error: Exception, path: str) -> None:
    """Raise what is no fault of a post: the machine's, and errors of ours that do not speak of one."""
    raise_if_machine(error, path)
    if isinstance(error, HashtagError) and not isinstance(error, (ScoreError, ImageError)):
        raise error


def _line(item: Rejected, task: Task, posts: ChunkPosts) -> RejectedLine:
    """A rejected row as a line of REJECTED_TABLE."""
    created, _, user = posts.provenance.get(item.row or 0, (None, 0, None))
    return {
        "part": item.part,
        "row": item.row,
        "post_id": item.post_id,
        "reason": item.reason,
        "rows": 1,
        "part_version": task.version,
        "created_at": created,
        "user_key": user,
    }
