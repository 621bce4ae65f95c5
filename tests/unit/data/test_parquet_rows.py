""""""

import datetime
import decimal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashtag_core.data.parquet_rows import PartBatch, iter_post_batches, list_parts, normalise_posts, part_problem
from hashtag_core.errors import ArchiveError, MachineError, NotFoundError, StorageError
from hashtag_core.schema import POST
from hashtag_core.storage import file_info

UTC = datetime.UTC


def table(**columns: pa.Array | list) -> pa.Table:
    return pa.table({"post_id": ["a", "b"], **columns})


def one(name: str, values: pa.Array | list) -> list:
    posts, rejected = normalise_posts(table(**{name: values}))
    assert posts.schema.equals(POST)
    assert rejected == []
    return posts[name].to_pylist()


DAY = datetime.datetime(2020, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "values", "read"),
    [
        ("caption", pa.array(["x", None], pa.large_string()), ["x", None]),
        ("caption", pa.array(["x", "x"]).dictionary_encode(), ["x", "x"]),
        ("caption", pa.array(["x", None], pa.string_view()), ["x", None]),
        ("caption", pa.array([b"x\xff", None], pa.binary()), ["x\ufffd", None]),
        ("caption", pa.nulls(2), [None, None]),
        ("user_id", pa.array([7, None], pa.int64()), ["7", None]),
        ("hashtags", pa.array([["x"], None], pa.large_list(pa.large_string())), [["x"], None]),
        ("hashtags", pa.array([["x", None], []]), [["x"], []]),
        ("hashtags", pa.array([["x"], ["y"]], pa.list_(pa.string(), 1)), [["x"], ["y"]]),
        ("hashtags", pa.array([["x"], ["y"]], pa.list_(pa.dictionary(pa.int32(), pa.string()))), [["x"], ["y"]]),
        ("hashtags", pa.array([[b"\xff"], None], pa.list_(pa.binary())), [["\ufffd"], None]),
        ("hashtags", pa.nulls(2), [None, None]),
        ("hashtags", pa.array([[], None], pa.list_(pa.null())), [[], None]),
        ("image", pa.array([b"x", None], pa.large_binary()), [b"x", None]),
        ("image", pa.array([b"xy", b"zz"], pa.binary(2)), [b"xy", b"zz"]),
        ("image", pa.array([b"x", None], pa.binary_view()), [b"x", None]),
        ("latitude", pa.array([1, None], pa.int8()), [1.0, None]),
        ("longitude", pa.array([decimal.Decimal("1.5"), None]), [1.5, None]),
        ("created_at", pa.array([DAY.date(), None]), [DAY, None]),
        ("created_at", pa.array([DAY.replace(tzinfo=None), None], pa.timestamp("s")), [DAY, None]),
        ("created_at", pa.array([DAY, None], pa.timestamp("ns", "Asia/Tokyo")), [DAY, None]),
        ("created_at", pa.nulls(2), [None, None]),
    ],
)
def test_acceptable_columns_become_post(name: str, values: pa.Array, read: list) -> None:
    assert one(name, values) == read


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("caption", [1, None], "caption: expected string, found int64"),
        ("hashtags", ["x", None], "hashtags: expected list<string>, found string"),
        ("hashtags", [[1], None], "hashtags: expected list<string>, found list<"),
        ("image", ["x", None], "image: expected binary, found string"),
        ("created_at", [1, None], "created_at: expected timestamp, found int64"),
        (
            "created_at",
            pa.array([2**62, None], pa.timestamp("s")),
            "created_at: expected a time in the years 1 to 9999",
        ),
        ("latitude", ["x", None], "latitude: expected a number, found string"),
    ],
)
def test_a_value_of_a_wrong_type_rejects_its_row_alone(name: str, values: pa.Array | list, reason: str) -> None:
    posts, rejected = normalise_posts(table(**{name: values}), "part", 10)
    assert posts["post_id"].to_pylist() == ["b"]
    assert [(item.part, item.row, item.post_id) for item in rejected] == [("part", 10, "a")]
    assert rejected[0].reason.startswith(reason)


