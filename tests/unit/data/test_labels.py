"""No label of a post is left in the caption that a model reads, whatever the layout, the script and the way it is written."""

import csv
import json
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashtag_core.config import ArchiveSection, CaptionsSection, Recipe
from hashtag_core.data.dataset_rows import PostRules, index_posts, prepare_posts
from hashtag_core.data.open_archive import open_archive
from hashtag_core.data.vocabulary import read_tag_rules

WORDS = [
    "love",
    "Nature",
    "ＳＵＮ",
    "東京",
    "很开心",
    "ทะเล",
    "바다",
    "שמש",
    "شمس",
    "новости",
    "café",
    "Straße",
    "日の出",
    "x1",
    "क्षण",
]
GLUE = [" #", "#", "＃", "##", " ", "", "、#", "x#", "は#", "1#", "(#", "\u200b#", "#\u00ad", "&#35;", "@ann#"]
CAPTIONS = st.lists(st.tuples(st.sampled_from(GLUE), st.sampled_from(WORDS)), min_size=1, max_size=5).map(
    lambda pieces: "".join(map("".join, pieces))
)
LABELS = st.lists(st.sampled_from(WORDS), max_size=3)


def rules(archive: ArchiveSection, captions: CaptionsSection | None = None) -> PostRules:
    return PostRules(captions or CaptionsSection(), read_tag_rules(Recipe().vocabulary), archive)


def write(folder: Path, layout: str, posts: list[tuple[str, list[str]]]) -> None:
    rows = [{"post_id": f"{n}", "caption": caption, "hashtags": labels} for n, (caption, labels) in enumerate(posts)]
    if layout == "posts":
        schema = pa.schema({"post_id": pa.string(), "caption": pa.string(), "hashtags": pa.list_(pa.string())})
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "a.parquet")
    elif layout == "jsonl":
        (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with (folder / "a.csv").open("w", newline="") as file:
            lines = [[row["post_id"], row["caption"], "|".join(row["hashtags"])] for row in rows]
            csv.writer(file).writerows([["post_id", "caption", "hashtags"], *lines])


@settings(max_examples=60, deadline=None)
@given(
    posts=st.lists(st.tuples(CAPTIONS, LABELS), min_size=1, max_size=6),
    layout=st.sampled_from(["posts", "csv", "jsonl"]),
)
def test_no_label_is_left(
    posts: list[tuple[str, list[str]]], layout: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("archive")
    write(folder, layout, posts)
    section = ArchiveSection(format=layout)
    archive = open_archive(str(folder), section)
    seen = 0
    for batch in archive.read(archive.parts[0], 10):
        prepared = prepare_posts(batch.posts, batch.rows.tolist(), "a", rules(section))
        index = index_posts(batch.posts, pa.array(batch.rows), 0, rules(section))
        assert index["hashtags"].to_pylist() == prepared["hashtags"].to_pylist()
        for row in prepared.to_pylist():
            seen += 1
            text = unicodedata.normalize("NFKC", row["caption"] or "").casefold()
            assert [tag for tag in row["hashtags"] if "#" + tag in text] == [], (row, posts)
    assert seen == len(posts)


def test_whose_rules_hold_is_the_recipes_to_say() -> None:
    post = (None, "quiet evening #love#nature #sun")
    assert rules(ArchiveSection()).hashtags_of(*post) == ["love", "nature", "sun"]
    assert rules(ArchiveSection(hashtag_rules="twitter")).hashtags_of(*post) == ["sun"]
    assert rules(ArchiveSection(hashtag_rules="twitter")).caption_of(post[1], None) == "quiet evening"
