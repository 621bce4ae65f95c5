"""What the tests of tagging share: models, and tagging without Ray."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from hashtag_core.tagging.chunk_posts import ChunkPosts
from hashtag_core.tagging.tag_chunks import ChunkTagger
from tests.distributed.in_process import tag_in_process
from tests.tagging.troubled import write_troubled


@pytest.fixture(autouse=True)
def _no_mlflow_of_the_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tagging command tells MLflow of its run: a test that has none of its own must not make one in the clone."""
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
def troubled(
    tmp_path_factory: pytest.TempPathFactory, make_posts: Callable, make_jpeg: Callable, write_part: Callable
) -> Path:
    """See `write_troubled`; not to be changed."""
    return write_troubled(tmp_path_factory.mktemp("troubled"), make_posts, make_jpeg, write_part)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """No post whose caption says "no score" can be scored."""
    recommend = ChunkTagger._recommend

    def fails(tagger: ChunkTagger, posts: ChunkPosts, *arguments: Any) -> pa.Table:
        positions = arguments[1] if len(arguments) > 1 else range(len(posts.rows))
        if any("no score" in (posts.opened.captions[at] or "") for at in positions):
            raise ValueError("cannot be scored")
        return recommend(tagger, posts, *arguments)

    monkeypatch.setattr(ChunkTagger, "_recommend", fails)
