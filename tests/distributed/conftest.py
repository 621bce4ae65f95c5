"""What the tests of tagging share: two models, and tagging without Ray."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashtag_core.data.dataset import SPLITS
from hashtag_core.data.vocabulary import Vocabulary
from hashtag_core.schema import PREPARED
from tests.distributed.in_process import tag_in_process


@pytest.fixture(autouse=True)
def _no_mlflow_of_the_clone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tagging command tells MLflow of its run: a test that has none of its own must not make one in the clone."""
    if request.module.__name__.rpartition(".")[2].startswith("test_tag"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")


@pytest.fixture(scope="session")
def linear(tmp_path_factory: pytest.TempPathFactory, make_model_folder: Callable[..., Path]) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("models") / "linear")


@pytest.fixture(scope="session")
def popularity(tmp_path_factory: pytest.TempPathFactory, make_model_folder: Callable[..., Path]) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("models") / "popularity", family="popularity")


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks are run in this process: for what is not Ray's affair."""

    tag_in_process(monkeypatch)


@pytest.fixture(scope="session")
def users_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 400 posts, written as `prepare` writes them, no pictures, no captions: 40 users of eight posts who keep to two tags of
    their own, and 80 users of one post."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for n in range(400):
        user = n % 40 if n < 320 else n
        own = [f"topic{user % 16}", f"topic{(user * 7 + 3) % 16}"] if n < 320 else [f"topic{rng.integers(16)}"]
        post = {
            "post_id": f"p{n:04d}",
            "user_id": f"u{user}",
            "created_at": 1_600_000_000_000_000 + n * 60_000_000,
            "hashtags": [*dict.fromkeys(own), *(["common"] if rng.random() < 0.6 else [])],
            "source": f"part.parquet#{n}",
        }
        rows[str(rng.choice(SPLITS, p=[0.5, 0.1, 0.4]))].append(post)
    folder = tmp_path_factory.mktemp("users") / "dataset"
    for split, held in rows.items():
        (folder / split).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(held, schema=PREPARED), folder / split / "part-0.parquet")
    counts = Counter(tag for post in rows["train"] for tag in post["hashtags"])
    vocabulary = Vocabulary(list(counts), np.array(list(counts.values())), posts=len(rows["train"]))
    ranked = vocabulary.counts.argsort(kind="stable")[::-1]
    vocabulary = Vocabulary([vocabulary.tags[n] for n in ranked], vocabulary.counts[ranked], posts=vocabulary.posts)
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary.to_json()))
    info = {
        "format": 1, "content_hash": "d" * 64, "posts": {split: len(held) for split, held in rows.items()},
        "vocabulary": len(vocabulary), "rejected": 0, "left_out": {}, "config": {}, "archive": "here", "fingerprint": "f",
        "files": [{"path": f"{split}/part-0.parquet", "rows": len(held)} for split, held in rows.items()],
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(info))
    return folder
