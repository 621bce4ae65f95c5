"""What of forgotten posts is in the files of an output that are no table: chunks, histories, vectors, the index of ids, run
records, copies on this node.

What is derived and holds anything of them is removed: the next run makes it anew, without them. Vectors are costly, so of
those their rows alone go.
"""

import io
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hashtag_core import storage
from hashtag_core.data.history import hash_strings
from hashtag_core.errors import HashtagError
from hashtag_core.output.chunk_files import read_chunk
from hashtag_core.output.claimed_output import Output
from hashtag_core.output.forget_users.forget_list import FORGOTTEN
from hashtag_core.output.forget_users.wanted import Wanted
from hashtag_core.output.records import columns_name, vectors_name
from hashtag_core.output.versions import listed
from hashtag_core.storage.node_local import drop_copies

NODE_COPIES = ("histories", "vectors", "ids")
GONE = "a forgotten post"


def forget_state(output: Output, wanted: Wanted, *, dry_run: bool) -> Counter[str]:
    """Remove it from the state of one model and version; how many files of which kind, and vectors."""
    counts = Counter(staged=_chunks(output, wanted, dry_run=dry_run))
    rows = _forgotten_rows(output)
    counts["histories"] = _columns(output, wanted, rows, dry_run=dry_run)
    counts["vectors"] = _vectors(output, rows, dry_run=dry_run)
    if dry_run:
        return counts
    storage.remove_tree(output.layout.histories)
    storage.remove_tree(output.layout.ids)
    for info in listed(output.layout.state):
        if _is_half_written(info.path):
            counts["staged"] += 1
            storage.remove(info.uri)
    for kind in NODE_COPIES:
        drop_copies(kind, output.layout.state)
    return counts


def forget_run_records(folder: str, wanted: Wanted) -> None:
    """Take the names of posts and users out of what runs told of their failures."""
    for info in listed(folder):
        if _is_half_written(info.path):
            storage.remove(info.uri)
        elif info.path.endswith(".json"):
            record = storage.read_json(info.uri)
            changed = dict(record)
            changed["failures"] = [_unnamed(str(failure), wanted) for failure in record.get("failures", [])]
            if changed["failures"] != record.get("failures", []):
                storage.write_json(info.uri, changed)


def _unnamed(text: str, wanted: Wanted) -> str:
    """A message without the ids in it, which messages quote."""
    for name in wanted.users | wanted.posts:
        for quoted in (repr(name), json.dumps(name)):
            text = text.replace(quoted, GONE)
    return text


def _chunks(output: Output, wanted: Wanted, *, dry_run: bool) -> int:
    """Chunks with a post that goes: they are done again, without it."""
    found = 0
    for info in listed(output.layout.chunks):
        if _is_half_written(info.path) or not info.path.endswith(".parquet"):
            continue
        content = read_chunk(info.uri)
        kept = pa.table({"post_id": pa.array([post_id for _, post_id in content.carried], pa.string())})
        kept = kept.append_column("user_key", pa.nulls(kept.num_rows, pa.string()))
        pieces = (content.rows, content.rejected, kept)
        if any(wanted.goes(rows).any() for rows in pieces) or set(kept["post_id"].to_pylist()) & wanted.posts:
            found += 1
            if not dry_run:
                storage.remove(info.uri)
    return found


def _forgotten_rows(output: Output) -> dict[str, np.ndarray]:
    """Part -> its forgotten rows, by the table of rejected rows."""
    pieces = [pa.table({"part": pa.array([], pa.string()), "row": pa.array([], pa.int64())})]
    table = output.rejected
    for file in () if table is None else table.files(output.layout.values):
        lines = table.read(file, ["part", "row", "reason"]) if table is not None else None
        if lines is not None:
            pieces.append(lines.filter(pc.equal(lines["reason"], FORGOTTEN)).select(["part", "row"]))
    lines = pa.concat_tables([piece.cast(pieces[0].schema) for piece in pieces])
    return {
        part: lines.filter(pc.equal(lines["part"], part))["row"].to_numpy()
        for part in pc.unique(lines["part"]).to_pylist()
    }


def _columns(output: Output, wanted: Wanted, rows: dict[str, np.ndarray], *, dry_run: bool) -> int:
    """Columns of parts: hashes of ids and users. History hashes of forgotten rows become none."""
    theirs = [
        hash_strings(pa.chunked_array([pa.array(sorted(names), pa.string())])) for names in (wanted.posts, wanted.users)
    ]
    of_part = {columns_name(path, record.etag): rows.get(path) for path, record in output.records.parts.items()}
    found = 0
    for info in listed(output.layout.columns):
        name, _, kind = info.path.partition(".")
        if kind == "npz" and any(
            _holds(info.uri, column, hashes) for column, hashes in zip(("post", "user"), theirs, strict=True)
        ):
            found += 1
            if not dry_run:
                storage.remove(info.uri)
        elif kind == "history.npy" and of_part.get(name) is not None:
            digests = np.load(io.BytesIO(storage.read_bytes(info.uri)), allow_pickle=False)
            gone = of_part[name]
            if gone is not None and len(digests) and digests[gone].any():
                found += 1
                digests[gone] = 0
                if not dry_run:
                    with storage.open_output(info.uri) as target:
                        np.lib.format.write_array(target, digests, allow_pickle=False)
    return found


def _holds(uri: str, column: str, hashes: np.ndarray) -> bool:
    try:
        with np.load(io.BytesIO(storage.read_bytes(uri)), allow_pickle=False) as arrays:
            return bool(np.isin(arrays[column], hashes).any())
    except (ValueError, KeyError, OSError):
        return True  # no such file of this version: it is made anew


def _vectors(output: Output, rows: dict[str, np.ndarray], *, dry_run: bool) -> int:
    """Vectors of forgotten rows; all of a part that the records do not know in this version."""
    settings, found = output.records.settings, 0
    known = {
        vectors_name(settings, path, record.etag): path
        for path, record in output.records.parts.items()
        if settings is not None
    }
    for info in listed(output.layout.vectors):
        path = known.get(info.path.partition("/")[0])
        try:
            with storage.open_input(info.uri) as source:
                table = pq.read_table(source)
        except (HashtagError, pa.ArrowException, OSError):
            path, table = None, pa.table({"row": pa.array([-1], pa.int64())})
        gone = np.ones(table.num_rows, bool) if path is None else np.isin(table["row"].to_numpy(), rows.get(path, []))
        found += int(gone.sum())
        if dry_run or not gone.any():
            continue
        if gone.all():
            storage.remove(info.uri)
        else:
            with storage.open_output(info.uri) as file:
                pq.write_table(table.filter(pa.array(~gone)), file)
    return found


def _is_half_written(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.startswith(".") and name.endswith(".tmp")


def strings_in(value: Any, unread: frozenset[str] = frozenset(), *, keys: bool = True) -> Iterator[str]:
    """Every string in a JSON value, with `keys` those too, and those in strings that are JSON themselves; not below the keys
    `unread`."""
    if isinstance(value, dict):
        for key, item in value.items():
            if keys:
                yield key
            if key not in unread:
                yield from strings_in(item, unread, keys=keys)
    elif isinstance(value, list):
        for item in value:
            yield from strings_in(item, unread, keys=keys)
    elif isinstance(value, str):
        yield value
        if value[:1] in ("{", "["):
            try:
                yield from strings_in(json.loads(value), unread, keys=keys)
            except ValueError:
                return
