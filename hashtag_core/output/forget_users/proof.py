"""The proof that an output holds nothing of forgotten posts: every file below it, read as it lies there.

It goes another way than the deed: no log and no record says which files there are or whose rows are whose. In each file it
looks for the ids and the users as they were given, for their hashes as the output keeps them, and for ids on the forget list.
"""

import io
import json
import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from hashtag_core import storage
from hashtag_core.data.history import hash_strings
from hashtag_core.errors import HashtagError
from hashtag_core.output.forget_users.forget_list import ForgetList
from hashtag_core.output.forget_users.state_files import strings_in
from hashtag_core.output.forget_users.wanted import Wanted
from hashtag_core.output.ids import ENTRY_BYTES, keys_of
from hashtag_core.output.records import TagSettings
from hashtag_core.storage import FileInfo

NO_IDS = frozenset(
    {
        *("hashtags", "true_hashtags", "tags", "status", "statuses", "scores", "first_scores", "drift", "kind"),
        *("model", "version", "model_name", "model_version", "partitionValues", "partitionValues_parsed"),
        *("commitInfo", "protocol", "metaData", "txn", "settings", "host"),
        *TagSettings.model_fields,
    }
)
"""Columns and keys of JSON whose values are no ids, though a user may be called so: names of tags and models, modes, settings."""
TOLD = frozenset({"reason", "detail"})
"""Columns of messages: an id in one of them is quoted."""
QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")
OURS = ("_state/", "_delta_log/", "_rejected/_delta_log/")
"""Where the keys of JSON are those of this program or of Delta."""


def remains(out: str, wanted: Wanted) -> list[str]:
    """Files that hold anything of them, and what; every file below `out` is read but the list itself."""
    look = _Look(wanted)
    found = []
    for info in storage.list_files(out, hidden=True):
        if info.uri == ForgetList.uri(out):
            continue
        try:
            what = next(look.found_in(info), None)
        except (HashtagError, pa.ArrowException, OSError, ValueError, KeyError) as error:
            what = f"cannot be read: {error}"
        if what is not None:
            found.append(f"{info.path}: {what}")
    return found


class _Look:
    """What is looked for, in every form in which it is kept."""

    def __init__(self, wanted: Wanted) -> None:
        self.forgotten = wanted.forgotten
        self.reads_keys = True
        ids, users = wanted.posts - wanted.shared, wanted.users
        self.keys = set(keys_of(pa.array(sorted(ids), pa.string())).to_hex())
        self.plain = ids | users | set(wanted.forgotten.users)
        self.names = pa.array(sorted(self.plain), pa.string())
        self.hashes = {
            "post": hash_strings(pa.chunked_array([pa.array(sorted(ids), pa.string())])),
            "user": hash_strings(pa.chunked_array([pa.array(sorted(users), pa.string())])),
        }

    def found_in(self, info: FileInfo) -> Iterator[str]:
        """What is found in a file."""
        self.reads_keys = not info.path.startswith(OURS)
        name = info.path.rpartition("/")[2]
        if name.endswith(".parquet"):
            yield from self._in_parquet(info)
        elif name.endswith((".json", ".jsonl")) or name.startswith("_"):
            yield from self._in_json(storage.read_bytes(info.uri).decode())
        elif name.endswith(".npz"):
            with np.load(io.BytesIO(storage.read_bytes(info.uri)), allow_pickle=False) as arrays:
                yield from (
                    f"hash of a {kind}" for kind in self.hashes if np.isin(arrays[kind], self.hashes[kind]).any()
                )
        elif name.endswith(".run"):
            yield from self._in_index(storage.read_bytes(info.uri))
        elif not name.endswith((".npy", ".crc")):
            content = storage.read_bytes(info.uri)
            yield from ("a name" for item in self.plain if len(item) > 3 and item.encode() in content)

    def _in_parquet(self, info: FileInfo) -> Iterator[str]:
        with storage.open_input(info.uri) as source:
            file = pq.ParquetFile(source)
            for value in (file.metadata.metadata or {}).values():
                yield from self._in_json(value.decode("utf-8", "replace"))
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group)
                for name, column in zip(rows.column_names, rows.columns, strict=True):
                    if name not in NO_IDS:
                        yield from self._in_column(name, column)

    def _in_column(self, name: str, column: pa.ChunkedArray) -> Iterator[str]:
        kind = column.type
        if pt.is_struct(kind):
            for item in kind:
                if item.name not in NO_IDS:
                    yield from self._in_column(item.name, pc.struct_field(column, item.name))
        elif pt.is_map(kind):
            for chunk in column.chunks:
                for inner in (chunk.keys, chunk.items):
                    yield from self._in_column(name, pa.chunked_array([inner]))
        elif pt.is_list(kind) or pt.is_large_list(kind):
            yield from self._in_column(name, pc.list_flatten(column))
        elif pt.is_dictionary(kind):
            yield from self._in_column(name, column.cast(kind.value_type))
        elif pt.is_string(kind) or pt.is_large_string(kind):
            yield from self._in_texts(name, column.cast(pa.string()))

    def _in_texts(self, name: str, texts: pa.ChunkedArray) -> Iterator[str]:
        if name in TOLD:
            quoted = texts.filter(pc.match_substring_regex(texts, "['\"]")).to_pylist()
            named = (item for text in quoted for pair in QUOTED.findall(text) for item in pair)
            yield from (f"a name in {name}" for item in named if item in self.plain)
        elif pc.any(pc.is_in(texts, value_set=self.names)).as_py():
            yield f"a name in {name}"
        if name == "post_id" and self.forgotten.posts:
            listed = (self.forgotten.post_key(item) in self.forgotten.posts for item in texts.drop_null().to_pylist())
            if any(listed):
                yield "a post_id that is on the list"
        inside = texts.filter(pc.match_substring_regex(texts, r"^[\[{]"))
        for text in inside.to_pylist():
            yield from self._in_json(text)

    def _in_json(self, text: str) -> Iterator[str]:
        """Of JSON, or JSON lines; anything else holds no id."""
        for value in _values(text):
            for item in strings_in(value, NO_IDS, keys=self.reads_keys):
                if item in self.plain or item in self.keys:
                    yield "a name in JSON"

    def _in_index(self, content: bytes) -> Iterator[str]:
        n = int.from_bytes(content[:8], "little")
        if len(content) != 8 + ENTRY_BYTES * n:
            yield f"{len(content)} bytes, which are no index"
            return
        high = np.frombuffer(content, "<u8", n, 8)
        low = np.frombuffer(content, "<u4", n, 8 + 16 * n)
        if self.keys & {f"{upper:016x}{lower:08x}" for upper, lower in zip(high.tolist(), low.tolist(), strict=True)}:
            yield "the hash of a post_id"


def _values(text: str) -> Iterator[object]:
    """The JSON value that a text is, or the one on each of its lines."""
    try:
        yield json.loads(text)
        return
    except ValueError:
        pass
    for line in text.split("\n"):
        try:
            yield json.loads(line)
        except ValueError:
            continue
