"""One tagging run: claim the output, tag what the plan misses, commit each part as it is whole, tell what was done.

Where the tasks run is the caller's affair (`Cluster`): this module knows no ray. What a killed run left is taken up:
chunk files are named by the plan, and a part goes on from those that are there.
"""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime

import pyarrow as pa

from hashtag_core import storage
from hashtag_core.errors import HashtagError, StorageError, UsageError
from hashtag_core.output.claimed_output import Output
from hashtag_core.output.commit_parts import FinishedPart, Publisher, Staged, Yields
from hashtag_core.output.delete_rows import drop_parts
from hashtag_core.output.fenced_table import FencedError
from hashtag_core.output.forget_users.forget_list import ForgetList
from hashtag_core.output.lease import Lease, new_run_id
from hashtag_core.output.reconcile import reconcile
from hashtag_core.schema import REJECTED_TABLE
from hashtag_core.tagging.after_commit import Yielding, save_index
from hashtag_core.tagging.archive_columns import save_digests
from hashtag_core.tagging.encode_histories import (
    HOPELESS_CHUNKS,
    Encoding,
    Monitor,
    encode_histories,
    records_of,
    vector_key,
)
from hashtag_core.tagging.histories import HistoryWork
from hashtag_core.tagging.plan import plan_tagging
from hashtag_core.tagging.planned_work import PartWork, TagPlan
from hashtag_core.tagging.reject_limit import RejectWatch, check_planned
from hashtag_core.tagging.report import TagFigures, close_lost_runs, digest_of, drift
from hashtag_core.tagging.run_state import Cluster, Connect, Progress, TagSummary, waiting_tasks
from hashtag_core.tagging.staging import chunks_done, sweep_staging
from hashtag_core.tagging.stop_signal import StoppedError, StopSignal
from hashtag_core.tagging.task import ChunkOutcome, Work
from hashtag_core.tracking.tagging import RunEnd, TagRunRecord

logger = logging.getLogger(__name__)

ROUNDS = 3
"""Of planning, at most: a row that is rejected when it is tagged gives its post to the next best row, which may be rejected too."""


