"""An archive of posts becomes a dataset: clean posts in three splits, and the vocabulary.

Two passes over the parts with Ray Data, each part streamed, and a decision between them:

1. every part gives its index (ids, keys, hashtags: no images), as Parquet under `DATASET/_work/`;
2. the driver holds the index of all parts (some 300 bytes a post) and decides: `hashtag_core.data.decide_splits`;
3. every part is read again and its posts are written to their splits. `dataset.json` comes last and makes it a dataset.

A run that fails or is interrupted removes what it wrote; what a killed one left behind, marked by `_work/`, is removed by
the next one. A part is the unit of work, so an archive of many parts uses many CPUs.
"""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hashtag_core import storage
from hashtag_core.data.dataset import (
    FORMAT,
    INFO_NAME,
    SPLITS,
    VOCABULARY_NAME,
    DatasetFile,
    DatasetInfo,
)
from hashtag_core.data.dataset_rows import lean_index
from hashtag_core.data.decide_splits import Partition, content_hash, partition_posts
from hashtag_core.data.parquet_rows import Rejected
from hashtag_core.data.splits import OUT
from hashtag_core.distributed.session import cluster_cpus, connect
from hashtag_core.distributed.tasks import Pool, run_tasks
from hashtag_core.errors import ArchiveError, ConfigError, HashtagError
from hashtag_core.preparation.claim import WORK, Claim, remove_leftovers
from hashtag_core.preparation.fetch_images import PictureTally
from hashtag_core.preparation.part_work import (
    PartTask,
    PartWork,
    index_part,
    read_table,
    work_file,
    write_part,
    write_records,
    write_table,
)
from hashtag_core.preparation.plan import PreparePlan, finished_dataset
from hashtag_core.preparation.report import check_pictures, counted, files_of, named_pictures, tell_rejected
from hashtag_core.progress_bar import ProgressBar

logger = logging.getLogger(__name__)

R = TypeVar("R")

REJECTED, LEFT_OUT = "_rejected", "_left_out"

TASK_CPUS = 0.5
MAX_RETRIES = 3
NO_PROGRESS_TIMEOUT_S = 6 * 3600
"""Ray Data sees progress only when a part is done, and a part may be large."""


def prepare(plan: PreparePlan) -> DatasetInfo:
    """Carry the plan out; where the dataset is there already, changes nothing.

    ConfigError if a split or the vocabulary comes out empty, or the dataset there holds other posts; ArchiveError if no row
    is a post; HashtagError, naming the part, if reading or writing one failed.
    """
    if plan.finished is not None and plan.is_done:
        return plan.finished.info
    with connect(), _cleaned_up(plan) as claim:
        if (meanwhile := _made_meanwhile(plan)) is not None:
            return meanwhile
        for opened in plan.archives:
            opened.tell()
        index, rejected, tally = _read_archive(plan)
        # The model has to find hashtags in archives by the same map, where `synonyms_file` may not be.
        section = plan.recipe.vocabulary.model_copy(update={"synonyms": plan.rules.tags.synonyms})
        split = plan.recipe.split
        from_test = plan.from_test[index["part"].to_numpy()]
        min_words, deny = plan.recipe.captions.min_words, plan.rules.tags.deny
        partition = partition_posts(index, from_test, split, section, min_words, deny)
        digest = content_hash(index, partition.split_of, plan.config)
        if plan.finished is not None:
            if plan.finished.info.content_hash == digest:
                logger.info("the parts were written anew, their posts are the same")
                return plan.finished.info
            info = plan.finished.info
            raise ConfigError(
                f"{plan.dataset} holds a dataset of other posts ({info.archive} as it was then, content "
                f"{info.content_hash[:12]}; now {digest[:12]}): take another --dataset, or remove that one"
            )
        info = _write_dataset(plan, index, partition, rejected, tally, digest)
        claim.require()
        storage.write_json(storage.join(plan.dataset, INFO_NAME), info.model_dump())
        return info


def _made_meanwhile(plan: PreparePlan) -> DatasetInfo | None:
    """The dataset that another run has made since this one was planned; ConfigError if it is of other posts."""
    if plan.finished is not None or (finished := finished_dataset(plan.dataset, plan.config)) is None:
        return None
    if finished.info.fingerprint == plan.fingerprint:
        return finished.info
    raise ConfigError(f"{plan.dataset}: another run has made it meanwhile, of other parts: run again")


def _read_archive(plan: PreparePlan) -> tuple[pa.Table, list[Rejected], PictureTally]:
    tasks = [_task(plan, number) for number in range(len(plan.parts))]
    work = PartWork(index_part, plan.dataset, plan.layout, plan.recipe, plan.rules)
    tally = PictureTally()
    for of_part in _over_parts(work, tasks, "reading parts"):
        tally.add(of_part)
    rejected: list[Rejected] = []
    for number in range(len(plan.parts)):
        rejected += [Rejected(**row) for row in read_table(work_file(plan.dataset, "rejected", number)).to_pylist()]
    index = pa.concat_tables(
        lean_index(read_table(work_file(plan.dataset, "index", number))) for number in range(len(plan.parts))
    )
    if not index.num_rows:
        first = f": {rejected[0].part}: {rejected[0].reason}" if rejected else ""
        raise ArchiveError(f"{plan.archive}: not one row is a post{first}")
    logger.info("%d posts in %d parts, %d rejected", index.num_rows, len(plan.parts), len(rejected))
    tell_rejected(rejected, {plan.parts[number].path for number in pc.unique(index["part"]).to_pylist()})
    check_pictures(*named_pictures(index), tally.missing, plan.recipe.archive.max_missing_images)
    return index, rejected, tally


