"""Delete users' posts from an output, of every model and version in it, older snapshots included, and prove it another way.

    names -> forget list (later runs leave their posts out) -> which ids are theirs, from the tables and the archives -> these
    ids on the list too -> tables, records, chunks, histories, vectors, index without them -> older data files erased
    -> proof: every file that lies below the output, read as it lies there (`proof`)

A row goes if its user is on the list, or its post: the post of a forgotten user that was delivered again without a user is
known by its id. An id that another user's rows have too is not put on the list, and that user's rows stay. Every step can be
repeated: a command that was killed is run again. Archives are read and not changed. Memory: a data file, and the ids that are
looked for.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc

from hashtag_core.data.tagged_archive import Source
from hashtag_core.errors import HashtagError, IntegrityError
from hashtag_core.output.chunk_files import read_chunk
from hashtag_core.output.claimed_output import Output
from hashtag_core.output.fenced_table import Table
from hashtag_core.output.forget_users.forget_list import ForgetList
from hashtag_core.output.forget_users.proof import remains
from hashtag_core.output.forget_users.state_files import forget_run_records, forget_state
from hashtag_core.output.forget_users.tables import forget_tables
from hashtag_core.output.forget_users.wanted import Wanted
from hashtag_core.output.layout import Layout
from hashtag_core.output.lease import Lease, new_run_id
from hashtag_core.output.migrate import refuse_old_output
from hashtag_core.output.versions import listed, versions_of

logger = logging.getLogger(__name__)

SCAN_ROWS = 65_536
SHOWN_PLACES = 3


@dataclass
class Forgotten:
    """What was found and removed, counted over all models and versions of the output."""

    users: int
    posts: int
    users_found: int = 0
    """Those of the users with a post in the output or the archive."""
    tagged: int = 0
    """Tagged posts."""
    rejected: int = 0
    """Rows told as rejected."""
    staged: int = 0
    """Chunks that are not committed yet, and files that a killed writer left half written."""
    histories: int = 0
    """Files of histories and of parts' columns."""
    vectors: int = 0
    erased_files: int = 0
    """Data files that older snapshots or none named: none of those can be read any more."""
    remaining: int = 0
    """Files that hold anything of them still, by the proof."""
    unknown: int = 0
    """Tagged posts and rejected rows whose user neither the output nor an archive knows."""


def forget(
    out: str, users: Iterable[str] = (), posts: Iterable[str] = (), archive: str | None = None, *, dry_run: bool = False
) -> Forgotten:
    """Delete the posts of users, and posts by their ids, from an output; with `dry_run` count them. `archive`: where else to look
    up whose posts are which; without it, in the archives that were tagged, as far as they are there.

    NotFoundError or ArchiveError, and nothing changed, where there is no output or no such archive; LeaseHeldError while a
    run tags into it; IntegrityError, with the counts as its `summary`, if the proof finds anything of them.
    """
    wanted = Wanted(ForgetList.new(), set(users), set(posts))
    result = Forgotten(len(wanted.users), len(wanted.posts))
    layouts = versions_of(out)
    for layout in layouts:
        refuse_old_output(layout)
    archives = _archives(layouts, archive)
    here = layouts[0].out
    before = ForgetList.load(here) or ForgetList.new()
    wanted.forgotten = (
        before.grown(wanted.users, wanted.posts) if dry_run else ForgetList.add(here, wanted.users, wanted.posts)
    )
    with ExitStack() as stack:
        run_id = new_run_id()
        if not dry_run:
            for layout in layouts:
                stack.enter_context(Lease(layout.lease, run_id))
        outputs = [Output.open(layout) for layout in layouts]
        _find_posts(wanted, outputs, archives)
        asked = {wanted.forgotten.user_key(user) for user in wanted.users}
        result.users_found = len(asked & wanted.found)
        if result.users_found < result.users:
            logger.warning(
                "%d of %d user(s) have no post here, neither in the output nor in an archive that was looked into: are the ids written "
                "as the archive has them? A later post of theirs will not be tagged",
                result.users - result.users_found, result.users,
            )  # fmt: skip
        named = wanted.posts - wanted.shared
        wanted.forgotten = wanted.forgotten.grown((), named) if dry_run else ForgetList.add(here, (), named)
        for output in outputs:
            if not dry_run and output.tagged is not None:
                output.claim()
            counts = forget_tables(output, wanted, f"{run_id}-forget", dry_run=dry_run)
            counts += forget_state(output, wanted, dry_run=dry_run)
            for name, n in counts.items():
                setattr(result, name, getattr(result, name) + n)
        result.unknown = _unknown(outputs, archives)
        if dry_run:
            return result
        forget_run_records(layouts[0].runs, wanted)
        places = remains(here, wanted)
    result.remaining = len(places)
    if result.erased_files:
        logger.info("%d data file(s) of older snapshots are erased: there is no way back to these", result.erased_files)
    if places or result.unknown:
        raise _unproven(out, result, places)
    return result


def _unproven(out: str, result: Forgotten, places: Sequence[str]) -> IntegrityError:
    reasons = (
        [f"something of them is left in {len(places)} file(s): {'; '.join(places[:SHOWN_PLACES])}"] if places else []
    )
    if result.unknown:
        reasons.append(
            f"of {result.unknown} row(s) it cannot be told whose they are: neither the output nor an archive says; name one that "
            "has them with --archive"
        )
    error = IntegrityError(f"{out}: {' and '.join(reasons)}")
    error.summary = asdict(result)  # type: ignore[attr-defined]
    return error


