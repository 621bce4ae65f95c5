"""Finds out what a tagging run is to do. Nothing is written but arrays of parts' columns, and neither Ray nor a model is needed.

The archive is listed and compared with the records of the output: a part with the version of its record is done. Of the others
alone the footer and the ids are read (of a model that reads the history also the small columns; both once). Memory: some
60 bytes a post of new and changed parts. A chunk is a run of at most `chunk_rows` rows within one row group; only rows whose
post is to be tagged from this part are work.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from hashtag_core import storage
from hashtag_core.data.history import HistoryRule
from hashtag_core.data.model_files import check_model_files, read_description
from hashtag_core.data.vocabulary import Vocabulary
from hashtag_core.errors import ArchiveError, ConfigError, GateRefused, NotFoundError, StorageError
from hashtag_core.output.catalog import complete_index, contents_of, lost_rows, rows_of_part
from hashtag_core.output.claimed_output import Output
from hashtag_core.output.forget_users.forget_list import FORGOTTEN, ForgetList
from hashtag_core.output.ids import Keys, load_index
from hashtag_core.output.layout import Layout
from hashtag_core.output.migrate import refuse_old_output
from hashtag_core.output.moved_rows import LATER_ROW, REPEATED
from hashtag_core.output.records import PartRecord
from hashtag_core.output.sweep import Astray
from hashtag_core.storage import FileInfo
from hashtag_core.tagging.archive_columns import load_digests, save_digests
from hashtag_core.tagging.choose_rows import Decision, decide, match
from hashtag_core.tagging.histories import HistoryFinder
from hashtag_core.tagging.part_ids import ArchiveLook, LeftOut, Scan, ids_of_rows
from hashtag_core.tagging.pinned_settings import allowed_tags, check_settings, settings_of, unknown_extra_tags
from hashtag_core.tagging.planned_work import PartWork, TagPlan, TagRequest, part_key_prefix
from hashtag_core.tagging.reject_limit import check_planned
from hashtag_core.tagging.report import last_run
from hashtag_core.tagging.select_parts import ordered_again
from hashtag_core.tracking.registry import ResolvedModel

logger = logging.getLogger(__name__)

KEY_DIGITS = 16


def plan_jointly(requests: Sequence[TagRequest]) -> list[TagPlan]:
    """Plans of several models over one archive, which is listed and whose ids are read once; errors as `plan_tagging`."""
    first = requests[0]
    look = ArchiveLook(resolve_archive(first.archive, first.out), first.recipe.archive)
    return [plan_tagging(request, look=look) for request in requests]


def plan_tagging(request: TagRequest, output: Output | None = None, look: ArchiveLook | None = None) -> TagPlan:
    """Validate everything and find out what is missing. `output`: as it is claimed; else its newest snapshot is read. `look`: at the
    same archive, that other plans share.

    Raises ConfigError for an output inside the archive, one that was tagged with other settings or is of the old layout,
    NotFoundError or ArchiveError for an archive that is missing, empty, or has no post ids, TooManyRejectedError beyond
    `max_rejected`, GateRefused where `drop_gone` would remove more than `max_gone`.
    """
    recipe, model = request.recipe, request.model
    archive = resolve_archive(request.archive, request.out)
    layout = Layout.at(request.out, model.name, model.version)
    version = check_model_files(model.folder).version
    vocabulary = Vocabulary.load(str(model.folder / "vocabulary.json"))
    extra = unknown_extra_tags(recipe.tagging, model, vocabulary)
    vocabulary = vocabulary.with_tags(extra)
    policy = allowed_tags(recipe.tagging, model, vocabulary)
    settings = settings_of(request, archive, version, policy, extra)
    refuse_old_output(layout)
    is_first_look, output = output is None, output or Output.open(layout)
    if is_first_look:
        output.require_whole()
    if output.has_days not in (None, request.by_day) and request.by_day:
        raise ConfigError(f"{layout.out}: was begun without folders by day: take another --out, or leave --by-day away")
    look = look or ArchiveLook(archive, recipe.archive)
    source = look.source
    files = source.parts()
    if is_first_look:
        look.tell()
    records = output.records
    selected = request.selection.paths(files)
    before = records.settings
    differing = settings.differing(before) if before is not None else []
    retag = records.retag
    anew = False
    if request.selection.retag:
        retag = ordered_again(records.retag, selected, anew=bool(differing))
        anew = request.selection.is_whole and (bool(differing) or not records.retag.open)
    if before is not None and differing and not anew:
        check_settings(request, layout, settings, before)
    forgotten = ForgetList.load(layout.out)
    astray = output.find_astray(request.keep_history_h) if is_first_look else Astray([], [])
    is_tidy = not is_first_look or (output.is_counted and not any(astray))
    base = TagPlan(
        request, layout, settings, policy, output, forgotten, [], source, files, [], 0, [], [], retag, anew,
        is_tidy=is_tidy, last_run=last_run(layout), finder=_finder(model, vocabulary, settings.extra_tags), extra_tags=extra,
    )  # fmt: skip
    if astray.lost:
        logger.error("%s: %d data file(s) are gone: a run begins with what was in them", layout.out, len(astray.lost))
        return base  # what there is to do is known once the log knows of it
    try:
        return _with_works(base, look, selected, is_first_look=is_first_look)
    except NotFoundError as error:
        raise StorageError(f"{error}, though it was there when this began: run again") from error


def resolve_archive(archive: str, out: str) -> str:
    """The archive's URI as it is pinned (an absolute path without links), once neither lies where it must not.

    ConfigError if the output is the archive or inside it: it would be read as parts.
    """
    where, target = (storage.absolute(uri) for uri in (archive, out))
    if (target + "/").startswith(where + "/"):
        raise ConfigError(f"--out {out} is inside --archive {archive}: the tagged files would be read as its parts")
    return where


def _with_works(plan: TagPlan, look: ArchiveLook, selected: set[str], *, is_first_look: bool) -> TagPlan:
    """Compare the archive with the records, and decide on what is new or changed."""
    records, tokens = plan.output.records.parts, plan.retag.tokens
    listed = {file.path for file in plan.files}
    gone = sorted(path for path in records if path not in listed)
    news, unselected, present, skipped = [], [], set(), 0
    for file in plan.files:
        before = records.get(file.path)
        if before is not None and before.etag == file.etag and before.token == tokens.get(file.path, ""):
            present.add(file.path)
            skipped += 1
        elif file.path in selected:
            news.append(file)
        else:
            unselected.append(file.path)
            present.update([file.path] if before is not None else [])
    if gone and not plan.request.drop_gone:
        logger.warning(
            "%d part(s) are tagged in %s and no longer in the archive: %s; their rows stay (--drop-gone removes them)",
            len(gone), plan.layout.tagged, ", ".join(gone[:3]),
        )  # fmt: skip
    dropped = gone if plan.request.drop_gone else []
    _check_gone(plan, dropped)
    plan = replace(plan, unselected=unselected, skipped=skipped, gone=gone, dropped=dropped)
    yielding = any(record.barred or record.untried for record in records.values())
    if not news and not dropped and not yielding and not plan.needs_histories:
        return plan
    plan, scans, news = _without_refused(plan, look.scan(news, plan.forgotten), present)
    if is_first_look:
        plan.source.tell_types(news)
    if news and len(news) == len(plan.files) and not any(_may_hold_posts(plan, scan) for scan in scans):
        reasons = sorted({left.reason for scan in scans for left in scan.left_out})
        raise ArchiveError(
            f"{plan.settings.archive}: no part holds posts: {news[0].path}: {reasons[0] if reasons else 'empty'}"
        )
    index = load_index(plan.layout.ids)
    complete_index(plan.output, index)
    first = index.next_number(record.number for record in records.values())
    numbers = [first + n for n in range(len(scans))]
    replaced = {file.path for file in news if file.path in records}
    decision = decide(scans, numbers, index, records, present, replaced, set(dropped))
    plan = replace(plan, index=index, scans=scans)
    path_of = {record.number: path for path, record in records.items()}
    path_of |= {number: scan.file.path for number, scan in zip(numbers, scans, strict=True)}
    works = [
        _new_part(plan, scan, number, n, decision, path_of)
        for n, (scan, number) in enumerate(zip(scans, numbers, strict=True))
    ]
    works += _with_untried(plan, present, _returning(plan, decision))
    if plan.finder is not None:
        plan, works = _with_histories(plan, works)
    _expect(plan, works, decision)
    for work in works:
        work.key = _key(plan, work)
    if plan.request.recipe.tagging.max_rejected is not None:
        check_planned(works, plan.request.recipe.tagging.max_rejected)
    if plan.request.selection.retag:
        again = [work for work in works if work.path in records]
        logger.info("tagging again costs %d post(s) of %d part(s)", sum(len(work.wanted) for work in again), len(again))
    return replace(plan, works=works, skipped=plan.skipped - sum(not work.whole for work in works))


def _without_refused(
    plan: TagPlan, scans: Sequence[Scan], present: set[str]
) -> tuple[TagPlan, list[Scan], list[FileInfo]]:
    """Leave parts that the storage will not give for another run: the others' scans and files. What was tagged of them stays
    (`present`). StorageError where it gives none, and of a model that reads the history, which needs all of it."""
    refused = {scan.file.path: scan.refused for scan in scans if scan.refused}
    for path, reason in refused.items():
        if plan.finder is not None or len(refused) == len(scans):
            raise StorageError(f"{reason}: {len(refused)} of {len(scans)} new part(s) cannot be read")
        logger.error("%s: left as it is, for the storage will not give it: %s", path, reason)
    present |= refused.keys() & plan.output.records.parts.keys()
    given = [scan for scan in scans if not scan.refused]
    plan = replace(plan, refused=refused, unselected=[*plan.unselected, *refused])
    return plan, given, [scan.file for scan in given]


def _may_hold_posts(plan: TagPlan, scan: Scan) -> bool:
    """Of Parquet: whether there are rows. Rows of another layout that are no posts may be the wrong flags for it: then nothing is begun."""
    if plan.source.is_parquet:
        return scan.rows > 0
    return len(scan.at) > 0 or any(left.reason == FORGOTTEN for left in scan.left_out)


def _new_part(
    plan: TagPlan, scan: Scan, number: int, at: int, decision: Decision, path_of: Mapping[int, str]
) -> PartWork:
    """A part that is new or changed: its winners are wanted, the other rows are left out with the reason."""
    file, wins = scan.file, decision.wins[at]
    left_out = list(scan.left_out)
    lost = scan.at[~wins]
    reasons = [f"{REPEATED}: tagged from {path_of[int(winner)]}" for winner in decision.winner_of[at][~wins]]
    reasons += [f"{LATER_ROW.format(path=file.path)}{taken}" for taken in scan.doubles[:, 1].tolist()]
    rows = [int(row) for row in [*lost, *scan.doubles[:, 0]]]
    ids = ids_of_rows(plan.source, file, rows)
    left_out += [
        LeftOut(row, ids[row][0], reason, created_at=ids[row][1]) for row, reason in zip(rows, reasons, strict=True)
    ]
    token = plan.retag.tokens.get(file.path, "")
    record = PartRecord(
        path=file.path, etag=file.etag, number=number, size=file.size, rows=scan.rows, groups=scan.groups, token=token
    )
    doubles = scan.doubles[np.isin(scan.doubles[:, 1], scan.at[wins])] if len(scan.doubles) else scan.doubles
    return PartWork(file, "", record, np.sort(scan.at[wins]), left_out, decision.owners[at], doubles=doubles)


def _returning(plan: TagPlan, decision: Decision) -> list[PartWork]:
    """Rows of parts that are done which lost their post to a row that is no more: they are tagged after all."""
    files = {file.path: file for file in plan.files}
    works = []
    for path, (keys, rows) in lost_rows(plan.output, decision.returning).items():
        back = _is_in(keys, decision.returning[path])
        if back.any():
            record = plan.output.records.parts[path]
            owners = decision.returning_owners[path]
            wanted = np.unique(rows[back])
            works.append(PartWork(files[path], "", record, wanted, owners=owners, whole=False))
    return works


def _with_untried(plan: TagPlan, present: set[str], works: list[PartWork]) -> list[PartWork]:
    """The works, and rows of parts that are done whose post has no tags, since another row of the part was rejected."""
    by_path = {work.path: work for work in works}
    for file in plan.files:
        record = plan.output.records.parts.get(file.path)
        if file.path in present and record is not None and record.untried:
            rows = np.array([rows[0] for rows in record.untried.values()], np.int64)
            work = by_path.setdefault(file.path, PartWork(file, "", record, rows[:0], whole=False))
            work.wanted = np.union1d(work.wanted, rows)
    return list(by_path.values())


def _with_histories(plan: TagPlan, works: list[PartWork]) -> tuple[TagPlan, list[PartWork]]:
    """Find all histories; rows of parts that are done whose history changed are tagged again."""
    finder, records = plan.finder, plan.output.records.parts
    if finder is None:
        return plan, works
    rows_of = {work.path: work.record.rows for work in works}
    parts = [
        (file, rows_of.get(file.path, records[file.path].rows if file.path in records else 0)) for file in plan.files
    ]
    begins = dict(
        zip((file.path for file, _ in parts), np.cumsum([0, *(rows for _, rows in parts)]).tolist(), strict=False)
    )
    sidecar = finder.find(plan.source, plan.layout.columns, parts, plan.forgotten)
    by_path = {work.path: work for work in works}
    skip = {*plan.unselected, *(work.path for work in works if work.whole)}
    for file, rows in parts:
        if file.path in skip or not rows:
            continue
        begin = begins[file.path]
        before = load_digests(plan.layout.columns, file)
        now = sidecar.digests[begin : begin + rows]
        if before is not None and not len(
            before
        ):  # taken over from an old output: what stands now is what it was tagged with
            save_digests(plan.layout.columns, file, now)
            continue
        changed = np.flatnonzero(before != now) if before is not None and len(before) == rows else np.arange(rows)
        changed = np.intersect1d(changed, rows_of_part(plan.output, file.path)) if len(changed) else changed
        if len(changed):
            work = by_path.get(file.path) or PartWork(file, "", records[file.path], changed, whole=False)
            work.wanted = np.union1d(work.wanted, changed)
            if file.path not in by_path:
                works.append(work)
    for work in works:
        work.begin = begins[work.path]
    return replace(plan, sidecar=sidecar, begins=begins), works


def _expect(plan: TagPlan, works: Sequence[PartWork], decision: Decision) -> None:
    """Note for each wanted row which content the table has tags for, from whatever part: it is kept if that is what is read."""
    records = plan.output.records.parts
    fresh = [work for work in works if work.whole and work.record.token == _token_before(records, work.path)]
    paths = {path for work in fresh for path in (work.path, *work.owners) if path in records}
    if not paths or plan.anew:
        return
    contents = contents_of(plan.output, paths)
    order = np.lexsort((contents.keys.low, contents.keys.high))
    keys = contents.keys.take(order)
    scans = {scan.file.path: (scan, decision.wins[at]) for at, scan in enumerate(plan.scans)}
    for work in fresh:
        scan, wins = scans[work.path]
        by_row = np.argsort(scan.at[wins], kind="stable")
        matches = match(keys, scan.entries.keys.take(np.flatnonzero(wins)[by_row]))
        known = matches >= 0
        source = order[matches[known]]
        content = contents.content[source]
        if plan.sidecar is not None:
            now = plan.sidecar.digests[work.begin + work.wanted[known]]
            content = np.where(contents.history[source] == now, content, 0)
        work.expected = np.zeros(len(work.wanted), np.int64)
        work.expected[known] = content


def _token_before(records: dict[str, PartRecord], path: str) -> str:
    """A part without a record is no order to tag again."""
    return records[path].token if path in records else ""


def _is_in(keys: Keys, wanted: Keys) -> np.ndarray:
    order = np.lexsort((wanted.low, wanted.high))
    found: np.ndarray = match(wanted.take(order), keys) >= 0
    return found


def _key(plan: TagPlan, work: PartWork) -> str:
    digest = hashlib.sha256(json.dumps([plan.settings.model_dump(), work.path, work.record.etag, work.record.groups,
                                        work.record.token, work.whole], sort_keys=True).encode())  # fmt: skip
    digest.update(np.ascontiguousarray(work.wanted, "<i8").tobytes())
    if plan.sidecar is not None:
        digest.update(np.ascontiguousarray(plan.sidecar.digests[work.begin + work.wanted], "<i8").tobytes())
    return f"{part_key_prefix(work.path)}-{digest.hexdigest()[:KEY_DIGITS]}"


def _check_gone(plan: TagPlan, dropped: Sequence[str]) -> None:
    records = plan.output.records.parts
    total = sum(record.tagged for record in records.values())
    gone = sum(records[path].tagged for path in dropped)
    if total and gone / total > plan.request.max_gone:
        raise GateRefused(
            f"{len(dropped)} part(s) with {gone} of {total} tagged posts ({gone / total:.0%}) are no longer in the archive, more "
            f"than --max-gone {plan.request.max_gone:g}: is it the right archive? If so, name a higher share"
        )


def _finder(model: ResolvedModel, vocabulary: Vocabulary, extra_tags: str) -> HistoryFinder | None:
    rule = HistoryRule.from_json(read_description(model.folder).get("history"))
    return None if rule is None else HistoryFinder(rule, vocabulary, extra_tags)
