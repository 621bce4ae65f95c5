"""Cut the sample archive from a folder of Open Clip Art posts: `python jobs/sample/cut.py SOURCE`.

Deterministic: the same source gives the same files, byte for byte with the same pyarrow. See PROVENANCE.md.
"""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

POSTS = 680
SMALL_AUTHORS = 40
MIN_POSTS, MAX_POSTS = 5, 40
"""Of one regular author, reposts not counted: enough for a history, too few to decide a split alone."""
MAX_REPOSTS = 0.4
"""Share of an author's posts that repeat a picture and its caption: some are welcome, `prepare` drops them."""
AUTHORS_A_TAG = 4
"""A tag is worth having up to so many authors: then it can stand in train, validation and test."""
PARTS = 4

Post = dict[str, Any]


def choose_authors(posts_of: dict[str, list[Post]], chosen: list[str], posts: int) -> list[str]:
    """Add, one at a time, the author who brings the most tags that chosen authors lack or share, per post."""
    authors_of_tag = Counter(tag for name in chosen for tag in tags_of(posts_of[name]))
    chosen, total = list(chosen), 0
    candidates = set(posts_of) - set(chosen)
    while total < posts and candidates:

        def gain(name: str) -> float:
            tags = tags_of(posts_of[name])
            useful = sum(0 < authors_of_tag[tag] < AUTHORS_A_TAG for tag in tags)
            return (useful + 0.2 * min(len(tags), 5)) / len(posts_of[name])

        best = min(candidates, key=lambda name: (-gain(name), name))
        candidates.remove(best)
        chosen.append(best)
        authors_of_tag.update(tags_of(posts_of[best]))
        total += len(posts_of[best])
    return chosen


def tags_of(posts: list[Post]) -> set[str]:
    """The different tags of those posts."""
    return {tag for post in posts for tag in post["hashtags"]}


def add_troubles(rows: list[Post], posts_of: dict[str, list[Post]], chosen: list[str]) -> list[Post]:
    """One author of four posts more, each post with its trouble; a row whose id is taken; a row without id."""
    left = sorted(set(posts_of) - set(chosen))
    truncated, no_image, no_caption, neither = posts_of[next(name for name in left if len(posts_of[name]) == 4)]
    anonymous = posts_of[next(name for name in left if len(posts_of[name]) == 1)][0]
    size = len(rows) // PARTS
    troubles = {
        size // 2: truncated | {"image": truncated["image"][: len(truncated["image"]) // 2]},
        size + 20: no_image | {"image": None},
        size + 90: no_caption | {"caption": None},
        2 * size + 30: neither | {"image": None, "caption": None},
        3 * size + 40: dict(rows[5]),
        3 * size + 80: anonymous | {"post_id": None},
    }
    for row in sorted(troubles):
        rows.insert(row, troubles[row])
    return rows


def cut(source: Path, target: Path) -> None:
    """Write the parts of the sample into `target`."""
    table = pa.concat_tables(pq.read_table(part) for part in sorted(source.glob("*.parquet")))
    posts_of: dict[str, list[Post]] = {}
    for post in table.to_pylist():
        posts_of.setdefault(post["user_id"], []).append(post)
    different = {name: len({(post["image"], post["caption"]) for post in posts}) for name, posts in posts_of.items()}
    regular = {
        name: posts
        for name, posts in posts_of.items()
        if MIN_POSTS <= different[name] <= MAX_POSTS and different[name] >= (1 - MAX_REPOSTS) * len(posts)
    }
    small = {name: posts for name, posts in posts_of.items() if len(posts) < MIN_POSTS}
    chosen = choose_authors(regular, [], POSTS - SMALL_AUTHORS)
    chosen = choose_authors(small | {name: posts_of[name] for name in chosen}, chosen, SMALL_AUTHORS)
    wanted = set(chosen)
    rows = add_troubles([post for post in table.to_pylist() if post["user_id"] in wanted], posts_of, chosen)
    schema = table.schema.set(0, pa.field("post_id", pa.string(), nullable=True))
    size = -(-len(rows) // PARTS)
    for n in range(PARTS):
        part = pa.Table.from_pylist(rows[n * size : (n + 1) * size], schema=schema)
        pq.write_table(part, target / f"posts-{n:04d}.parquet", compression="zstd", row_group_size=64)


if __name__ == "__main__":
    cut(Path(sys.argv[1]), Path(__file__).parent)
