"""A dataset whose features are known."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hashtag_core import schema
from hashtag_core.data.dataset import Dataset
from hashtag_core.data.feature_cache import FeatureCache, FeatureKind
from hashtag_core.data.vocabulary import Vocabulary

KINDS = {
    "image_vector": FeatureKind("image", "eye/r1/image_vector", 3),
    "image_grid": FeatureKind("image", "eye/r1/image_grid", 3, rows=4),
    "text_vector": FeatureKind("caption", "reader/r1/text_vector", 5),
    "text_states": FeatureKind("caption", "reader/r1/text_states", 5, rows=0),
}


BOXES = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)


def key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def values_of(text: str) -> dict[str, np.ndarray]:
    """Any numbers that follow from the content."""
    rng = np.random.default_rng(int(key(text)[:8], 16))
    return {
        "image_vector": rng.normal(size=3).astype(np.float16),
        "image_grid": rng.normal(size=(4, 3)).astype(np.float16),
        "text_vector": rng.normal(size=5).astype(np.float16),
        "text_states": rng.normal(size=(int(rng.integers(1, 6)), 5)).astype(np.float16),
    }


def write(cache: FeatureCache, kind: str, texts: list[str]) -> None:
    found = [values_of(text)[kind] for text in texts]
    lengths = None
    if kind == "text_states":
        lengths = np.array([len(value) for value in found])
        found = [np.pad(value, ((0, 7 - len(value)), (0, 0)), constant_values=9) for value in found]
    cache.write(kind, [key(text) for text in texts], np.stack(found), lengths)


def posts(count: int) -> list[dict]:
    """Images repeat every 7 posts, captions every 5; some posts lack one or the other."""
    return [
        {
            "post_id": f"p{n}",
            "user_id": None if n % 6 == 5 else f"u{n % 3}",
            "caption": None if n % 4 == 3 else f"caption {n % 5}",
            "hashtags": ["b", "unknown", "a", "b"] if n % 2 else None,
            "image_key": None if n % 3 == 2 else key(f"image {n % 7}"),
            "caption_key": None if n % 4 == 3 else key(f"caption {n % 5}"),
        }
        for n in range(count)
    ]


def write_dataset(folder, rows, content_hash="abc", per_file=10) -> Dataset:
    files = []
    for start in range(0, len(rows), per_file):
        part = pa.Table.from_pylist(rows[start : start + per_file], schema=schema.PREPARED)
        path = folder / "train" / f"part-{start:05d}-x.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(part, path, row_group_size=4)
        files.append({"path": f"train/{path.name}", "rows": part.num_rows})
    info = {
        "format": 1,
        "content_hash": content_hash,
        "posts": {"train": len(rows), "validation": 0, "test": 0},
        "vocabulary": 2,
        "rejected": 0,
        "left_out": {},
        "config": {},
        "archive": "a",
        "fingerprint": "f",
        "files": files,
    }
    folder.mkdir(exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(info))
    return Dataset.open(str(folder))


VOCABULARY = Vocabulary.from_json({"tags": ["a", "b"], "counts": [1, 1], "posts": 2, "config": {}})


NEEDS = frozenset(KINDS) | {"tokens", "history"}


def expected(rows: list[dict], row: int, kind: str) -> np.ndarray | None:
    post = rows[row]
    if KINDS[kind].of == "caption":
        return values_of(post["caption"])[kind] if post["caption"] else None
    return values_of(f"image {row % 7}")[kind] if post["image_key"] else None
