"""A dataset that `prepare` wrote: what is in it, and its rows in their one order."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from hashtag_core import storage
from hashtag_core.config import Section
from hashtag_core.data.parquet_rows import READ_BUFFER_BYTES
from hashtag_core.data.vocabulary import Vocabulary
from hashtag_core.errors import ConfigError, IntegrityError, NotFoundError
from hashtag_core.json_values import JsonObject

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
FORMAT = 1
INFO_NAME, VOCABULARY_NAME = "dataset.json", "vocabulary.json"
ROW_GROUP_ROWS = 512


class DatasetFile(Section):
    """A Parquet file of the dataset: its path below the dataset and its rows."""

    path: str
    rows: int


class ArchiveFiles(Section):
    """Files of the archives: all that are there, those that were read, those that belong to others, and why the rest was left out."""

    there: int
    read: int
    beside: int
    left_out: dict[str, int]


class HostPictures(Section):
    """Pictures that posts name at a host of the web: those that were had, and those that could not be."""

    had: int
    missing: int


class DatasetInfo(Section):
    """`dataset.json`. `content_hash` is of posts, splits, tags and configuration: equal on every machine and for every
    order of parts. `left_out` counts valid posts that are in no split, by reason; `fingerprint` is of the archive's listing."""

    format: Literal[1]
    content_hash: str
    posts: dict[Split, int]
    vocabulary: int
    rejected: int
    left_out: dict[str, int]
    config: JsonObject
    archive: str
    test_archive: str | None = None
    fingerprint: str
    notes: list[str] = []
    files: list[DatasetFile]
    pictures: int | None = None
    """Posts whose picture can be decoded; None in datasets that were made before it was counted, as below."""
    captions: int | None = None
    """Posts with a word left in the cleaned caption."""
    pictures_missing: int | None = None
    """Posts of the archive that name a picture that could not be had."""
    picture_hosts: dict[str, HostPictures] = {}
    """Pictures at addresses of the web by host, of all posts of the archive."""
    pictures_unreadable: int | None = None
    """Posts of the archive whose picture is there and cannot be decoded or is too large."""
    rows: int | None = None
    """Rows of the archive: in a split, left out, or rejected as a row."""
    archive_files: ArchiveFiles | None = None
    """Files of the archive: how many are there, read, beside, left out and why."""
    former_content_hashes: list[str] = []
    """Of what the dataset held before posts were taken out of it: models that were trained on that name one of these."""


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset, opened. Rows have one fixed order: that of `files(split)`, then that in the file."""

    uri: str
    info: DatasetInfo

    @classmethod
    def open(cls, uri: str) -> Self:
        """NotFoundError where there is no finished dataset; IntegrityError where `dataset.json` is not one of this format."""
        where = storage.join(uri, INFO_NAME)
        try:
            value = storage.read_json(where)
        except NotFoundError:
            raise NotFoundError(
                f"{uri}: no dataset there ({INFO_NAME} is missing): run jobs/prepare.py first"
            ) from None
        try:
            return cls(uri, DatasetInfo.model_validate(value))
        except ValidationError as error:
            fault = error.errors()[0]
            raise IntegrityError(f"{where}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the train split."""
        return Vocabulary.load(storage.join(self.uri, VOCABULARY_NAME))

    def files(self, split: Split) -> list[str]:
        """URIs of the split's files, in their order."""
        if split not in SPLITS:
            raise ConfigError(f"no split {split!r}; there are {', '.join(SPLITS)}")
        return [storage.join(self.uri, file.path) for file in self.info.files if file.path.startswith(f"{split}/")]

    def file_rows(self, split: Split) -> list[int]:
        """Rows of each of `files(split)`."""
        return [file.rows for file in self.info.files if file.path.startswith(f"{split}/")]

    def read(
        self, split: Split, columns: Sequence[str] | None = None, batch_rows: int = ROW_GROUP_ROWS
    ) -> Iterator[pa.Table]:
        """Tables of at most `batch_rows` rows, in order; `columns` of PREPARED alone, in the order given."""
        for uri in self.files(split):
            with storage.open_input(uri) as source:
                file = pq.ParquetFile(source, pre_buffer=False, buffer_size=READ_BUFFER_BYTES)
                for batch in file.iter_batches(
                    batch_size=batch_rows, columns=None if columns is None else list(columns)
                ):
                    table = pa.Table.from_batches([batch])
                    yield table if columns is None else table.select(list(columns))

    def read_rows(
        self, uri: str, begin: int, end: int, columns: Sequence[str], batch_rows: int = ROW_GROUP_ROWS
    ) -> Iterator[pa.Table]:
        """Rows `begin` to `end` of one of the dataset's files, in order, as tables of `batch_rows` (the last one shorter). Of the
        file no more is read than the row groups that hold them, and no more is in memory than a table and what was read ahead."""
        with storage.open_input(uri) as source:
            file = pq.ParquetFile(source, pre_buffer=False, buffer_size=READ_BUFFER_BYTES)
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            ends = list(accumulate(sizes))
            groups = [n for n, last in enumerate(ends) if last > begin and last - sizes[n] < end]
            at = ends[groups[0]] - sizes[groups[0]] if groups else 0
            batches = file.iter_batches(batch_size=batch_rows, row_groups=groups, columns=list(columns))
            yield from rebatch(_cut(batches, begin - at, end - at), batch_rows)


def _cut(batches: Iterable[pa.RecordBatch], begin: int, end: int) -> Iterator[pa.Table]:
    """Rows `begin` to `end` of what comes."""
    at = 0
    for batch in batches:
        first, last = max(begin - at, 0), min(end - at, batch.num_rows)
        if first < last:
            yield pa.Table.from_batches([batch.slice(first, last - first)])
        at += batch.num_rows
        if at >= end:
            return


def rebatch(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of `rows`, the last one shorter."""
    rest: pa.Table | None = None
    for table in tables:
        rest = table if rest is None else pa.concat_tables([rest, table])
        while rest.num_rows >= rows:
            yield rest.slice(0, rows)
            rest = rest.slice(rows)
    if rest is not None and rest.num_rows:
        yield rest
