"""What was made for training and evaluation from posts that are to be forgotten: datasets, caches of features, ranked lists of
evaluations, model folders.

Rows go from datasets, caches and lists. What a model learned cannot be taken out of its weights: models are told, those of a family
that keeps the vectors of its train posts as such. Every step can be repeated.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hashtag_core import storage
from hashtag_core.data.dataset import INFO_NAME, ROW_GROUP_ROWS, SPLITS, Dataset, DatasetFile
from hashtag_core.data.decide_splits import content_hash
from hashtag_core.errors import IntegrityError, StorageError
from hashtag_core.output.forget_users.forget_list import ForgetList
from hashtag_core.output.versions import listed

logger = logging.getLogger(__name__)

MEMORY = "memory."
"""How the tensors of the train posts that a model keeps begin in its weights."""
HASHED = ("post_id", "user_id", "created_at", "hashtags", "caption_key", "image_key")


@dataclass
class ForgottenTraining:
    """What was found and removed. `trained_on`: models whose train posts held theirs; `keep_vectors`: those of them, and of the model
    folders, that hold vectors of train posts."""

    dataset_posts: int = 0
    dataset_lines: int = 0
    """Rows told as rejected or left out when a dataset was prepared."""
    cached_features: int = 0
    ranked_posts: int = 0
    trained_on: list[str] = field(default_factory=list)
    keep_vectors: list[str] = field(default_factory=list)


def forget_training(
    forgotten: ForgetList,
    datasets: Sequence[str] = (),
    features: Sequence[str] = (),
    reports: Sequence[str] = (),
    *,
    dry_run: bool = False,
) -> tuple[ForgottenTraining, set[str]]:
    """Take posts on the list out; what was found, and the content hashes that datasets with posts of theirs have or had.

    NotFoundError for a dataset that is none.
    """
    result, hashes = ForgottenTraining(), set[str]()
    for uri in datasets:
        dataset = Dataset.open(uri)
        gone = _gone(dataset, forgotten)
        keys = _keys_of_these_alone(dataset, gone) if features and gone else set()
        result.cached_features += sum(_forget_keys(root, keys, dry_run=dry_run) for root in features)
        count = sum(int(mask.sum()) for mask in gone.values())
        result.dataset_posts += count
        result.dataset_lines += _forget_lines(uri, forgotten, dry_run=dry_run)
        hashes |= {*dataset.info.former_content_hashes, *([dataset.info.content_hash] if count else [])}
        if not dry_run and (count or _is_half_done(dataset)):
            _forget_rows(dataset, gone)
    result.ranked_posts = sum(_forget_ranked(uri, forgotten, dry_run=dry_run) for uri in reports)
    return result, hashes


def check_model(folder: str, hashes: Iterable[str]) -> tuple[bool, bool]:
    """Whether a model folder was trained on one of these contents, and whether it keeps the vectors of its train posts.

    NotFoundError, StorageError or IntegrityError for a folder that is no model.
    """
    described = storage.read_json(storage.join(folder, "model.json"))
    with storage.open_input(storage.join(folder, "weights.safetensors")) as weights:
        size = int.from_bytes(weights.read(8), "little")
        try:
            tensors = json.loads(weights.read(size))
        except ValueError:
            raise IntegrityError(f"{folder}: its weights cannot be read") from None
    trained = (described.get("dataset") or {}).get("content_hash") in set(hashes)
    return trained, any(name.startswith(MEMORY) for name in tensors)


def _gone(dataset: Dataset, forgotten: ForgetList) -> dict[str, np.ndarray]:
    """File -> bool [n], rows that go; files without one are left away."""
    found = {}
    for file in dataset.info.files:
        rows = _read(storage.join(dataset.uri, file.path), ["post_id", "user_id"])
        mask = forgotten.covers(rows)
        if mask.any():
            found[file.path] = mask
    return found


def _keys_of_these_alone(dataset: Dataset, gone: dict[str, np.ndarray]) -> set[str]:
    """Content keys of rows that go and of no row that stays."""
    theirs, others = set[str](), set[str]()
    for file in dataset.info.files:
        rows = _read(storage.join(dataset.uri, file.path), ["image_key", "caption_key"])
        mask = gone.get(file.path, np.zeros(rows.num_rows, bool))
        for name in rows.column_names:
            theirs.update(rows[name].filter(pa.array(mask)).drop_null().to_pylist())
    for file in dataset.info.files if theirs else ():
        rows = _read(storage.join(dataset.uri, file.path), ["image_key", "caption_key"])
        mask = gone.get(file.path, np.zeros(rows.num_rows, bool))
        kept, wanted = rows.filter(pa.array(~mask)), pa.array(sorted(theirs), pa.string())
        for name in rows.column_names:
            others.update(kept[name].filter(pc.is_in(kept[name], value_set=wanted)).to_pylist())
    return theirs - others


def _forget_rows(dataset: Dataset, gone: dict[str, np.ndarray]) -> None:
    """Files without the rows; before them a note of the content that the dataset had, after them what it has."""
    info, where = dataset.info, storage.join(dataset.uri, INFO_NAME)
    former = list(dict.fromkeys([*info.former_content_hashes, info.content_hash]))
    storage.write_json(where, info.model_copy(update={"former_content_hashes": former}).model_dump())
    for path, mask in gone.items():
        uri = storage.join(dataset.uri, path)
        rows = _read(uri).filter(pa.array(~mask))
        with storage.open_output(uri) as target:
            pq.write_table(rows, target, row_group_size=ROW_GROUP_ROWS)
    index, files, posts = [], list[DatasetFile](), dict.fromkeys(SPLITS, 0)
    for file in info.files:
        rows = _read(storage.join(dataset.uri, file.path), HASHED)
        split = SPLITS.index(file.path.partition("/")[0])
        posts[SPLITS[split]] += rows.num_rows
        index.append(_hashable(rows).append_column("side", pa.array([split] * rows.num_rows, pa.int8())))
        files.append(DatasetFile(path=file.path, rows=rows.num_rows))
    whole = pa.concat_tables(index)
    digest = content_hash(whole.drop_columns(["side"]), whole["side"].to_numpy(), info.config)
    changed = {"content_hash": digest, "files": files, "posts": posts, "former_content_hashes": former}
    storage.write_json(where, info.model_copy(update=changed).model_dump())


def _hashable(rows: pa.Table) -> pa.Table:
    """Keys as the bytes that `prepare` hashes."""
    for name in ("caption_key", "image_key"):
        keys = [None if key is None else bytes.fromhex(key) for key in rows[name].to_pylist()]
        rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(keys, pa.binary(32)))
    return rows


def _is_half_done(dataset: Dataset) -> bool:
    """Whether a command was killed between the files and `dataset.json`."""
    return dataset.info.content_hash in dataset.info.former_content_hashes


def _forget_lines(uri: str, forgotten: ForgetList, *, dry_run: bool) -> int:
    """JSON lines of rows that are in no split."""
    found = 0
    for info in listed(uri):
        if not info.path.endswith(".jsonl"):
            continue
        lines = [json.loads(line) for line in storage.read_bytes(info.uri).decode().split("\n") if line]
        kept = [line for line in lines if not _names(line, forgotten)]
        found += len(lines) - len(kept)
        if len(kept) < len(lines) and not dry_run:
            storage.write_bytes(
                info.uri, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept).encode()
            )
    return found


def _names(line: dict[str, object], forgotten: ForgetList) -> bool:
    post_id = line.get("post_id")
    return isinstance(post_id, str) and forgotten.post_key(post_id) in forgotten.posts


def _forget_keys(root: str, keys: set[str], *, dry_run: bool) -> int:
    """Rows of a cache of features, and what it says of content that could not be encoded."""
    found, wanted = 0, pa.array(sorted(keys), pa.string())
    for info in listed(root) if keys else ():
        if not info.path.endswith(".parquet"):
            continue
        rows = _read(info.uri)
        gone = pc.is_in(rows["key"], value_set=wanted).to_numpy()
        found += int(gone.sum())
        if dry_run or not gone.any():
            continue
        if gone.all():
            storage.remove(info.uri)
        else:
            _replace(info.uri, rows.filter(pa.array(~gone)))
    return found


def _forget_ranked(uri: str, forgotten: ForgetList, *, dry_run: bool) -> int:
    """Rows of Parquet files with a `post_id` below a report's folder."""
    found = 0
    for info in listed(uri):
        if not info.path.endswith(".parquet"):
            continue
        with storage.open_input(info.uri) as source:
            if "post_id" not in pq.ParquetFile(source).schema_arrow.names:
                continue
        rows = _read(info.uri)
        gone = forgotten.covers(rows)
        found += int(gone.sum())
        if gone.any() and not dry_run:
            _replace(info.uri, rows.filter(pa.array(~gone)))
    return found


def _replace(uri: str, rows: pa.Table) -> None:
    with storage.open_output(uri) as target:
        pq.write_table(rows, target)


def _read(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    try:
        with storage.open_input(uri) as source:
            return pq.ParquetFile(source).read(columns=None if columns is None else list(columns))
    except pa.ArrowException as error:
        raise StorageError(f"{uri}: cannot be read: {str(error).splitlines()[0]}") from None