def _write_dataset(
    plan: PreparePlan,
    index: pa.Table,
    partition: Partition,
    rejected: list[Rejected],
    tally: PictureTally,
    digest: str,
) -> DatasetInfo:
    in_part = index["part"].to_numpy()
    tasks = []
    for number in range(len(plan.parts)):
        of_part = np.arange(*np.searchsorted(in_part, [number, number + 1]))  # parts come one after the other
        kept = of_part[partition.split_of[of_part] != OUT]
        if len(kept):
            table = pa.table({"row": index["row"].take(pa.array(kept)), "side": partition.split_of[kept]})
            write_table(table, work_file(plan.dataset, "sides", number))
            tasks.append(_task(plan, number))
    work = PartWork(write_part, plan.dataset, plan.layout, plan.recipe, plan.rules, digest)
    files = [file for written in _over_parts(work, tasks, "writing parts") for file in written]
    too_large = pc.sum(index["image_too_large"]).as_py()
    notes = [*partition.notes, *([f"{too_large} image(s) over archive.max_image_bytes left out"] if too_large else [])]
    for note in notes:
        logger.info(note)
    rejected_rows = write_records(plan, index, partition, rejected)
    partition.vocabulary.save(storage.join(plan.dataset, VOCABULARY_NAME))
    return DatasetInfo(
        format=FORMAT,
        content_hash=digest,
        posts=partition.posts,
        vocabulary=len(partition.vocabulary),
        rejected=rejected_rows,
        left_out=partition.left_out,
        config=plan.config,
        archive=plan.archive,
        test_archive=plan.test_archive,
        fingerprint=plan.fingerprint,
        notes=notes,
        files=sorted(files, key=lambda file: (SPLITS.index(_split_of(file)), file.path)),
        **counted(index, partition.split_of != OUT),
        picture_hosts=tally.most_used(),
        rows=index.num_rows + sum(item.row is not None for item in rejected),
        archive_files=files_of(plan.archives),
    )


def _over_parts(work: PartWork[R], tasks: Sequence[PartTask], what: str) -> list[R]:
    """What `work` gives for each task, in the order of the tasks; HashtagError with the part if one failed."""
    pool = Pool(max(1, int(cluster_cpus() / TASK_CPUS) - 1), TASK_CPUS, actors=False, retries=MAX_RETRIES)
    results: dict[int, R] = {}
    outcomes = run_tasks(what, tasks, lambda: work, pool, end_s=NO_PROGRESS_TIMEOUT_S)
    with closing(outcomes), ProgressBar(len(tasks), what, "part") as progress:
        for outcome in outcomes:
            if outcome.error is not None:
                raise HashtagError(f"{outcome.task.file.path}: {outcome.error}")
            results[outcome.task.number] = outcome.result()
            progress.add()
    return [results[task.number] for task in tasks]


@contextmanager
def _cleaned_up(plan: PreparePlan) -> Iterator[Claim]:
    """Claim the folder; remove a killed run's leftovers before, `_work/` after; and, where the block fails, all that it wrote.

    Nothing is removed of a dataset that is whole, nor after another run took over.
    """
    began = time.monotonic()
    made = [] if storage.is_remote(plan.dataset) else _folders_to_be_made(plan.dataset)
    claim = Claim(plan.dataset, plan.config)
    claim.take()
    whole = storage.exists(storage.join(plan.dataset, INFO_NAME))
    try:
        with claim.renewed():
            if not whole:
                remove_leftovers(plan.dataset, but_the_claim=True)
            yield claim
        whole = True
        logger.info("prepared in %.1f s", time.monotonic() - began)
    finally:
        if not claim.is_held():
            logger.warning("%s: another run took it over: nothing is removed", plan.dataset)
        elif whole:
            storage.remove_tree(storage.join(plan.dataset, WORK))
        else:
            remove_leftovers(plan.dataset)
            for folder in made:
                if os.path.isdir(folder) and not os.listdir(folder):
                    os.rmdir(folder)


def _folders_to_be_made(path: str) -> list[str]:
    folders = []
    while not os.path.exists(path):
        folders.append(path)
        path = os.path.dirname(path)
    return folders


def _task(plan: PreparePlan, number: int) -> PartTask:
    return PartTask(number, plan.archives[int(plan.from_test[number])].root, plan.parts[number])


def _split_of(file: DatasetFile) -> Any:
    return file.path.partition("/")[0]
