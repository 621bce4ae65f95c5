"""What a model gave to the posts of a split, as a table."""

import json
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashtag_core.config import read_recipe
from hashtag_core.data.dataset import SPLITS, Dataset
from hashtag_core.data.images import image_key
from hashtag_core.data.vocabulary import Vocabulary
from hashtag_core.evaluation.ground_truth import Ranked, Truth, read_truths
from hashtag_core.evaluation.metrics import judge
from hashtag_core.judging.predictions import predictions
from hashtag_core.schema import PREPARED

POSTS = 6


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


def ranked(truth: Truth, lists: list[list[int]]) -> Ranked:
    scores_NK = np.linspace(0.9, 0.1, POSTS * 2, dtype=np.float32).reshape(POSTS, 2)
    has_image = np.array([n not in (2, 5) for n in range(POSTS)])
    return Ranked(judge(lists, truth.tags, 40), scores_NK, has_image, ["ok"] * 5 + ["empty"])


def test_predictions_by_hand(truth: Truth) -> None:
    table = predictions(ranked(truth, [[0, n or 3] for n in range(POSTS)]), truth, 3)
    assert table["post_id"] == ["test0", "test2", "test4"]
    assert table["true_hashtags"] == [
        ["tag000", "strange"],
        ["tag000", "tag002", "strange"],
        ["tag000", "tag004", "strange"],
    ]
    assert table["hashtags"] == [["tag000", "tag003"], ["tag000", "tag002"], ["tag000", "tag004"]]
    assert table["scores"][0] == pytest.approx([0.9, 0.9 - 0.8 / 11], abs=1e-5)
    assert table["status"] == ["ok", "ok", "ok"]
