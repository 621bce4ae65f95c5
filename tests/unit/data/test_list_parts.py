"""Which files are parts, and that every file is in the tally once, with the true reason."""

import errno
import gzip
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hashtag_core.data.list_parts import list_parquet
from hashtag_core.data.parquet_rows import list_parts
from hashtag_core.errors import ArchiveError, StorageError

WHOLE = "whole"
FILES: dict[str, tuple[str | bytes, bool]] = {
    "a.parquet": (WHOLE, True),
    "deep/er/b.PARQUET": (WHOLE, True),
    "c.parq": (WHOLE, True),
    "d.pq": (WHOLE, True),
    "e.parquet.gz": (WHOLE, True),
    "f.gz.parquet": (WHOLE, True),
    "g.snappy": (WHOLE, True),
    "20240701_144951_00037_v74wa_1ad6f92e": (WHOLE, True),
    "part-00000": (WHOLE, True),
    "000000_0": (WHOLE, True),
    "_2024.parquet": (WHOLE, True),
    ".hidden.parquet": (WHOLE, True),
    "_day=1/x.parquet": (WHOLE, True),
    "day=2024-01-01/user=_ann/x.parquet": (WHOLE, True),
    "broken.parquet": (b"<html>", True),
    "empty.parquet": (b"", True),
    "packed.parq.gzip": (gzip.compress(b"x" * 100), True),
    "packed": (gzip.compress(bytes(range(100))), False),
    "_half.parquet": (b"PAR1" + bytes(40), False),
    "encrypted": (b"PARE" + bytes(40), False),
    "_SUCCESS": (b"", False),
    "_metadata": (WHOLE, False),
    "_common_metadata": (WHOLE, False),
    ".a.parquet.crc": (b"crc", False),
    "._a.parquet": (b"\0\5\26\7" + bytes(60), False),
    "_delta_log/00000000000000000010.checkpoint.parquet": (WHOLE, False),
    "_delta_log/00000000000000000000.json": (b"{}", False),
    "_spark_metadata/0": (b"v1", False),
    "_temporary/0/x.parquet": (WHOLE, False),
    "deep/_temporary/0/x.parquet": (WHOLE, False),
    ".hive-staging_hive_2024/x.parquet": (WHOLE, False),
    "_state/x.parquet": (WHOLE, False),
    "readme.txt": (b"read me", False),
    "picture.jpg": (b"\xff\xd8\xff" + bytes(20), False),
    "notes": (b"some notes of a person", False),
    "tiny": (b"x", False),
}


def write(folder: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            pq.write_table(pa.table({"post_id": [name]}), path)


def test_what_is_data_is_read_and_the_rest_is_told(tmp_path: Path) -> None:
    write(tmp_path, {name: content for name, (content, _) in FILES.items()})
    listing = list_parquet(str(tmp_path))
    assert {part.path for part in listing.parts} == {name for name, (_, read) in FILES.items() if read}
    assert [part.path for part in listing.parts] == sorted(part.path for part in listing.parts)
    assert [part.path for part in list_parts(str(tmp_path))] == [part.path for part in listing.parts]
    tally = listing.tally
    assert tally.there == len(FILES)
    named = {name: reason for reason, names in tally.names.items() for name in names}
    assert named["packed"] == "packed with gzip as a whole: unpack it"
    assert named["_half.parquet"] == "not Parquet by its content, and its name is hidden"
    assert named["encrypted"].startswith("encrypted")
    assert named["_delta_log/00000000000000000000.json"] == "in the bookkeeping folder _delta_log"
    assert named["readme.txt"] == "named .txt, no Parquet"
    assert named["tiny"] == "too small to be Parquet"


def test_the_same_on_s3(tmp_path: Path, s3_bucket: str) -> None:
    from hashtag_core import storage

    write(tmp_path, {name: content for name, (content, _) in FILES.items()})
    storage.upload_folder(str(tmp_path), f"{s3_bucket}/a")
    here, there = list_parquet(str(tmp_path)), list_parquet(f"{s3_bucket}/a")
    assert [part.path for part in here.parts] == [part.path for part in there.parts]
    assert here.tally.to_json() == there.tally.to_json()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.sets(st.sampled_from(sorted(FILES))))
def test_read_and_left_out_are_what_is_there(names: set[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("archive")
    write(folder, {name: FILES[name][0] for name in names})
    tally = list_parquet(str(folder)).tally
    assert tally.read + sum(tally.left_out.values()) == tally.there == len(names)
    assert tally.read == sum(FILES[name][1] for name in names)


def test_a_store_that_fails_is_not_taken_for_a_file_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be looked at because the machine failed is not left out: its posts would be lost without a word."""
    from hashtag_core import storage

    write(tmp_path, {"part-00000": WHOLE, "secret": WHOLE})
    real = storage.open_input

    def failing(uri: str) -> pa.NativeFile:
        if uri.endswith("secret"):
            raise StorageError(f"{uri}: open failed") from PermissionError(errno.EACCES, "Permission denied")
        return real(uri)

    monkeypatch.setattr(storage, "open_input", failing)
    listing = list_parquet(str(tmp_path))
    assert [part.path for part in listing.parts] == ["part-00000"]
    assert listing.tally.left_out == {"unreadable, and its name does not say what it is": 1}

    def down(uri: str) -> pa.NativeFile:
        raise StorageError(f"{uri}: open failed") from OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(storage, "open_input", down)
    with pytest.raises(StorageError):
        list_parquet(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "posts.csv",
            r"expected Parquet files .*; found posts\.csv \(named .csv, no Parquet\) \(--format csv reads them\)",
        ),
        ("lines.jsonl", r"--format jsonl"),
        ("2020-01-01_00-00-00_UTC.jpg", r"--format instaloader"),
        ("notes.md", r"found notes\.md \(named .md, no Parquet\)$"),
    ],
)
def test_an_archive_of_something_else_names_the_format_that_reads_it(name: str, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("x,y,and more of it\n")
    with pytest.raises(ArchiveError, match=told):
        list_parts(str(tmp_path))


def test_a_single_file_is_an_archive(tmp_path: Path, write_part: Callable[..., Path]) -> None:
    path = write_part(tmp_path / "only", [{"post_id": "1"}])
    assert [part.uri for part in list_parts(str(path))] == [str(path)]
