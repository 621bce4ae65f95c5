"""Tag an archive: plan -> drop what is done -> tag the missing chunks on Ray -> publish each part when it is whole.

A run with nothing to do writes nothing and starts neither Ray nor a model. What a killed run left is taken up: chunk
files are named by the plan, and a part without a manifest goes on from those that are there.
"""

import itertools
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from hashtag_core import storage
from hashtag_core.distributed.forget_list import check_forgotten
from hashtag_core.distributed.lease import Lease, new_run_id
from hashtag_core.distributed.passes import Pass
from hashtag_core.distributed.tag_encode import HOPELESS_CHUNKS, Encoding, encode_histories, task_runs
from hashtag_core.distributed.tag_history import HistoryWork, sweep_history
from hashtag_core.distributed.tag_job import TagJob, TagSummary
from hashtag_core.distributed.tag_orders import Orders, StoppedError
from hashtag_core.distributed.tag_plan import Chunk, PartPlan, pin_settings, replace_settings, scanned
from hashtag_core.distributed.tag_publish import chunks_done, find_published, publish, sweep
from hashtag_core.distributed.tag_rejects import RejectWatch, check_planned
from hashtag_core.distributed.tag_report import TagFigures, close_lost_runs, drift
from hashtag_core.distributed.tag_select import Retagging
from hashtag_core.distributed.tag_task import Task, Work
from hashtag_core.errors import HashtagError

logger = logging.getLogger(__name__)


def tag(job: TagJob, deadline: datetime | None = None) -> TagSummary:
    """Do what is missing. HashtagError if chunks could not be tagged, StoppedError if a signal or the deadline ended the
    run: whole parts are published all the same, and a rerun does the others; its `summary` holds the counts.
    """
    skipped = len(job.plan.parts) - len(job.missing) - len(job.unselected)
    summary = TagSummary(0, 0, 0, 0, skipped, job.model.version)
    if job.is_done:
        return summary
    return _Run(job, summary).execute(deadline)


