"""Any archive as Parquet parts in the POST schema: one file a part, streamed, in this process. Needs no ray.

A part's rejected rows are written before it, and it appears whole or not at all, so a run that was cut off goes on where it was.
"""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, JsonValue

from hashtag_core import storage
from hashtag_core.config import Recipe
from hashtag_core.data.dataset import ROW_GROUP_ROWS, ArchiveFiles, HostPictures
from hashtag_core.data.open_archive import Archive, open_archive
from hashtag_core.data.parquet_rows import Rejected
from hashtag_core.errors import ConfigError, HashtagError, NotFoundError
from hashtag_core.preparation.fetch_images import Pictures, PictureTally, count_missing
from hashtag_core.preparation.report import check_pictures, files_of, tell_rejected
from hashtag_core.progress_bar import ProgressBar
from hashtag_core.recommend.image_uris import ImagePlaces
from hashtag_core.schema import POST
from hashtag_core.storage import FileInfo

logger = logging.getLogger(__name__)

REJECTED, RECORD = "_rejected", "_converted.json"
MAX_HELD_BYTES = 64 << 20


@dataclass(frozen=True)
class Conversion:
    """What is to be written where; nothing has been."""

    archive: Archive
    out: str
    recipe: Recipe
    names: list[str]
    """The file of each part: it tells what the part was made of."""

    def described(self) -> dict[str, JsonValue]:
        """What `--dry-run` prints."""
        self.archive.tell()
        size = sum(part.size for part in self.archive.parts)
        return {
            "converted": self.out,
            "dry_run": True,
            "parts": len(self.names),
            "bytes": size,
            "files": files_of([self.archive]).model_dump(),
        }


def plan_conversion(archive: str, out: str, recipe: Recipe) -> Conversion:
    """List the archive and look at the folder to write. NotFoundError, ArchiveError; ConfigError for a folder that lies in the
    archive (or it in the folder) or holds something else than parts of this very archive."""
    archive, out = storage.absolute(archive), storage.absolute(out)
    if f"{out}/".startswith(f"{archive}/") or f"{archive}/".startswith(f"{out}/"):
        raise ConfigError(
            f"--convert {out} and the archive {archive} lie in one another: name a folder beside the archive"
        )
    opened = open_archive(archive, recipe.archive)
    opened.first_readable()
    settings = recipe.archive.model_dump(
        include={"format", "map", "date_format", "encoding", "delimiter", "max_image_bytes"}
    )
    names = [_name(number, part, settings) for number, part in enumerate(opened.parts)]
    allowed = {*names, *(f"{REJECTED}/{name}.jsonl" for name in names), RECORD}
    try:
        others = [info.path for info in storage.list_files(out, hidden=True) if info.path not in allowed]
    except NotFoundError:
        others = []
    if others:
        raise ConfigError(
            f"{out} holds {others[0]}, which is not of this archive as it is now, read as it is read now: take another folder, or remove it"
        )
    return Conversion(opened, out, recipe, names)


class ConversionSummary(BaseModel):
    """What was written, in this run and in those that were cut off before."""

    converted: str
    """The folder."""
    parts: int
    posts: int
    rejected: int
    rows: int
    pictures: int
    pictures_missing: int
    picture_hosts: dict[str, HostPictures]
    """Pictures at addresses of the web by host."""
    files: ArchiveFiles
    unchanged: bool
    """Whether all of it was there before."""


def convert(plan: Conversion) -> ConversionSummary:
    """Write the parts that are not there yet. HashtagError for a part that changed meanwhile."""
    plan.archive.tell()
    rejected: list[Rejected] = []
    posts = pictures = absent = done_before = 0
    tally = PictureTally()
    with_posts: set[str] = set()
    with ProgressBar(len(plan.names), "converting", "part") as progress:
        for name, part in zip(plan.names, plan.archive.parts, strict=True):
            if storage.exists(storage.join(plan.out, name)):
                done_before += 1
            else:
                _convert_part(plan, name, part)
            rejected += _rejected_of(plan.out, name)
            with storage.open_input(storage.join(plan.out, name)) as source:
                metadata = pq.ParquetFile(source).metadata
                posts += metadata.num_rows
                with_posts |= {part.path} if metadata.num_rows else set()
                pictures += int((metadata.metadata or {}).get(b"pictures", b"0"))
                absent += int((metadata.metadata or {}).get(b"pictures_missing", b"0"))
                tally.add(PictureTally.of_json((metadata.metadata or {}).get(b"pictures_named", b"{}")))
            progress.add(1)
    tell_rejected(rejected, with_posts)
    check_pictures(absent, pictures + absent, tally.missing, plan.recipe.archive.max_missing_images)
    summary = ConversionSummary(
        converted=plan.out,
        parts=len(plan.names),
        posts=posts,
        rejected=len(rejected),
        rows=posts + sum(item.row is not None for item in rejected),
        pictures=pictures,
        pictures_missing=absent,
        picture_hosts=tally.most_used(),
        files=files_of([plan.archive]),
        unchanged=done_before == len(plan.names),
    )
    storage.write_json(storage.join(plan.out, RECORD), {"archive": plan.archive.uri, **summary.model_dump()})
    return summary


def _convert_part(plan: Conversion, name: str, part: FileInfo) -> None:
    """One part, which keeps in its footer what became of its pictures: a run that goes on tells of all."""
    section = plan.recipe.archive
    fetch = Pictures(ImagePlaces.of(plan.archive.root, plan.recipe))
    rejected: list[Rejected] = []
    tables: list[pa.Table] = []
    pictures = absent = 0
    options = {"compression": "zstd", "use_dictionary": ["user_id"], "write_statistics": ["post_id", "created_at"]}
    with storage.open_output(storage.join(plan.out, name)) as sink, pq.ParquetWriter(sink, POST, **options) as writer:
        for batch in fetch.fetched(plan.archive.read(part, min(section.batch_rows, ROW_GROUP_ROWS))):
            rejected += batch.rejected
            pictures += batch.posts.num_rows - batch.posts["image"].null_count
            absent += count_missing(batch.posts)
            tables.append(batch.posts)
            if sum(t.num_rows for t in tables) >= ROW_GROUP_ROWS or sum(t.nbytes for t in tables) >= MAX_HELD_BYTES:
                writer.write_table(pa.concat_tables(tables), row_group_size=ROW_GROUP_ROWS)
                tables = []
        if tables:
            writer.write_table(pa.concat_tables(tables), row_group_size=ROW_GROUP_ROWS)
        counts = {
            "pictures": str(pictures),
            "pictures_missing": str(absent),
            "part": part.path,
            "pictures_named": fetch.tally.to_json(),
        }
        writer.add_key_value_metadata(counts)
        if plan.archive.etag(part) != part.etag:
            raise HashtagError(f"{part.path}: changed while it was read: run again")
        lines = "".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in rejected)
        if lines:
            storage.write_bytes(storage.join(plan.out, REJECTED, f"{name}.jsonl"), lines.encode())


def _rejected_of(out: str, name: str) -> list[Rejected]:
    try:
        lines = storage.read_bytes(storage.join(out, REJECTED, f"{name}.jsonl")).decode().splitlines()
    except NotFoundError:
        return []
    return [Rejected(**json.loads(line)) for line in lines]


def _name(number: int, part: FileInfo, identity: dict[str, JsonValue]) -> str:
    made_of = json.dumps([part.path, part.etag, getattr(part, "selection", ""), identity], sort_keys=True)
    return f"part-{number:05d}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}.parquet"
