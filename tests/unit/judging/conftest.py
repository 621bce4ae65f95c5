"""Posts with true tags."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashtag_core.config import read_recipe
from hashtag_core.data.dataset import SPLITS, Dataset
from hashtag_core.data.images import image_key
from hashtag_core.data.vocabulary import Vocabulary
from hashtag_core.evaluation.ground_truth import Truth, read_truths
from hashtag_core.schema import PREPARED
from tests.unit.judging.small_truth import POSTS


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory, make_jpeg: Callable[..., bytes]) -> Truth:
    """Six posts in the test split; the third and the last have no picture."""
    folder = tmp_path_factory.mktemp("few") / "dataset"
    for split in SPLITS:
        rows = []
        for n in range(POSTS if split == "test" else 1):
            image = None if n in (2, 5) else make_jpeg(n)
            key = None if image is None else image_key(image)
            tags = ["tag000", f"tag{n:03d}", "strange"]
            rows.append(
                {"post_id": f"{split}{n}", "image": image, "image_key": key, "hashtags": tags, "source": f"p#{n}"}
            )
        (folder / split).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=PREPARED), folder / split / "part-0.parquet")
    vocabulary = Vocabulary([f"tag{n:03d}" for n in range(40)], np.arange(40, 0, -1), posts=40)
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary.to_json()))
    info = {
        "format": 1, "content_hash": "d" * 64, "posts": {split: POSTS if split == "test" else 1 for split in SPLITS},
        "vocabulary": 40, "rejected": 0, "left_out": {}, "config": {}, "archive": "here", "fingerprint": "f",
        "files": [{"path": f"{split}/part-0.parquet", "rows": POSTS if split == "test" else 1} for split in SPLITS],
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(info))
    return read_truths(Dataset.open(str(folder)), read_recipe(None))[0]


@pytest.fixture(scope="module")
def looking(tmp_path_factory: pytest.TempPathFactory, make_model_folder: Callable[..., Path]) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("models") / "look", family="show_attend_tell")
