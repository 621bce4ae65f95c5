"""The sample archive is what its PROVENANCE.md says, and what the demo and its users count on."""

import hashlib
import io
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hashtag_core.schema import POST


@pytest.fixture(scope="module")
def parts(repository: Path) -> list[Path]:
    return sorted((repository / "jobs" / "sample").glob("*.parquet"))


@pytest.fixture(scope="module")
def rows(parts: list[Path]) -> list[dict[str, Any]]:
    return pa.concat_tables(pq.read_table(part) for part in parts).to_pylist()


def test_size_and_parts(parts: list[Path], rows: list[dict[str, Any]], repository: Path) -> None:
    assert len(parts) >= 3
    assert all(pq.ParquetFile(part).metadata.num_row_groups > 1 for part in parts)
    assert sum(file.stat().st_size for file in (repository / "jobs" / "sample").iterdir()) <= 6_000_000
    assert 600 <= len(rows) <= 800


def test_columns_are_those_of_the_post_schema(parts: list[Path]) -> None:
    for part in parts:
        schema = pq.read_schema(part)
        assert set(schema.names) <= set(POST.names)
        for field in schema:
            assert field.type.equals(POST.field(field.name).type) or field.name == "hashtags"
        assert pa.types.is_string(schema.field("hashtags").type.value_type)


def test_authors_have_histories_and_none_decides_a_split(rows: list[dict[str, Any]]) -> None:
    different = defaultdict(set)
    for row in rows:
        different[row["user_id"]].add((row["image"], row["caption"]))
    assert sum(len(posts) >= 5 for posts in different.values()) >= 40
    assert max(Counter(row["user_id"] for row in rows).values()) <= 0.15 * len(rows)


def test_tags_are_shared(rows: list[dict[str, Any]]) -> None:
    uses = Counter(tag for row in rows for tag in set(row["hashtags"]))
    assert sum(count >= 5 for count in uses.values()) >= 60
    authors = defaultdict(set)
    for row in rows:
        for tag in row["hashtags"]:
            authors[tag].add(row["user_id"])
    assert sum(len(names) >= 3 for names in authors.values()) >= 60


def test_any_division_of_the_authors_leaves_posts_with_known_tags(rows: list[dict[str, Any]]) -> None:
    names = sorted({row["user_id"] for row in rows})
    for seed in range(20):
        draw = {name: hashlib.sha256(f"{seed}:{name}".encode()).digest()[0] / 256 for name in names}
        train = [row for row in rows if draw[row["user_id"]] >= 0.3]
        test = [row for row in rows if draw[row["user_id"]] < 0.15]
        uses = Counter(tag for row in train for tag in set(row["hashtags"]))
        known = {tag for tag, count in uses.items() if count >= 5}
        assert len(known) >= 50, seed
        assert sum(bool(known & set(row["hashtags"])) for row in test) >= 10, seed


def test_the_troubles_are_there_and_no_others(rows: list[dict[str, Any]]) -> None:
    ids = Counter(row["post_id"] for row in rows)
    assert ids[None] == 1
    assert sum(count - 1 for count in ids.values()) == 1, "one duplicate id"
    troubles = Counter()
    for row in rows:
        image, caption = row["image"], row["caption"]
        if not image or not caption:
            troubles["neither" if not image and not caption else "image" if not image else "caption"] += 1
        if image:
            try:
                Image.open(io.BytesIO(image)).load()
            except OSError as error:
                troubles["truncated" if "truncated" in str(error) else "unreadable"] += 1
    assert troubles == {"neither": 1, "image": 1, "caption": 1, "truncated": 1}
    assert all(row["hashtags"] for row in rows)


def test_it_can_be_cut_again(
    parts: list[Path], repository: Path, shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    source = shared_data("openclipart")
    script = tmp_path / "cut.py"
    script.write_bytes((repository / "jobs" / "sample" / "cut.py").read_bytes())
    subprocess.run([sys.executable, script, source], check=True)
    assert [part.name for part in sorted(tmp_path.glob("*.parquet"))] == [part.name for part in parts]
    for part in parts:
        assert pq.read_table(tmp_path / part.name).equals(pq.read_table(part))
    provenance = (repository / "jobs" / "sample" / "PROVENANCE.md").read_text()
    for file in source.glob("*.parquet"):
        assert hashlib.sha256(file.read_bytes()).hexdigest() in provenance