class _Run:
    """One run over what is missing."""

    def __init__(self, job: TagJob, summary: TagSummary) -> None:
        self.job, self.layout, self.plan, self.summary = job, job.layout, job.plan, summary
        self.run_id = new_run_id()
        self.statuses: Counter[str] = Counter()
        self.figures = TagFigures()
        summary.run = self.run_id
        self.errors: dict[tuple[str, int], str] = {}
        self.failures: list[str] = []
        self.waiting: dict[str, set[int]] = {}
        self.published: set[str] = set()
        self.parts = {part.id: part for part in job.missing}
        self.record: dict[str, Any] = {}
        self.watch: RejectWatch | None = None
        self.attempts = itertools.count()
        """Number the files of rejected rows, also of a part whose publishing failed: the next run takes up its file."""

    def execute(self, deadline: datetime | None = None) -> TagSummary:
        """All of it, as the only run on this output. LeaseHeldError, and nothing changed, while another is at it."""
        with Lease(self.layout.lease, self.run_id) as self.lease:
            check_forgotten(self.layout.out, self.plan)
            done = find_published(self.layout, self.plan).done  # what another run did since the plan was made
            missing, unselected = (
                [part for part in parts if part.id not in done] for parts in (self.job.missing, self.job.unselected)
            )
            self.summary.skipped_parts = len(self.plan.parts) - len(missing) - len(unselected)
            self.job = replace(self.job, missing=missing, unselected=unselected)
            self.parts = {part.id: part for part in missing}
            if Retagging.load(self.layout.retag) != self.job.retagged:
                raise HashtagError(f"{self.layout.retag}: another run was told to tag parts again meanwhile: run again")
            with Orders(storage.join(self.layout.state, "stop.json"), deadline) as self.orders:
                return self._execute()

    def _execute(self) -> TagSummary:
        began = time.monotonic()
        if self.job.anew:
            replace_settings(self.layout, self.plan.settings)
        pin_settings(self.layout, self.plan.settings, write=True)
        if self.job.retagging != self.job.retagged:
            self.job.retagging.save(self.layout.retag)
        self._write_histories()
        if self.job.plan_is_new:
            storage.write_json(self.layout.plan(self.plan.id), self.plan.model_dump())
        storage.remove(self.layout.success)
        close_lost_runs(self.layout, self.plan.settings)
        self.record = {
            "run": self.run_id,
            "status": "running",
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "plan": self.plan.id,
            "settings": self.plan.settings.model_dump(),
        }
        self._write_record("running")
        try:
            self._publish_and_tag()
        except HashtagError as error:
            raise self._ended("failed", error) from error.__cause__
        except BaseException:
            self._write_record("failed")
            raise
        self.summary.seconds = round(time.monotonic() - began, 3)
        self.summary.posts_per_second = round(self.summary.tagged / max(self.summary.seconds, 1e-9), 1)
        unpublished = [part.path for part in [*self.job.missing, *self.job.unselected] if part.id not in self.published]
        closed = self.job.retagging.closed(unpublished)
        if closed != self.job.retagging:
            closed.save(self.layout.retag)
        left = [part for part in self.job.missing if self.waiting[part.id]]
        if self.orders.reason is not None and left:
            raise self._ended("stopped", StoppedError(self._stopped(left)))
        if self.failures:
            told = f"{len(self.failures)} part(s) could not be tagged whole, run again: {self.failures[0]}"
            raise self._ended("failed", HashtagError(told))
        self._write_record("done")
        if self.job.unselected:
            logger.info("%d part(s) were not selected and are not tagged", len(self.job.unselected))
            return self.summary
        success = {"plan": self.plan.id, "run": self.run_id, "parts": len(self.plan.parts)}
        self.lease.check()
        storage.write_json(self.layout.success, success)
        return self.summary

    def _publish_and_tag(self) -> None:
        sweep(self.layout, {part.id for part in [*self.job.missing, *self.job.unselected]})
        if self.job.finder is not None:
            contents = {part.content or part.id for part in self.plan.parts}
            sweep_history(self.layout.histories, self.layout.vectors, self.plan.id, contents)
        for manifest in self.job.older_of_done:
            storage.remove(manifest)
        done = chunks_done(self.layout, self.job.missing)
        for part in self.job.missing:
            numbers = {chunk.number for chunk in part.chunks(self.plan.settings.chunk_rows)}
            self.waiting[part.id] = numbers - done.get(part.id, set())
        for part in self.job.missing:
            if not self.waiting[part.id]:
                self._publish(part)
        if any(self.waiting.values()) and self.orders.reason is None:
            try:
                self._tag()
            except SystemExit:  # Ray takes SIGTERM for itself while it starts
                self.orders.stop("SIGTERM")
        for part in self.job.missing:
            left = {number: self.errors.get((part.id, number)) for number in sorted(self.waiting[part.id])}
            if self.orders.reason is None:
                left = {number: error or "its process died" for number, error in left.items()}
            told = [f"chunk {number}: {error}" for number, error in left.items() if error]
            if told:
                self.failures.append(f"{part.path}: {len(told)} chunk(s), {told[0]}")

    def _ended(self, status: str, error: HashtagError) -> HashtagError:
        self._write_record(status)
        error.summary = asdict(self.summary)  # type: ignore[attr-defined]
        return error

    def _stopped(self, left: list[PartPlan]) -> str:
        rows = sum(chunk.rows for part in left for chunk in self._missing_chunks(part))
        failed = f"; {len(self.failures)} part(s) failed: {self.failures[0]}" if self.failures else ""
        return (
            f"stopped for {self.orders.reason}: {self.summary.parts} part(s) are published, {rows} row(s) of "
            f"{len(left)} part(s) are left{failed}; run again to go on"
        )

    def _tag(self) -> None:
        """Two rounds on Ray: the missing chunks in runs, then those that failed, each alone."""
        from hashtag_core.distributed.session import connect  # ray: not for a run with nothing to tag
        from hashtag_core.distributed.tag_run import cluster_shape, decode_ahead, run_tasks

        section, settings = self.job.recipe.tagging, self.plan.settings
        total = sum(chunk.rows for part in self.parts.values() for chunk in self._missing_chunks(part))
        limit = section.max_rejected
        self.watch = None if limit is None else RejectWatch(limit, check_planned(self.job.missing, limit), total)
        with connect(), Pass(total, "tagging") as progress:
            self.orders.listen()
            actors, threads, device = cluster_shape(section.actors)
            work = Work(
                archive=settings.archive,
                staging=self.layout.chunks,
                encoders=self.layout.encoders,
                model_folder=str(self.job.model.folder),
                model_name=settings.model_name,
                model_version=settings.model_version,
                model_hash=settings.model_hash,
                top_k=settings.top_k,
                threads=threads,
                device=device,
                encoding={name: getattr(settings, name) for name in ("backend", "precision", "batch_size")},
                history=self._history_work(),
                image_prefixes=settings.image_prefixes,
                max_image_bytes=settings.max_image_bytes,
                stop=self.orders.uri,
                policy=self.job.policy,
                decode_ahead=decode_ahead(actors, device),
            )
            if self.job.finder is not None and self.job.finder.rule.reads:
                waiting = [
                    (self._begins[part.path] + chunk.first_row, chunk.rows)
                    for part in self.parts.values()
                    for chunk in self._missing_chunks(part)
                ]
                encode_histories(
                    Encoding(self.plan, self.layout, self._begins, waiting),
                    section.chunks_per_task,
                    lambda tasks: run_tasks(tasks, work, actors),
                )
            for chunks_per_task, alone in ((section.chunks_per_task, False), (1, True)):
                tasks = list(self._tasks(chunks_per_task, alone=alone))
                if not tasks or self.orders.reason is not None:
                    break
                for outcome in run_tasks(tasks, work, actors):
                    self._take(outcome, progress)

    def _take(self, outcome: dict[str, Any], progress: Pass) -> None:
        part, number = self.parts[outcome["part_id"]], outcome["chunk"]
        if outcome["stopped"]:
            self.orders.stop(f"{self.orders.uri}, which is there")  # by another hand, if there was no order
            return
        if outcome["error"]:
            self.errors[part.id, number] = outcome["error"]
            logger.warning("%s, chunk %d: %s", part.path, number, outcome["error"])
            if len(self.errors) >= HOPELESS_CHUNKS and not self.statuses:
                raise HashtagError(f"no chunk could be tagged; {part.path}, chunk {number}: {outcome['error']}")
            return
        self.statuses.update(json.loads(outcome["statuses"]))
        rejected = json.loads(outcome["rejected"])
        if self.watch is not None:
            self.watch.take(part.path, outcome["tagged"], rejected)
        self.waiting[part.id].discard(number)
        progress.add(outcome["tagged"], sum(rows for rows, _ in rejected.values()))
        if not self.waiting[part.id]:
            self._publish(part)

    def _publish(self, part: PartPlan) -> None:
        self.lease.check()
        name = f"{self.run_id}-{next(self.attempts)}.jsonl"
        try:
            manifest = publish(
                self.layout, self.plan, part, self.run_id, name, self.job.older.get(part.path, []), self.figures
            )
        except HashtagError as error:
            logger.error("%s", error)
            self.failures.append(str(error))
            return
        self.summary.posts += part.rows
        self.summary.tagged += manifest["tagged"]
        self.summary.rejected += manifest["rejected"]
        self.summary.parts += 1
        self.published.add(part.id)
        logger.info("%s: %d tagged, %d rejected", part.path, manifest["tagged"], manifest["rejected"])

    def _tasks(self, chunks_per_task: int, *, alone: bool) -> Iterator[Task]:
        """The waiting chunks as runs of consecutive ones within a row group."""
        for part in self.parts.values():
            left_out = [left.row for left in part.left_out if left.row is not None]
            for run in task_runs(self._missing_chunks(part), chunks_per_task):
                first, end = run[0].first_row, run[-1].first_row + run[-1].rows
                rows = [row for row in left_out if first <= row < end]
                yield Task(part.id, part.path, run, rows, self._begins[part.path], alone=alone)

    def _missing_chunks(self, part: PartPlan) -> list[Chunk]:
        waiting = self.waiting[part.id]
        return [chunk for chunk in part.chunks(self.plan.settings.chunk_rows) if chunk.number in waiting]

    @cached_property
    def _begins(self) -> dict[str, int]:
        """Path of each part -> number of its first row among all rows of the plan."""
        ends = itertools.accumulate(part.rows for part in self.plan.parts)
        return {part.path: end - part.rows for part, end in zip(self.plan.parts, ends, strict=True)}

    def _write_histories(self) -> None:
        """The sidecar of this plan, unless an earlier run left it."""
        finder, folder = self.job.finder, self.layout.history(self.plan.id)
        held = not self.job.plan_is_new and storage.exists(storage.join(folder, "rows.npy"))
        if finder is None or (finder.sidecar is None and held):
            return
        if finder.sidecar is None:
            finder.find(scanned(self.plan.settings, self.plan.parts))
        if finder.sidecar is not None:
            finder.sidecar.write(folder)
            finder.sidecar = None

    def _history_work(self) -> HistoryWork | None:
        if self.job.finder is None:
            return None
        begins = {part.content or part.id: self._begins[part.path] for part in self.plan.parts}
        return HistoryWork(self.layout.history(self.plan.id), self.layout.vectors, begins)

    def _drift(self) -> dict[str, Any] | None:
        return drift(self.layout, self.plan.settings, self.figures.tags, self.job.recipe.tagging.drift_warning)

    def _write_record(self, status: str) -> None:
        self.record |= {
            "status": status,
            **asdict(self.summary),
            "unselected_parts": len(self.job.unselected),
            "removed_parts": len(self.job.gone),
            **self.figures.told(),
            "drift": self._drift() if status == "done" else None,
            "failures": self.failures,
        }
        if status != "running":
            self.record["ended"] = datetime.now(UTC).isoformat(timespec="seconds")
            if self.figures.images_not_fetched:
                logger.warning(
                    "%d image(s) named by image_uri could not be had, and their posts were tagged without: `detail` says why",
                    self.figures.images_not_fetched,
                )
        storage.write_json(self.layout.run(self.run_id), self.record)
