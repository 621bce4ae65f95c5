"""What lies under `_state/` between a run and the next: chunks, vectors and histories, each kept as long as it is of use."""

from collections import defaultdict

from hashtag_core import storage
from hashtag_core.errors import NotFoundError
from hashtag_core.tagging.archive_columns import sweep_columns
from hashtag_core.tagging.encode_histories import records_of, vector_key
from hashtag_core.tagging.histories import sweep_history
from hashtag_core.tagging.planned_work import TagPlan, part_key_prefix


def chunks_done(folder: str) -> defaultdict[str, set[int]]:
    """Part key -> numbers of the chunks that are there."""
    done: defaultdict[str, set[int]] = defaultdict(set)
    for info in _listed(folder):
        key, _, name = info.path.partition("/")
        if name.endswith(".parquet") and not name.startswith("."):
            done[key].add(int(name.removesuffix(".parquet")))
    return done


def sweep_staging(plan: TagPlan, run_id: str) -> None:
    """Remove chunks of parts that are done or changed, and what is of other runs' histories; parts that wait for another run
    keep their chunks."""
    kept = {work.key for work in plan.works}
    waiting = {part_key_prefix(path) for path in plan.unselected}
    for info in _listed(plan.layout.chunks):
        key = info.path.partition("/")[0]
        if info.uri.endswith(".tmp") or (key not in kept and key.partition("-")[0] not in waiting):
            storage.remove(info.uri)
    if plan.finder is not None:
        keys = {vector_key(plan, record) for record in records_of(plan).values()}
        sweep_history(plan.layout.histories, plan.layout.vectors, run_id, keys)
        sweep_columns(plan.layout.columns, plan.files)


def _listed(uri: str) -> list[storage.FileInfo]:
    try:
        return storage.list_files(uri, hidden=True)
    except NotFoundError:
        return []