class TagRun:
    """A run over what a plan misses."""

    def __init__(self, plan: TagPlan, connect: Connect, monitor: Monitor) -> None:
        self.plan, self.connect, self.monitor = plan, connect, monitor
        self.run_id = new_run_id()
        self.stop = StopSignal(plan.layout.stop)
        self.label = ""  # how a line of the log begins that tells of a part
        self.summary = TagSummary(
            skipped_parts=plan.skipped, gone_parts=len(plan.gone), model_version=plan.request.model.version
        )
        self.summary.run = self.run_id
        self.figures = TagFigures()
        self.statuses: Counter[str] = Counter()
        self.failures: list[str] = []
        self._started = _now()
        self._yielding = Yielding(plan)
        self._versions: dict[str, str] = {}
        self._began = time.monotonic()

    def execute(self, deadline: datetime | None = None) -> TagSummary:
        """All of it, as the only run on this output. LeaseHeldError, and nothing changed, while another is at it; HashtagError if
        chunks could not be tagged, StoppedError if a signal or the deadline ended the run: whole parts are committed all the
        same, and a rerun does the others; its `summary` holds the counts."""
        layout = self.plan.layout
        with Lease(layout.lease, self.run_id):
            self._take_over()
            if self.plan.is_done:
                return self.summary
            self.stop.deadline = deadline
            with self.stop:
                try:
                    return self._rounds()
                except FencedError:
                    raise  # another run is at work: not even a record is written
                except HashtagError as error:
                    status = "stopped" if isinstance(error, StoppedError) else "failed"
                    raise self._ended(status, error) from error.__cause__
                except BaseException:
                    self._write_record("failed")
                    raise

    def _take_over(self) -> None:
        """Claim the output and tidy it up; plan again where records and rows differ, or another run changed it since the plan."""
        plan = self.plan
        output = Output.open(plan.layout)
        output.claim(by_day=plan.request.by_day)
        is_lost = output.tidy(plan.request.keep_history_h)
        if plan.unfinished or not plan.is_tidy or is_lost:
            reconcile(output, f"{self.run_id}-reconciled")
        forgotten = ForgetList.load(plan.layout.out)
        is_same = ForgetList.are_same(forgotten, plan.forgotten)
        if plan.is_tidy and output.records.sequence == plan.output.records.sequence and is_same:
            self.plan = replace(plan, output=output)
        else:
            self.plan = plan_tagging(plan.request, output)
            self.summary.skipped_parts = self.plan.skipped

    def _rounds(self) -> TagSummary:
        self._prepare()
        for number in range(ROUNDS):
            if number:
                again = replace(self.plan.request, selection=replace(self.plan.request.selection, retag=False))
                plan = plan_tagging(again, self.plan.output)
                if not plan.works:
                    break
                self.plan = plan
            self._yielding = Yielding(self.plan)
            self._round(f"{self.run_id}r{number}")
            if not self._yielding.found or self.stop.reason is not None:
                break
        if self.plan.dropped and not self.failures and self.stop.reason is None:
            self.summary.dropped_posts = drop_parts(self.plan.output, self.run_id, self.plan.dropped)
        return self._finish()

    def _prepare(self) -> None:
        """What is there before the first chunk: pinned settings and the record of the run."""
        plan, output = self.plan, self.plan.output
        self.salt = ForgetList.ensure(plan.layout.out).salt  # before any row: `Output.require_whole`
        changed = output.records.settings != plan.settings
        if changed or output.records.retag != plan.retag:
            output.save(f"{self.run_id}-begin", settings=plan.settings if changed else None, retag=plan.retag)
        close_lost_runs(plan.layout, plan.settings)
        self._started = _now()
        self._write_record("running")

    def _round(self, name: str) -> None:
        """Tag and commit what the plan misses."""
        plan = self.plan
        self._versions |= {work.path: work.record.etag for work in plan.works}
        sweep_staging(plan, self.run_id)
        if plan.sidecar is not None:
            plan.sidecar.write(self._history_folder)
        done = chunks_done(plan.layout.chunks)
        chunk_rows = plan.settings.chunk_rows
        works = {work.key: work for work in plan.works}
        waiting = {
            work.key: {chunk.number for chunk in work.chunks(chunk_rows)} - done[work.key] for work in plan.works
        }
        self.progress = Progress(works, waiting)
        self.publisher = Publisher(
            plan.output, name, plan.takers, self._committed, self._count, self._yields, plan.request.keep_history_h
        )
        for work in plan.works:
            if not waiting[work.key]:
                self._finish_part(work)
        if any(waiting.values()) and self.stop.reason is None:
            try:
                self._tag()
            except SystemExit:  # Ray takes SIGTERM for itself while it starts
                self.stop.stop("SIGTERM")
            except HashtagError:
                self.publisher.flush()  # what is whole is committed all the same
                self.publisher.drop()
                raise
        blocked = self.publisher.flush()
        self.publisher.drop()
        self._tell_failures(blocked)
        save_index(self.plan)

    def _tag(self) -> None:
        """Two rounds on the cluster: the missing chunks in runs, then those that failed, each alone."""
        section, plan = self.plan.request.recipe.tagging, self.plan
        chunk_rows = plan.settings.chunk_rows
        missing = {work.key: self.progress.missing(work, chunk_rows) for work in plan.works}
        total = sum(chunk.rows for chunks in missing.values() for chunk in chunks)
        limit = section.max_rejected
        self.watch = None if limit is None else RejectWatch(limit, check_planned(plan.works, limit), total)
        with self.connect(section) as cluster:
            self.stop.listen()
            work = self._work(cluster)
            if plan.sidecar is not None and plan.finder is not None and plan.finder.rule.reads:
                asked = [
                    (plan.begins[item.path] + chunk.first_row, chunk.rows)
                    for item in plan.works
                    for chunk in missing[item.key]
                ]
                encode_histories(
                    Encoding(plan, plan.sidecar, asked),
                    section.chunks_per_task,
                    lambda tasks: cluster.run(tasks, work),
                    self.monitor,
                )
            with self.monitor(total, "tagging") as advance:
                for chunks_per_task, alone in ((section.chunks_per_task, False), (1, True)):
                    tasks = list(waiting_tasks(plan, self.progress, chunks_per_task, alone=alone))
                    if not tasks or self.stop.reason is not None:
                        break
                    for outcome in cluster.run(tasks, work):
                        advance(self._take(outcome))

    def _work(self, cluster: Cluster) -> Work:
        plan, settings, layout = self.plan, self.plan.settings, self.plan.layout
        return Work(
            archive=plan.source.root,
            source=settings.archive,
            reading=settings.reading,
            staging=layout.chunks,
            encoders=storage.join(layout.state, f"encoders-{plan.encoders_name}.json"),
            model_folder=str(plan.request.model.folder),
            model_name=settings.model_name,
            model_version=settings.model_version,
            model_hash=settings.model_hash,
            top_k=settings.top_k,
            threads=cluster.threads,
            device=cluster.device,
            encoding={
                "backend": settings.backend,
                "precision": settings.precision,
                "batch_size": settings.batch_size,
            },
            diversity=settings.diversity,
            salt=self.salt,
            history=self._history_work(),
            image_prefixes=settings.image_prefixes,
            max_image_bytes=settings.max_image_bytes,
            image_hosts=settings.image_hosts,
            stop=self.stop.uri,
            policy=plan.policy,
            extra_tags=plan.extra_tags,
            decode_ahead=cluster.decode_ahead,
        )

    def _take(self, outcome: ChunkOutcome) -> int:
        """What came of a chunk; the posts that came through."""
        work, number = self.progress.works[outcome["part_key"]], outcome["chunk"]
        if outcome["stopped"]:
            self.stop.stop(f"{self.stop.uri}, which is there")  # by another hand, if there was no order
            return 0
        if outcome["error"]:
            self.progress.errors[work.key, number] = outcome["error"]
            logger.warning("%s%s, chunk %d: %s", self.label, work.path, number, outcome["error"])
            if len(self.progress.errors) >= HOPELESS_CHUNKS and not self.statuses:
                raise HashtagError(f"no chunk could be tagged; {work.path}, chunk {number}: {outcome['error']}")
            return 0
        self.statuses.update(outcome["statuses"])
        rejected = outcome["rejected"]
        if self.watch is not None:
            self.watch.take(work.path, outcome["tagged"] + outcome["kept"], rejected)
        waiting = self.progress.waiting[work.key]
        waiting.discard(number)
        if not waiting:
            self._finish_part(work)
        return int(outcome["tagged"] + outcome["kept"] + sum(rows for rows, _ in rejected.values()))

    def _finish_part(self, work: PartWork) -> None:
        """Hand a part whose chunks are all there to the publisher, if it still is what the plan read."""
        if work.key in self.progress.finished:
            return
        self.progress.finished.add(work.key)
        numbers = [chunk.number for chunk in work.chunks(self.plan.settings.chunk_rows)]
        lines = [
            {**asdict(left), "part": work.path, "part_version": work.record.etag, "user_key": None}
            for left in work.left_out
        ]
        left_out = pa.Table.from_pylist(lines, schema=REJECTED_TABLE)
        rows = None if work.whole else work.wanted.tolist()
        try:
            if work.record.groups and self.plan.source.etag(work.file) != work.record.etag:
                storage.remove_tree(storage.join(self.plan.layout.chunks, work.key))
                raise StorageError(f"{work.file.uri} changed while it was tagged: run again")
            record = work.record.model_copy(update={"run": self.run_id})
            self.publisher.take(FinishedPart(record, work.key, numbers, left_out, work.owners, rows))
        except FencedError:
            raise
        except HashtagError as error:
            logger.error("%s", error)
            self.failures.append(f"{work.path}: {error}")

    def _committed(self, staged: Staged, rejected: int) -> None:
        part = staged.part
        self.summary.posts += staged.tagged + rejected
        self.summary.tagged += staged.tagged - staged.kept
        self.summary.kept += staged.kept
        self.summary.rejected += rejected
        self.summary.parts += 1
        path = part.record.path
        counts = (staged.tagged - staged.kept, staged.kept, rejected)
        logger.info("%s%s: %d tagged, %d kept, %d rejected", self.label, path, *counts)
        work = self.progress.works[part.key]
        if self.plan.sidecar is not None and self.plan.begins:
            begin = self.plan.begins[path]
            digests = self.plan.sidecar.digests[begin : begin + part.record.rows]
            save_digests(self.plan.layout.columns, work.file, digests)

    def _yields(self, staged: Staged) -> Yields:
        return self._yielding.of(self.progress.works[staged.part.key], staged)

    def _count(self, rows: pa.Table) -> None:
        self.figures.add(TagFigures.of(rows))

    def _tell_failures(self, blocked: Sequence[str]) -> None:
        for work in self.plan.works:
            left = {
                number: self.progress.errors.get((work.key, number))
                for number in sorted(self.progress.waiting[work.key])
            }
            if self.stop.reason is None:
                left = {number: error or "its process died" for number, error in left.items()}
            messages = [f"chunk {number}: {error}" for number, error in left.items() if error]
            if messages:
                self.failures.append(f"{work.path}: {len(messages)} chunk(s), {messages[0]}")
        if self.stop.reason is None:
            self.failures += [f"{path}: waits for parts that take posts from it" for path in blocked]

    def _finish(self) -> TagSummary:
        self._measure()
        plan, output = self.plan, self.plan.output
        left = [work for work in plan.works if self.progress.waiting[work.key]]
        if self.stop.reason is not None and left:
            raise StoppedError(self._stopped(left))
        self.failures += [f"{path}: {reason}" for path, reason in plan.refused.items()]
        if self.failures:
            message = f"{len(self.failures)} part(s) could not be tagged whole, run again: {self.failures[0]}"
            raise HashtagError(message)
        if plan.closed_retag != output.records.retag:
            output.save(f"{self.run_id}-end", retag=plan.closed_retag)
        self._write_record("done")
        if plan.unselected:
            logger.info("%d part(s) were not selected and are not tagged", len(plan.unselected))
        return self.summary

    def _measure(self) -> None:
        self.summary.seconds = round(time.monotonic() - self._began, 3)
        self.summary.posts_per_second = round(self.summary.tagged / max(self.summary.seconds, 1e-9), 1)

    def _ended(self, status: str, error: HashtagError) -> HashtagError:
        if isinstance(error, UsageError):  # met once the run was at it: the command is not what is wrong
            error = HashtagError(str(error))
        self._measure()
        self._write_record(status)
        error.summary = self.summary.as_record()  # type: ignore[attr-defined]
        return error

    def _stopped(self, left: list[PartWork]) -> str:
        chunk_rows = self.plan.settings.chunk_rows
        rows = sum(chunk.rows for work in left for chunk in self.progress.missing(work, chunk_rows))
        failed = f"; {len(self.failures)} part(s) failed: {self.failures[0]}" if self.failures else ""
        return (
            f"stopped for {self.stop.reason}: {self.summary.parts} part(s) are committed, {rows} row(s) of "
            f"{len(left)} part(s) are left{failed}; run again to go on"
        )

    @property
    def _history_folder(self) -> str:
        return storage.join(self.plan.layout.histories, self.run_id)

    def _history_work(self) -> HistoryWork | None:
        plan = self.plan
        if plan.sidecar is None:
            return None
        begins = {
            vector_key(plan, record): plan.begins[path]
            for path, record in records_of(plan).items()
            if path in plan.begins
        }
        return HistoryWork(self._history_folder, plan.layout.vectors, begins)

    def _write_record(self, status: str) -> None:
        plan = self.plan
        section = plan.request.recipe.tagging
        tags = drift(plan.layout, plan.settings, self.figures.tags, section.drift_warning) if status == "done" else None
        ended: RunEnd = {} if status == "running" else {"ended": _now()}
        record: TagRunRecord = {
            "run": self.run_id,
            "status": status,
            "started": self._started,
            "plan": self.run_id,
            "settings": plan.settings.model_dump(),
            **self.summary.as_record(),
            "unselected_parts": len(plan.unselected),
            "removed_parts": len(plan.gone),
            **self.figures.as_record(),
            "archive_digest": digest_of(self._versions),
            "drift": tags,
            "failures": self.failures,
            **ended,
        }
        if ended and self.figures.images_not_fetched:
            logger.warning(
                "%d image(s) named by image_uri could not be had, and their posts were tagged without: `detail` says why",
                self.figures.images_not_fetched,
            )
        storage.write_json(plan.layout.run(self.run_id), record)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
