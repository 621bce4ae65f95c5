import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashtag_core.config import ArchiveSection, CaptionsSection, VocabularySection
from hashtag_core.data.dataset import Dataset
from hashtag_core.data.dataset_rows import INDEX, PostRules, SplitWriter, index_posts, prepare_posts
from hashtag_core.data.parquet_rows import normalise_posts
from hashtag_core.data.vocabulary import Vocabulary, read_tag_rules
from hashtag_core.errors import ConfigError, IntegrityError, NotFoundError
from hashtag_core.schema import PREPARED

RULES = PostRules(
    CaptionsSection(),
    read_tag_rules(VocabularySection(synonyms={"see": "sea"})),
    archive=ArchiveSection(max_image_bytes=1000),
)


def posts(count: int, **fields: object) -> pa.Table:
    rows = [{"post_id": f"p{n}", "caption": f"a sea #See number {n}", "image": b"jpeg", **fields} for n in range(count)]
    return normalise_posts(pa.Table.from_pylist(rows))[0]


def test_prepared_rows_by_hand() -> None:
    (row,) = prepare_posts(posts(1), [7], "a/b.parquet", RULES).to_pylist()
    assert row["caption"] == "a sea number 0"
    assert row["hashtags"] == ["sea"]
    assert row["source"] == "a/b.parquet#7"
    assert row["caption_key"] == "25d0c8b7d469991e751aa9ad16861811b696674c129570aa87f7ef8c40675d6e"
    assert row["image"] == b"jpeg"
    assert row["image_key"] == "41e5787e9f28562d07b891b1816b492309d646c0f2829743fa4963a9f9cc1d61"


def test_the_column_goes_before_the_caption_and_an_empty_one_does_not() -> None:
    rows = pa.concat_tables(
        [posts(1, hashtags=["#Given", "given", "12"]), posts(1, hashtags=[]), posts(1, caption=None)]
    )
    prepared = prepare_posts(rows, [0, 1, 2], "p", RULES)
    assert prepared["hashtags"].to_pylist() == [["given"], ["sea"], []]
    assert prepared["caption_key"].to_pylist()[2] is None
    index = index_posts(rows, pa.array([0, 1, 2]), 3, RULES)
    assert index.schema.equals(INDEX)
    assert index["hashtags"].to_pylist() == prepared["hashtags"].to_pylist()
    assert [key and key.hex() for key in index["caption_key"].to_pylist()] == prepared["caption_key"].to_pylist()
    assert [key.hex() for key in index["image_key"].to_pylist()] == prepared["image_key"].to_pylist()


def test_an_image_that_is_too_large_is_left_out() -> None:
    rows = posts(1, image=b"x" * 1001)
    (row,) = prepare_posts(rows, [0], "p", RULES).to_pylist()
    assert row["image"] is None
    assert row["image_key"] is None
    assert index_posts(rows, pa.array([0]), 0, RULES)["image_too_large"].to_pylist() == [True]


def write_dataset(folder: Path) -> Path:
    writer = SplitWriter(str(folder), "train/part-00000-x.parquet")
    for first in range(0, 1200, 100):
        writer.add(prepare_posts(posts(100), list(range(first, first + 100)), "p", RULES))
    files = [writer.close(), SplitWriter(str(folder), "test/part-00000-x.parquet").close()]
    Vocabulary(["sea"], np.array([1200]), 1200).save(str(folder / "vocabulary.json"))
    info = {
        "format": 1,
        "content_hash": "x",
        "posts": {"train": 1200, "validation": 0, "test": 0},
        "vocabulary": 1,
        "rejected": 0,
        "left_out": {},
        "config": {},
        "archive": "a",
        "fingerprint": "f",
        "files": [file.model_dump() for file in files if file],
    }
    (folder / "dataset.json").write_text(json.dumps(info))
    return folder


def test_rows_come_back_in_their_order(tmp_path: Path) -> None:
    dataset = Dataset.open(str(write_dataset(tmp_path)))
    assert dataset.vocabulary.tags == ["sea"]
    assert dataset.files("test") == []
    assert not (tmp_path / "test").exists()
    tables = list(dataset.read("train"))
    assert max(table.num_rows for table in tables) <= 512
    assert tables[0].schema.equals(PREPARED)
    assert [s for table in tables for s in table["source"].to_pylist()] == [f"p#{n}" for n in range(1200)]
    (first, *_) = dataset.read("train", ["source", "post_id"], batch_rows=10)
    assert first.schema.names == ["source", "post_id"]
    assert first.num_rows == 10
    with pytest.raises(ConfigError, match="no split 'dev'"):
        dataset.files("dev")  # type: ignore[arg-type]


def test_an_abandoned_file_never_appears(tmp_path: Path) -> None:
    writer = SplitWriter(str(tmp_path), "train/part.parquet")
    for _ in range(6):
        writer.add(prepare_posts(posts(100), list(range(100)), "p", RULES))
    writer.abandon()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_no_dataset_and_a_broken_one(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no dataset there .*run jobs/prepare\.py first"):
        Dataset.open(str(tmp_path))
    write_dataset(tmp_path)
    info = json.loads((tmp_path / "dataset.json").read_text())
    for change in ({"format": 2}, {"posts": 3}, {"surplus": 1}):
        (tmp_path / "dataset.json").write_text(json.dumps({**info, **change}))
        with pytest.raises(IntegrityError, match=rf"dataset\.json: {next(iter(change))}"):
            Dataset.open(str(tmp_path))


def test_rows_of_a_file_come_in_the_batches_that_all_of_it_comes_in(tmp_path: Path) -> None:
    table = pa.table({"post_id": [f"p{n}" for n in range(23)], "caption": [str(n) for n in range(23)]})
    pq.write_table(table, tmp_path / "some.parquet", row_group_size=5)
    uri = str(tmp_path / "some.parquet")
    dataset = Dataset("", None)  # type: ignore[arg-type]  # only its files are read
    for begin, end in ((0, 23), (0, 4), (4, 12), (8, 23), (20, 21), (22, 40), (12, 12)):
        found = list(dataset.read_rows(uri, begin, end, ["caption"], batch_rows=4))
        rows = [value for each in found for value in each["caption"].to_pylist()]
        assert rows == [str(n) for n in range(begin, min(end, 23))]
        assert all(len(each) == 4 for each in found[:-1])
        assert all(each.column_names == ["caption"] for each in found)
