"""Posts at the edge, all the way: prepared, trained on, evaluated and tagged.

Captions of 100,000 characters (words, one word, nothing but hashtags), 500 hashtags on one post, users that training has not
seen, users of 10,000 posts, and steps in which no post has a tag of the vocabulary (a step is one post). `make soak` does it
with every family; here it is the one that reads all there is and learns in two ways at once.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from hashtag_core.config import Recipe
from hashtag_core.data.captions import MAX_CHARACTERS
from hashtag_core.data.dataset import SPLITS, Dataset
from hashtag_core.distributed.evaluate import evaluate
from hashtag_core.distributed.prepare import prepare
from hashtag_core.distributed.tag import tag
from hashtag_core.distributed.train import train
from hashtag_core.models import family, list_models
from hashtag_core.preparation.plan import plan_prepare
from hashtag_core.tagging.plan import plan_tagging
from hashtag_core.tagging.planned_work import TagRequest
from hashtag_core.tracking.registry import resolve_model

pytestmark = pytest.mark.slow

LENGTH = 100_000
TAGS = [f"many{n}" for n in range(498)]

RECIPE = {
    "vocabulary": {"min_count": 3},
    "split": {"kind": "by_user", "validation": 0.25, "test": 0.25},
    "evaluation": {"ks": [1, 5], "bootstrap_samples": 20},
    "tagging": {"chunk_rows": 16, "actors": 1, "top_k": 5},
    "training": {"epochs": 1, "batch_size": 1, "max_tags": 600, "precision": "float32", "select_metric": "f1_at_5"},
}
IS_SOAK = "SOAK_KILLS" in os.environ
FAMILIES = list_models() if IS_SOAK else ["popularity"]


def extreme(posts: list[dict[str, Any]], user: str) -> list[dict[str, Any]]:
    """Six posts of a user, four of them at the edge; the others have no tag that anybody else uses."""
    texts = [
        "word " * (LENGTH // 5),
        "x" * LENGTH,
        " ".join(f"#tag{n % 200:06d}" for n in range(LENGTH // 11)),
        None,
        "short",
        "",
    ]
    for post, text in zip(posts, texts, strict=True):
        post |= {"caption": text and f"{user} {text}", "user_id": user, "hashtags": [f"{post['post_id']}only"]}
    posts[0]["hashtags"] = ["common", "usual", *TAGS]
    posts[1]["hashtags"] = ["common"]
    posts[2]["hashtags"] = None
    posts[3] |= {"hashtags": ["usual"], "image": None}
    return posts


def recipe_of(name: str, place: Path, **sections: dict[str, Any]) -> Recipe:
    values = {**RECIPE, "model": {"family": name, **family(name).examples["default"]}}
    values["training"] = {**RECIPE["training"], "storage": str(place / "runs")}
    return Recipe.model_validate({key: {**value, **sections.get(key, {})} for key, value in values.items()})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("extreme")


@pytest.fixture(scope="module")
def dataset(place: Path, ray_session: None, make_posts: Callable, write_archive: Callable[..., Path]) -> Dataset:
    """Eight users, on all sides of the split."""
    posts = [post for n in range(8) for post in extreme(make_posts(6, seed=n), f"user{n}")]
    archive = write_archive(place / "archive", posts)
    prepare(plan_prepare(Recipe.model_validate(RECIPE), str(archive), str(place / "dataset")))
    return Dataset.open(str(place / "dataset"))


def test_they_are_prepared(dataset: Dataset) -> None:
    assert sum(dataset.info.posts.values()) == 48
    assert min(dataset.info.posts.values()) >= 6
    assert {"common", "usual", "many0", "many497", "tag000001"} <= set(dataset.vocabulary.index)
    rows = [row for split in SPLITS for table in dataset.read(split) for row in table.to_pylist()]
    assert sum(len(row["hashtags"]) == 500 for row in rows) == 8
    assert max(len(row["caption"] or "") for row in rows) <= MAX_CHARACTERS
    assert sum(len(row["caption"] or "") > 0.9 * MAX_CHARACTERS for row in rows) == 16, "cut from 100,000"
    unknown = [not dataset.vocabulary.encode(row["hashtags"]) for row in rows]
    assert sum(unknown) == 16  # a third: in as many steps of one post there is no known tag


@pytest.mark.parametrize("name", FAMILIES)
def test_they_are_learned_from_evaluated_and_tagged(
    name: str,
    dataset: Dataset,
    place: Path,
    mlflow_store: Path,
    make_posts: Callable,
    write_archive: Callable[..., Path],
) -> None:
    recipe = recipe_of(name, place)
    model = train(recipe, dataset.uri).model
    found = evaluate(dataset.uri, [model], str(place / f"report-{name}"), recipe)
    assert 0 <= found["models"][0]["metrics"]["f1_at_5"] <= 1
    json.dumps(found, allow_nan=False)

    unseen = [post for n in range(2) for post in extreme(make_posts(6, seed=100 + n), f"unseen{n}")]
    unseen[-1]["user_id"] = None
    archive = write_archive(place / f"new-{name}", unseen, parts=1)
    summary = tag(plan_tagging(TagRequest(recipe, str(archive), str(place / f"out-{name}"), resolve_model(model))))
    assert (summary.tagged, summary.rejected) == (12, 0)
    rows = pl.read_parquet(f"{place}/out-{name}/model=*/version=*/**/part-*.parquet").to_dicts()
    assert {row["post_id"] for row in rows} == {post["post_id"] for post in unseen}
    assert all(len(row["hashtags"]) == len(row["scores"]) == 5 for row in rows)
    assert {row["status"] for row in rows} == {"ok", "caption_missing", "empty"}


@pytest.mark.skipif(not IS_SOAK, reason="encodes 20,000 posts: make soak")
@pytest.mark.parametrize("name", ["design", "macon", "tagnet", "user_frequency"])
def test_a_user_of_ten_thousand_posts(
    name: str, place: Path, ray_session: None, mlflow_store: Path, make_posts: Callable, write_archive: Callable
) -> None:
    """Captions alone: of one user 10,000, of ten others five each; tagged are as many again of the same user."""
    posts = make_posts(10_050)
    for n, post in enumerate(posts):
        user = "many" if n % 201 else f"few{n // 201 % 10}"
        tags = [f"tag{n % 7}", "often" if n % 3 else "seldom"]
        post |= {"image": None, "caption": f"post {n} of {user}", "user_id": user, "hashtags": tags}
    archive = write_archive(place / "many", posts)
    recipe = recipe_of(
        name,
        place,
        split={"kind": "by_time", "validation": 0.1, "test": 0.1},
        training={"batch_size": 64, "train_share": 0.1},
        tagging={"chunk_rows": 512},
    )
    prepare(plan_prepare(recipe, str(archive), str(place / "many_dataset")))
    model = train(recipe, str(place / "many_dataset")).model
    found = evaluate(str(place / "many_dataset"), [model], str(place / f"many-report-{name}"), recipe)
    assert found["models"][0]["metrics"]["f1_at_5"] > 0
    out = place / f"many-out-{name}"
    summary = tag(plan_tagging(TagRequest(recipe, str(archive), str(out), resolve_model(model))))
    assert (summary.tagged, summary.rejected) == (10_050, 0)
    rows = pl.read_parquet(f"{out}/model=*/version=*/**/part-*.parquet")
    assert rows["post_id"].n_unique() == 10_050