def test_rows_without_an_id() -> None:
    posts, rejected = normalise_posts(pa.table({"post_id": ["a", None, "", " \t", "b"]}), first_row=100)
    assert posts["post_id"].to_pylist() == ["a", "b"]
    assert [(item.row, item.reason) for item in rejected] == [
        (101, "post_id: expected a non-empty string, found null"),
        (102, "post_id: expected a non-empty string, found ''"),
        (103, r"post_id: expected a non-empty string, found ' \t'"),
    ]
    assert PartBatch(100, posts, rejected).rows.tolist() == [100, 104]


def test_column_order_and_other_columns_do_not_matter() -> None:
    posts, _ = normalise_posts(pa.table({"likes": [1], "caption": ["c"], "post_id": ["a"], "extra": [{"x": 1}]}))
    assert posts.schema.equals(POST)
    assert posts.to_pylist()[0]["caption"] == "c"


def test_no_id_column() -> None:
    with pytest.raises(ArchiveError, match="post_id: column missing, found id, text"):
        normalise_posts(pa.table({"id": ["a"], "text": ["b"]}))


def test_sliced_and_chunked_tables_keep_their_rows() -> None:
    whole = pa.concat_tables([pa.table({"post_id": [f"{n}"], "caption": [f"c{n}"]}) for n in range(5)])
    posts, _ = normalise_posts(whole.slice(1, 3))
    assert posts["caption"].to_pylist() == ["c1", "c2", "c3"]


@settings(max_examples=25, deadline=None)
@given(
    ids=st.lists(st.none() | st.sampled_from(["", " ", "x", "y", "é"]), min_size=1, max_size=40),
    batch_rows=st.integers(1, 50),
    group=st.integers(1, 20),
)
def test_batches_hold_every_row_once_whatever_their_size(
    ids: list, batch_rows: int, group: int, tmp_path_factory
) -> None:
    path = tmp_path_factory.mktemp("part") / "p.parquet"
    pq.write_table(pa.table({"post_id": pa.array(ids, pa.string())}), path, row_group_size=group)
    seen: dict[int, str] = {}
    rejected: set[int] = set()
    for batch in iter_post_batches(str(path), batch_rows, ["post_id"]):
        assert batch.posts.schema.names == ["post_id"]
        seen |= dict(zip(batch.rows.tolist(), batch.posts["post_id"].to_pylist(), strict=True))
        rejected |= {item.row for item in batch.rejected}
    good = {row: held for row, held in enumerate(ids) if (held or "").strip()}
    assert seen == good
    assert rejected == set(range(len(ids))) - set(good)


def test_a_part_that_is_no_parquet_and_one_cut_short(
    tmp_path: Path, write_part: Callable[..., Path], make_posts
) -> None:
    bad = tmp_path / "bad.parquet"
    bad.write_text("<html>")
    (only,) = iter_post_batches(str(bad), 512)
    assert only.posts.num_rows == 0
    assert only.rejected[0].row is None
    assert only.rejected[0].part == "bad.parquet"
    assert "expected a Parquet file" in only.rejected[0].reason
    whole = write_part(tmp_path / "whole.parquet", make_posts(40)).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (cut,) = iter_post_batches(str(tmp_path / "cut.parquet"), 512)
    assert "expected a Parquet file" in cut.rejected[0].reason
    (tmp_path / "empty.parquet").write_bytes(b"")
    assert next(iter_post_batches(str(tmp_path / "empty.parquet"), 8)).rejected
    assert part_problem(file_info(str(bad))) is not None
    assert part_problem(file_info(str(tmp_path / "whole.parquet"))) is None