def _archives(layouts: Sequence[Layout], archive: str | None) -> list[Source]:
    """Archives in which ids are looked up: the one that is named, else those that were tagged and are there."""
    records = [Output.open(layout).records.settings for layout in layouts]
    sources = {json.dumps([item.archive, item.reading]): item.source(archive) for item in records if item is not None}
    if archive is not None:
        sources = {json.dumps(source.section.model_dump()): source for source in sources.values()} or {
            "": Source(archive)
        }
    found = []
    for source in sources.values():
        try:
            source.parts()
            found.append(source)
        except HashtagError as error:
            if archive is not None:
                raise
            logger.warning("whose posts are which is looked up in the output alone: %s", error)
    return found


def _find_posts(wanted: Wanted, outputs: Sequence[Output], archives: Sequence[Source]) -> None:
    """Which ids are the users', and which of these other users have too."""
    users, named = wanted.forgotten.users, set(wanted.posts)
    keys = pa.array(sorted(users), pa.string())
    theirs = set[str]()
    for rows in _owners(wanted, outputs, archives) if users else ():
        mine = rows.filter(pc.is_in(rows["user_key"], value_set=keys))
        theirs.update(mine["post_id"].drop_null().to_pylist())
        wanted.found.update(pc.unique(mine["user_key"]).to_pylist())
    ids = pa.array(sorted(theirs - named), pa.string())
    for rows in _owners(wanted, outputs, archives) if len(ids) else ():
        others = pc.and_(rows["user_key"].is_valid(), pc.invert(pc.is_in(rows["user_key"], value_set=keys)))
        wanted.shared.update(
            rows.filter(pc.and_(others, pc.is_in(rows["post_id"], value_set=ids)))["post_id"].to_pylist()
        )
    if wanted.shared:
        logger.warning("%d post_id(s) of theirs are those of posts of other users too, which stay", len(wanted.shared))
    wanted.posts |= theirs


def _owners(wanted: Wanted, outputs: Sequence[Output], archives: Sequence[Source]) -> Iterator[pa.Table]:
    """`post_id` and `user_key` of all that is in the tables, in chunks and in the archives."""
    columns = ["post_id", "user_key"]
    for output in outputs:
        yield from _rows_of(output.tagged, output, columns)
        yield from _rows_of(output.rejected, output, columns)
        for info in listed(output.layout.chunks):
            if info.path.endswith(".parquet") and "/." not in f"/{info.path}":
                content = read_chunk(info.uri)
                yield from (content.rows.select(columns), content.rejected.select(columns))
    for archive in archives:
        for info in archive.parts():
            for batch in archive.batches(info, SCAN_ROWS, ["user_id"]):
                if batch.posts.num_rows:
                    yield _keyed(batch.posts, wanted.forgotten)


def _keyed(posts: pa.Table, forgotten: ForgetList) -> pa.Table:
    given = posts["user_id"].combine_chunks().dictionary_encode()
    names = [None if name is None else forgotten.user_key(name) for name in given.dictionary.to_pylist()]
    keys = pa.array(names, pa.string()).take(given.indices)
    return pa.table({"post_id": posts["post_id"], "user_key": keys})


def _unknown(outputs: Sequence[Output], archives: Sequence[Source]) -> int:
    """Rows of which nobody knows whose they are, since neither the output nor an archive says: tagged ones without a content hash
    and a user (taken over without their part), and rejected ones of a post that is tagged nowhere."""
    tagged, rejected = [pa.array([], pa.string())], [pa.array([], pa.string())]
    for output in outputs:
        for rows in _rows_of(output.tagged, output, ["post_id", "content", "user_key"]):
            is_known = pc.or_(rows["content"].is_valid(), rows["user_key"].is_valid())
            tagged += rows.filter(pc.invert(is_known))["post_id"].chunks
        for rows in _rows_of(output.rejected, output, ["post_id", "user_key"]):
            doubtful = pc.and_(rows["post_id"].is_valid(), rows["user_key"].is_null())
            rejected += rows.filter(doubtful)["post_id"].chunks
    ids, told_ids, known = pa.concat_arrays(tagged + rejected), pa.concat_arrays(rejected), set[str]()
    for output in outputs if len(told_ids) else ():
        for rows in _rows_of(output.tagged, output, ["post_id", "content"]):
            mine = pc.and_(pc.is_in(rows["post_id"], value_set=told_ids), rows["content"].is_valid())
            known.update(rows.filter(mine)["post_id"].to_pylist())
    parts = [(source, part) for source in archives for part in source.parts()] if len(ids) else []
    for source, info in parts:
        for batch in source.batches(info, SCAN_ROWS, []):
            here = batch.posts["post_id"]
            known.update(here.filter(pc.is_in(here, value_set=ids)).to_pylist())
            known.update(item.post_id for item in batch.rejected if item.post_id is not None)
    return sum(post_id not in known for post_id in ids.to_pylist())


def _rows_of(table: Table | None, output: Output, columns: Sequence[str]) -> Iterator[pa.Table]:
    if table is not None:
        for file in table.files(output.layout.values):
            yield table.read(file, columns)
