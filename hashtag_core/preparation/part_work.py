"""What is done to each part of an archive by `prepare`: its index, and later its posts in their splits; and what is written of the
rows and posts that are in none.

A task reads its part once for each of the two passes, streamed; what it writes goes below `DATASET/_work/` or, in the second pass,
into the splits. Nothing here needs Ray.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import BinaryIO, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hashtag_core import storage
from hashtag_core.config import Recipe
from hashtag_core.data.dataset import SPLITS, DatasetFile
from hashtag_core.data.dataset_rows import INDEX, PostRules, SplitWriter, index_posts, prepare_posts
from hashtag_core.data.decide_splits import REASONS, REPEATED_ID, Partition
from hashtag_core.data.formats.base import ArchiveFormat
from hashtag_core.data.parquet_rows import PartBatch, Rejected
from hashtag_core.errors import HashtagError
from hashtag_core.preparation.claim import WORK
from hashtag_core.preparation.fetch_images import Pictures, PictureTally
from hashtag_core.preparation.plan import PreparePlan
from hashtag_core.recommend.image_uris import ImagePlaces
from hashtag_core.storage import FileInfo

R = TypeVar("R")

REJECTED, LEFT_OUT = "_rejected", "_left_out"


@dataclass(frozen=True)
class PartTask:
    """All that reading a part needs."""

    number: int
    root: str
    """Of its archive: where pictures lie that it names."""
    file: FileInfo


@dataclass(frozen=True)
class PartWork(Generic[R]):
    """What is done to each part, and what every one of them needs."""

    do: Callable[["PartWork[R]", PartTask], R]
    dataset: str
    layout: ArchiveFormat
    recipe: Recipe
    rules: PostRules
    digest: str = ""
    """Of the dataset's content, once it is known."""

    def __call__(self, task: PartTask) -> list[R]:
        return [self.do(self, task)]

    def batches(self, task: PartTask, pictures: Pictures) -> Iterator[PartBatch]:
        """The rows of a part, with the pictures that they name."""
        return pictures.fetched(self.layout.read(task.file, self.recipe.archive.batch_rows))

    def pictures(self, task: PartTask) -> Pictures:
        """Fetches the pictures of a part."""
        return Pictures(ImagePlaces.of(task.root, self.recipe))


_REJECTED = pa.schema([("part", pa.string()), ("row", pa.int64()), ("post_id", pa.string()), ("reason", pa.string())])


def index_part(work: PartWork[PictureTally], task: PartTask) -> PictureTally:
    """Pass 1 over one part: write its index and its rejected rows. What became of the pictures that it names."""
    rejected: list[Rejected] = []
    pictures = work.pictures(task)
    where = work_file(work.dataset, "index", task.number)
    with storage.open_output(where) as sink, pq.ParquetWriter(sink, INDEX, compression="zstd") as writer:
        for batch in work.batches(task, pictures):
            rejected += batch.rejected
            if batch.posts.num_rows:
                writer.write_table(index_posts(batch.posts, pa.array(batch.rows), task.number, work.rules))
    rows = [asdict(item) for item in rejected]
    write_table(pa.Table.from_pylist(rows, schema=_REJECTED), work_file(work.dataset, "rejected", task.number))
    return pictures.tally


def write_part(work: PartWork[list[DatasetFile]], task: PartTask) -> list[DatasetFile]:
    """Pass 2 over one part: write its posts into their splits. The files, as `dataset.json` lists them."""
    if work.layout.etag(task.file) != task.file.etag:
        raise HashtagError("changed while the archive was read: run again")
    sides = read_table(work_file(work.dataset, "sides", task.number))
    kept, split_of = sides["row"].to_numpy(), sides["side"].to_numpy()
    writers = {
        index: SplitWriter(work.dataset, f"{name}/part-{task.number:05d}-{work.digest[:12]}.parquet")
        for index, name in enumerate(SPLITS)
    }
    try:
        for batch in work.batches(task, work.pictures(task)):
            chosen = np.searchsorted(kept, batch.rows)
            chosen[chosen == len(kept)] = 0
            found = kept[chosen] == batch.rows
            for index, writer in writers.items():
                here = np.flatnonzero(found & (split_of[chosen] == index))
                if len(here):
                    rows = batch.rows[here].tolist()
                    writer.add(prepare_posts(batch.posts.take(pa.array(here)), rows, task.file.path, work.rules))
        files = [writer.close() for writer in writers.values()]
    except BaseException:
        for writer in writers.values():
            writer.abandon()
        raise
    written = [file for file in files if file is not None]
    if sum(file.rows for file in written) != len(kept):
        raise HashtagError("changed while the archive was read: run again")
    return written


def write_records(plan: PreparePlan, index: pa.Table, partition: Partition, rejected: list[Rejected]) -> int:
    """Write the rows that are no posts, and the posts that are in no split, with the reason; returns how many are rejected.

    Part by part in the order of their names: of all of them nothing but the index is in memory.
    """
    of_part: dict[str, list[Rejected]] = {}
    for item in rejected:
        of_part.setdefault(item.part, []).append(item)
    in_part = index["part"].to_numpy()
    counts = {REJECTED: 0, LEFT_OUT: 0}
    with ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        for number, part in sorted(enumerate(plan.parts), key=lambda item: item[1].path):
            begin, end = np.searchsorted(in_part, [number, number + 1])
            gone = begin + np.flatnonzero(partition.reason_codes[begin:end])
            lines = index.select(["row", "post_id"]).take(pa.array(gone)).to_pylist()
            records: dict[str, list[Rejected]] = {REJECTED: of_part.pop(part.path, []), LEFT_OUT: []}
            for row, why in zip(lines, partition.reasons(gone), strict=True):
                left_out = why in REASONS
                reason = (
                    f"{why}: {REASONS[why]}" if left_out else f"{REPEATED_ID} {row['post_id']!r}: a later post has it"
                )
                records[LEFT_OUT if left_out else REJECTED].append(
                    Rejected(part.path, row["row"], row["post_id"], reason)
                )
            for folder, items in records.items():
                if items and folder not in files:
                    uri = storage.join(plan.dataset, folder, "rows.jsonl")
                    files[folder] = stack.enter_context(storage.open_output(uri))
                for item in sorted(items, key=lambda item: (item.row is None, item.row or 0)):
                    files[folder].write((json.dumps(asdict(item), ensure_ascii=False) + "\n").encode())
                counts[folder] += len(items)
    return counts[REJECTED]


def work_file(dataset: str, kind: str, part: int) -> str:
    return storage.join(dataset, WORK, f"{kind}-{part:05d}.parquet")


def write_table(table: pa.Table, uri: str) -> None:
    with storage.open_output(uri) as sink:
        pq.write_table(table, sink)


def read_table(uri: str) -> pa.Table:
    with storage.open_input(uri) as source:
        return pq.read_table(source)