def test_a_broken_page_in_the_middle_costs_its_row_group_alone(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(
        pa.table({"post_id": [f"{n}" for n in range(2000)], "caption": ["x" * 50 + str(n) for n in range(2000)]}),
        path,
        row_group_size=500,
        compression="zstd",
        use_dictionary=False,
    )
    held = pq.ParquetFile(path).metadata.row_group(2).column(1)
    data = bytearray(path.read_bytes())
    begin = held.data_page_offset
    data[begin : begin + held.total_compressed_size] = b"\x00" * held.total_compressed_size
    path.write_bytes(data)
    batches = list(iter_post_batches(str(path), 100))
    ids = [post_id for batch in batches for post_id in batch.posts["post_id"].to_pylist()]
    assert ids == [f"{n}" for n in (*range(1000), *range(1500, 2000))]
    assert [int(row) for batch in batches for row in batch.rows] == [int(post_id) for post_id in ids]
    gone = [item for batch in batches for item in batch.rejected]
    assert [item.row for item in gone] == list(range(1000, 1500))
    assert all(item.reason.startswith("unreadable: expected a Parquet file, found: ") for item in gone)
    assert [batch.first_row for batch in batches] == list(range(0, 2000, 100))


def one_picture_for_all(path: Path, posts: int, picture: bytes, others: int = 0, *, struct: bool = False) -> None:
    """As exporters write a placeholder: once, in a dictionary."""
    images: list = [picture] * posts + [np.random.default_rng(n).bytes(100_000) for n in range(others)]
    held = [{"bytes": image, "path": None} for image in images] if struct else images
    pq.write_table(pa.table({"post_id": [f"{n}" for n in range(posts + others)], "image": held}), path)


@pytest.mark.parametrize("struct", [False, True])
@pytest.mark.parametrize("others", [0, 200])
def test_batches_are_cut_by_what_they_hold_once_read(tmp_path: Path, struct: bool, others: int) -> None:
    picture = np.random.default_rng(0).bytes(300_000)
    path = tmp_path / "p.parquet"
    one_picture_for_all(path, 64, picture, others, struct=struct)
    batches = list(iter_post_batches(str(path), 512, max_batch_bytes=2_000_000))
    assert [post_id for batch in batches for post_id in batch.posts["post_id"].to_pylist()] == [
        f"{n}" for n in range(64 + others)
    ]
    assert all(batch.posts["image"].type == pa.binary() for batch in batches)
    assert {len(image) for batch in batches for image in batch.posts["image"].to_pylist()} <= {300_000, 100_000}
    assert max(batch.posts["image"].nbytes for batch in batches) <= 2_010_000
    assert len(batches) == 11 if not others else len(batches) < 40
    (one,) = {len(batch.rejected) for batch in batches}
    assert one == 0


def test_one_picture_of_512_posts_does_not_fill_the_memory(tmp_path: Path, repository: Path) -> None:
    """1.5 MB in the file, 768 MB were it read at once."""
    picture = pa.array([np.random.default_rng(0).bytes(1_500_000)])
    images = pa.DictionaryArray.from_arrays(pa.array([0] * 512, pa.int32()), picture)
    held = pa.table({"post_id": [f"{n}" for n in range(512)], "image": images})
    pq.write_table(held, tmp_path / "p.parquet", store_schema=False)  # plain to who reads it
    script = f"""
from hashtag_core.data.parquet_rows import iter_post_batches
def held(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1]) // 1024
before = held("VmRSS")
rows = sum(batch.posts.num_rows for batch in iter_post_batches({str(tmp_path / "p.parquet")!r}, 512, max_batch_bytes=64 << 20))
print(rows, held("VmHWM") - before)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=repository, capture_output=True, text=True, check=True)
    rows, taken = map(int, done.stdout.split())
    assert rows == 512
    assert taken < 250


def test_large_rows_make_small_batches(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    images = [np.random.default_rng(n).bytes(10_000) for n in range(40)]
    pq.write_table(pa.table({"post_id": [f"{n}" for n in range(40)], "image": images}), path)
    sizes = [batch.posts.num_rows for batch in iter_post_batches(str(path), 512, max_batch_bytes=100_000)]
    assert sum(sizes) == 40
    assert 8 <= max(sizes) <= 10


def test_an_archive_without_a_part(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="without a part"):
        list_parts(str(tmp_path))
    with pytest.raises(NotFoundError):
        list_parts(str(tmp_path / "missing"))


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (pa.lib.ArrowMemoryError("malloc of size 67108864 failed"), MachineError),
        (OSError(5, "Input/output error"), StorageError),
        (OSError("When reading 'b/k': AWS Error SLOW_DOWN during GetObject operation"), StorageError),
    ],
)
def test_what_the_machine_does_is_no_unreadable_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception, told: type[Exception]
) -> None:
    pq.write_table(table(), tmp_path / "a.parquet")
    (part,) = list_parts(str(tmp_path))

    def fails(*_: object, **__: object) -> None:
        raise fault

    for owner, name, work in (
        (pq, "ParquetFile", lambda: part_problem(part)),
        (pq.ParquetFile, "iter_batches", lambda: list(iter_post_batches(part, 10))),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fails)
            with pytest.raises(told, match=r"a\.parquet: read failed"):
                work()
