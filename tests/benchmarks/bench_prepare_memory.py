"""What `prepare` holds on the driver, in bytes a post: the index of all posts, and the peak while it is decided upon.

`python tests/benchmarks/bench_prepare_memory.py [POSTS] [ids]`: posts with all they can have, or (`ids`) with an id and a tag.
The contract is 300 bytes a post, and 4 GiB for 10,000,000 posts with ids alone.
"""

import hashlib
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hashtag_core.config import SplitSection, VocabularySection
from hashtag_core.data.dataset_rows import INDEX, lean_index
from hashtag_core.data.decide_splits import content_hash, partition_posts

PART_POSTS = 5_000


def held(name: str) -> int:
    return (
        int(next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name)).split()[1]) * 1024
    )


def part(number: int, posts: int, bare: bool) -> pa.Table:
    k = np.arange(number * PART_POSTS, min(posts, (number + 1) * PART_POSTS))
    tags = np.random.default_rng(number).integers(0, 5_000, (len(k), 1 if bare else 6))
    key = None if bare else [hashlib.sha256(str(i).encode()).digest() for i in k]
    columns: dict[str, Any] = {
        "part": pa.array(np.full(len(k), number), pa.int32()),
        "row": pa.array(k % PART_POSTS),
        "post_id": [f"post-{i:012d}" for i in k],
        "user_id": None if bare else [f"user-{i % (posts // 20)}" for i in k],
        "created_at": None if bare else pa.array(k * 1_000_000, pa.timestamp("us", "UTC")),
        "hashtags": [[f"hashtag{t}" for t in row] for row in tags],
        "words": pa.array(np.full(len(k), 0 if bare else 9), pa.int32()),
        "caption_key": key,
        "caption_hash": None if bare else k.astype(np.int64) * 7919,
        "caption_words": pa.array(np.full(len(k), 0 if bare else 9), pa.int32()),
        "image_key": key,
        "image_hash": None if bare else (k * 104_729).astype(np.uint64),
        "content_hash": [hashlib.sha256(b"%d" % i).digest() for i in k],
    }
    made = {}
    for field in INDEX:
        value = columns.get(field.name)
        if value is None:
            value = pa.nulls(len(k), field.type) if field.nullable else pa.array(np.zeros(len(k), bool))
        made[field.name] = value
    return pa.table(made, schema=INDEX)


def main() -> None:
    posts = int(sys.argv[1]) if len(sys.argv) > 1 else 400_000
    bare = "ids" in sys.argv
    Path("/proc/self/clear_refs").write_text("5")
    before, began = held("VmRSS"), time.monotonic()
    index = pa.concat_tables(lean_index(part(number, posts, bare)) for number in range(-(-posts // PART_POSTS)))
    print(f"index: {index.nbytes / posts:.0f} bytes a post, peak {(held('VmHWM') - before) / posts:.0f}")
    decided = partition_posts(index, np.zeros(posts, bool), SplitSection(), VocabularySection(), 0, frozenset())
    print(f"decided: peak {(held('VmHWM') - before) / posts:.0f} bytes a post")
    print(content_hash(index, decided.split_of, {}), decided.posts, len(decided.vocabulary))
    print(
        f"hashed: peak {(held('VmHWM') - before) / posts:.0f} bytes a post, {time.monotonic() - began:.0f} s, {held('VmHWM') / 2**30:.2f} GiB in all"
    )


if __name__ == "__main__":
    main()
